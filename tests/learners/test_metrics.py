"""What a ranking is worth, in closed form; and what must not change it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.metrics import (
    RANK_METRICS,
    People,
    areas,
    calibration_of_all,
    calibration_of_first,
    discounted_gains,
    hits,
    log_losses,
    per_query,
    reciprocal_ranks,
    softmax,
    uniform_log_losses,
)

MEASURES = (reciprocal_ranks, hits, discounted_gains, areas, log_losses)
slates = st.lists(st.integers(-3, 3), min_size=2, max_size=30)


def scores_of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def test_rank_metrics_count_from_the_best_and_end_after_ten() -> None:
    scores, true = -np.arange(20.0)[None].repeat(4, axis=0), np.array([0, 1, 9, 10])
    assert reciprocal_ranks(scores, true).tolist() == pytest.approx([1.0, 1 / 2, 1 / 10, 0.0])
    assert hits(scores, true).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert discounted_gains(scores, true).tolist() == pytest.approx([1.0, 1 / np.log2(3), 1 / np.log2(11), 0.0])
    assert areas(scores, true).tolist() == pytest.approx([1.0, 18 / 19, 10 / 19, 9 / 19])


def test_ties_are_worth_their_expectation() -> None:
    scores, true = scores_of([5.0, 1.0, 1.0, 0.0]), np.array([2])
    assert reciprocal_ranks(scores, true)[0] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert discounted_gains(scores, true)[0] == pytest.approx((1 / np.log2(3) + 1 / np.log2(4)) / 2)
    assert areas(scores, true)[0] == pytest.approx(1 - 1.5 / 3)


def test_a_tie_across_the_tenth_place_is_half_a_hit() -> None:
    scores = scores_of([*range(20, 11, -1), 1.0, 1.0, 0.0])
    assert hits(scores, np.array([10]))[0] == pytest.approx(1 / 2)


def test_the_log_loss_is_that_of_the_softmax() -> None:
    assert log_losses(scores_of([np.log(3.0), 0.0]), np.array([0]))[0] == pytest.approx(-np.log(3 / 4))
    assert log_losses(scores_of([0.0] * 100), np.array([7]))[0] == pytest.approx(np.log(100))
    assert uniform_log_losses(scores_of([3.0, 1.0, -np.inf])).tolist() == pytest.approx([np.log(2)])


def test_a_great_logit_overflows_nothing() -> None:
    assert log_losses(scores_of([1e4, 0.0]), np.array([1])).tolist() == [1e4]


@given(slates)
def test_the_order_of_candidates_decides_nothing(scores: list[int]) -> None:
    order = np.random.default_rng(len(scores)).permutation(len(scores))
    plain, moved = scores_of([float(score) for score in scores]), np.flatnonzero(order == 0)[:1]
    for measure in MEASURES:
        assert measure(plain, np.array([0])) == pytest.approx(measure(plain[:, order], moved))


@given(slates)
def test_rank_metrics_know_only_the_order_of_scores(scores: list[int]) -> None:
    plain, true = scores_of([float(score) for score in scores]), np.array([0])
    before = per_query(plain, true, has_probabilities=False)
    after = per_query(np.exp(2 * plain) - 5, true, has_probabilities=False)
    assert before.keys() == set(RANK_METRICS)
    for name in RANK_METRICS:
        assert after[name] == pytest.approx(before[name])


@given(slates, st.floats(-50, 50))
def test_a_shift_of_all_scores_changes_no_probability(scores: list[int], shift: float) -> None:
    plain = scores_of([float(score) for score in scores])
    np.testing.assert_allclose(softmax(plain + shift), softmax(plain), rtol=1e-9)


@given(slates, st.integers(1, 5))
def test_slots_without_a_candidate_change_nothing(scores: list[int], n_empty: int) -> None:
    plain = scores_of([float(score) for score in scores])
    padded = np.concatenate([plain, np.full((1, n_empty), -np.inf)], axis=1)
    for measure in MEASURES:
        assert measure(padded, np.array([0])) == pytest.approx(measure(plain, np.array([0])))


def test_the_interval_is_that_of_people_not_of_queries() -> None:
    """A thousand queries of one person are one person's."""
    values = np.array([1.0] * 1000 + [0.0] * 10)
    figure = People(np.array(["alike"] * 1000 + [f"u{n}" for n in range(10)])).interval(values)
    assert figure.mean == pytest.approx(1000 / 1010)
    assert figure.low < 0.1 and figure.high > 0.99


def test_the_interval_of_many_people_is_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 4000)
    mean, low, high = People(np.arange(4000)).interval(values)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


def test_an_interval_of_some_queries_counts_only_those() -> None:
    values, where = np.array([1.0, 5.0, 1.0, 7.0]), np.array([True, False, True, False])
    assert People(np.arange(4)).interval(values, where)[0] == 1.0
    with pytest.raises(ValueError, match="expected at least one query"):
        People(np.arange(4)).interval(values, np.zeros(4, np.bool_))


def simulated(n_queries: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and true columns drawn from the softmax of `sharpness` times them: overconfident below 1."""
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 1.5, (n_queries, 20))
    noise = rng.gumbel(size=scores.shape)
    return scores, (sharpness * scores + noise).argmax(axis=1)


@pytest.mark.parametrize("measure", [calibration_of_all, calibration_of_first])
def test_who_calls_true_probabilities_has_no_calibration_error(measure) -> None:
    scores, true = simulated(20_000, sharpness=1.0)
    found = measure(scores, true, People(np.arange(20_000)))
    np.testing.assert_allclose(found.called, found.seen, atol=0.03)
    assert found.error.mean < 0.015  # chance alone makes .009 of 2,000 in each bin
    assert len(found.n) == 10 and sum(found.n) == (scores.size if measure is calibration_of_all else len(scores))


def test_overconfidence_shows_in_what_is_ranked_first() -> None:
    scores, true = simulated(20_000, sharpness=0.5)
    found = calibration_of_first(scores, true, People(np.arange(20_000)))
    assert found.error.low > 0.15
    assert (np.array(found.called) > np.array(found.seen)).all()


def test_probabilities_that_are_all_alike_share_a_bin() -> None:
    scores, people = np.zeros((100, 4)), People(np.arange(100))
    found = calibration_of_all(scores, np.arange(100) % 4, people)
    assert (found.called, found.seen, found.n) == ([0.25], [0.25], [400.0])
    assert found.error.mean == pytest.approx(0.0)
