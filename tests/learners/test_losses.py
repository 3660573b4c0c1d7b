"""The slate loss against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from learners.losses import listwise_softmax_loss, slate_log_loss


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def first(n_requests: int, n_candidates: int) -> Tensor:
    positive = torch.zeros(n_requests, n_candidates)
    positive[:, 0] = 1.0
    return positive


def test_equal_scores_cost_log_of_the_number_of_candidates() -> None:
    loss = listwise_softmax_loss(torch.full((3, 7), 2.5), first(3, 7), mask_BK=ones(3, 7))
    assert float(loss) == pytest.approx(math.log(7))


def test_two_candidates_are_a_logistic_loss() -> None:
    loss = slate_log_loss(torch.tensor([[1.5, 0.25]]), first(1, 2), mask_BK=ones(1, 2))
    assert float(loss) == pytest.approx(math.log1p(math.exp(-1.25)))


def test_masked_candidates_add_nothing_whatever_their_score() -> None:
    scores = torch.tensor([[1.0, 0.0, 80.0]])
    mask = torch.tensor([[True, True, False]])
    short = slate_log_loss(scores[:, :2], first(1, 2), mask_BK=mask[:, :2])
    assert float(slate_log_loss(scores, first(1, 3), mask_BK=mask)) == float(short)


def test_a_request_without_a_positive_costs_nothing_and_does_not_thin_the_mean() -> None:
    positive = first(2, 4)
    positive[1] = 0.0
    loss = listwise_softmax_loss(torch.zeros(2, 4), positive, mask_BK=ones(2, 4))
    assert float(loss) == pytest.approx(math.log(4))
    assert float(listwise_softmax_loss(torch.zeros(2, 4), torch.zeros(2, 4), mask_BK=ones(2, 4))) == 0.0


def test_an_empty_slate_has_neither_loss_nor_gradient() -> None:
    scores = torch.zeros(1, 4, requires_grad=True)
    loss = listwise_softmax_loss(scores, first(1, 4), mask_BK=~ones(1, 4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0
    assert scores.grad is not None and not scores.grad.any()


def test_the_gradient_is_softmax_minus_target() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    listwise_softmax_loss(scores, first(1, 3), mask_BK=ones(1, 3)).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.softmax(scores.detach(), 1) - first(1, 3))
