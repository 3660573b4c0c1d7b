"""The losses against closed forms and against autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.losses import ListwiseLoss, PointwiseLoss


def listwise(scores: list[list[float]], mask: list[list[bool]] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Losses [B] and gradient [B, K]."""
    scores_BK = np.array(scores, dtype=np.float32)
    mask_BK = np.ones(scores_BK.shape, dtype=bool) if mask is None else np.array(mask)
    loss, gradient_BK = ListwiseLoss(1.0), np.full_like(scores_BK, 9.0)
    loss(scores_BK, mask_BK, gradient_BK)
    return loss.losses, gradient_BK


def pointwise(
    scores_BK: np.ndarray, is_shown: list[bool], reward: list[float], shift: float = 0.0, places: float = -1.0
) -> tuple[PointwiseLoss, np.ndarray]:
    """The loss after its use, every slate shown from place 0 on with one reward for all, and the gradient [B, K]."""
    reward_BK = np.repeat(np.array(reward, dtype=np.float32)[:, None], scores_BK.shape[1], axis=1)
    return used(scores_BK, is_shown, reward_BK, shift, places)


def rewarded(scores_BK: np.ndarray, reward_K: np.ndarray, shift: float) -> np.ndarray:
    """Gradient [B, K] of rewards that come late; places add nothing."""
    reward_BK = np.tile(reward_K.astype(np.float32), (len(scores_BK), 1))
    return used(scores_BK, [False] * len(scores_BK), reward_BK, shift, 0.0)[1]


def used(
    scores_BK: np.ndarray, is_shown: list[bool], reward_BK: np.ndarray, shift: float, places: float
) -> tuple[PointwiseLoss, np.ndarray]:
    """`places` is what the third and later ones add, the second half of that."""
    place_BK = np.tile(np.arange(scores_BK.shape[1]), (len(scores_BK), 1))
    shown_at = np.linspace(0.0, places, 3, dtype=np.float32), np.zeros(3, dtype=np.float32)
    loss = PointwiseLoss(1.0, place_BK, np.array(is_shown), reward_BK, shift, shown_at)
    gradient_BK = np.full_like(scores_BK, 9.0)
    loss(scores_BK, np.ones(scores_BK.shape, dtype=bool), gradient_BK)
    return loss, gradient_BK


def test_equal_scores_cost_log_of_the_number_of_candidates() -> None:
    losses, gradient = listwise([[2.5] * 7] * 3)
    assert losses == pytest.approx(math.log(7))
    assert gradient[0].tolist() == pytest.approx([1 / 7 - 1, *[1 / 7] * 6])


def test_two_candidates_are_a_logistic_loss() -> None:
    losses, _ = listwise([[1.5, 0.25]])
    assert float(losses[0]) == pytest.approx(math.log1p(math.exp(-1.25)))


def test_masked_candidates_add_nothing_whatever_their_score() -> None:
    losses, gradient = listwise([[1.0, 0.0, 80.0]], [[True, True, False]])
    short, expected = listwise([[1.0, 0.0]])
    assert losses[0] == short[0] and gradient[0].tolist() == [*expected[0].tolist(), 0.0]


@given(st.lists(st.lists(st.floats(-50, 50), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_gradient_is_that_of_autograd(rows: list[list[float]]) -> None:
    scores = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(scores, torch.zeros(len(rows), dtype=torch.int64), reduction="none")
    expected.sum().backward()  # type: ignore[no-untyped-call]
    losses, gradient = listwise(rows)
    assert scores.grad is not None
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, scores.grad.numpy(), atol=1e-5)


def test_an_impression_pulls_by_its_predicted_rate_less_its_reward() -> None:
    scores = np.array([[-1.0, 2.0], [0.5, 0.5]], dtype=np.float32)
    loss, gradient = pointwise(scores, [True, True], [0.0, 1.0])
    rates = 1 / (1 + np.exp(-scores - np.array([0.0, -0.5])))
    np.testing.assert_allclose(loss.rates, rates, rtol=1e-6)
    np.testing.assert_allclose(gradient, rates - np.array([[0.0], [1.0]]), rtol=1e-6)


@pytest.mark.parametrize("is_shown", [[True, True], [False, True], [False, False]])
def test_a_loss_that_says_it_only_compares_adds_up_to_zero_over_each_slate(is_shown: list[bool]) -> None:
    scores_BK, reward_BK = np.float32([[0.3, -1.0, 2.0], [0.1, 0.0, -0.5]]), np.float32([[0, 1, 0], [1, 0, 0]])
    loss, gradient_BK = used(scores_BK, is_shown, reward_BK, 0.0, -1.0)
    assert loss.is_relative == (not any(is_shown))
    assert loss.is_relative == bool((np.abs(gradient_BK.sum(axis=1)) < 1e-6).all())
    assert ListwiseLoss.is_relative and np.abs(listwise([[0.3, -1.0, 2.0]])[1].sum()) < 1e-6


def test_shown_is_the_logistic_loss() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.1]], requires_grad=True)
    places = torch.tensor([0.0, -0.5, -1.0, -1.0]) + 0.25
    target = torch.full((1, 4), 0.6)
    torch.nn.functional.binary_cross_entropy_with_logits(scores + places, target, reduction="sum").backward()  # type: ignore[no-untyped-call]
    _, gradient = pointwise(scores.detach().numpy(), [True], [0.6], shift=0.25)
    assert scores.grad is not None
    np.testing.assert_allclose(gradient, scores.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("kept", [1.0, 0.1])
def test_with_late_rewards_the_rates_of_all_are_learned_whichever_items_have_them(kept: float) -> None:
    """At the true log odds the mean gradient over what is learned from is zero."""
    rate_K, late_K = np.array([0.002, 0.004, 0.001]), np.array([0.05, 0.3, 0.2])
    late_share = float(rate_K @ late_K / rate_K.sum())
    scores = np.log(rate_K / (1 - rate_K))[None].astype(np.float32)
    shift = -math.log(kept) + math.log(1 - late_share)
    in_time_K = rate_K * (1 - late_K)
    _, negative = pointwise(scores, [True], [0.0], shift=shift, places=0.0)
    _, positive = pointwise(scores, [True], [1.0], shift=shift, places=0.0)
    total = in_time_K * positive[0] + kept * (1 - in_time_K) * negative[0]
    for k in range(3):
        late = rewarded(scores, np.eye(3)[k], shift)
        assert abs(float(late.sum())) < 1e-6
        total += rate_K[k] * late_K[k] * late[0]
    assert np.abs(total).max() < 0.03 * rate_K.min()


def test_what_a_place_adds_is_learned_but_for_the_first() -> None:
    loss, gradient = pointwise(np.zeros((2, 4), dtype=np.float32), [True, True], [0.0, 0.5])
    dplace = loss.shown_at[1]
    np.testing.assert_allclose(dplace, [0.0, gradient[:, 1].sum(), gradient[:, 2:].sum()], rtol=1e-6)


@pytest.mark.parametrize("kept", [1.0, 0.1])
def test_with_negatives_thinned_out_the_logit_is_still_that_of_everything_shown(kept: float) -> None:
    """At the true log odds the gradient over all that is kept is zero."""
    rate, n_shown = 0.03, 100_000
    score = np.array([[math.log(rate / (1 - rate))]], dtype=np.float32)
    _, negative = pointwise(score, [True], [0.0], shift=-math.log(kept))
    _, positive = pointwise(score, [True], [1.0], shift=-math.log(kept))
    total = n_shown * (rate * positive + kept * (1 - rate) * negative)
    assert abs(float(total[0, 0])) < 1e-3 * n_shown * rate
