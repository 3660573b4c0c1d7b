"""Laws of the running mean that serves, and of the lift of its bias."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.losses import PointwiseLoss
from learners.model import ModelConfig, RankingModel
from learners.parts import Part
from learners.served import HIGHEST, ServedMean
from tests.learners.examples import SCHEMA, inputs_of, learned, log, stream


@pytest.fixture
def model() -> RankingModel:
    return RankingModel(SCHEMA, ModelConfig(n_embedding=4, n_hidden=4))


def bias_of(model: RankingModel) -> float:
    return float(model.arrays_of("bias")[0][0])


@given(st.integers(0, 500), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_parts_of_a_step_move_it_as_far_as_the_whole(n_before: int, one: float, other: float) -> None:
    served = ServedMean(RankingModel(SCHEMA, ModelConfig(n_embedding=1, n_hidden=1)))
    left = (1.0 - served.pace(n_before, one)) * (1.0 - served.pace(n_before, other))
    assert 1.0 - served.pace(n_before, one + other) == pytest.approx(left)


def test_it_is_slow_in_the_end_and_quick_after_it_began_anew(model: RankingModel) -> None:
    served = ServedMean(model)
    paces = [served.pace(n_before, 1.0) for n_before in range(1000)]
    assert paces == sorted(paces, reverse=True) and paces[0] > 0.5 and paces[-1] == pytest.approx(0.01)
    served.since = 1000
    assert [served.pace(1000 + n, 1.0) for n in range(1000)] == paces


def test_it_comes_to_be_what_is_trained_and_its_bias_higher_by_the_lift(model: RankingModel) -> None:
    served, trained = ServedMean(model), torch.full_like(model.flat, 0.25)
    for number in range(2000):
        served.lift = 0.1 * (number % 7)
        served.follow(trained, served.pace(number, 1.0))
    assert bias_of(model) == pytest.approx(0.25 + served.lift, abs=1e-4)
    ServedMean(model, served.since, served.lift).follow(trained, 0.5)  # resumed
    assert bias_of(model) == pytest.approx(0.25 + served.lift, abs=1e-4)
    model.arrays_of("bias")[0][:] -= np.float32(served.lift)
    assert torch.allclose(model.flat, trained, atol=1e-4)


@pytest.mark.parametrize("missing", [-0.7, 0.4, 50.0])
def test_the_lift_makes_up_for_what_it_predicts_too_little(missing: float) -> None:
    """As far as it may: a mean that predicts nothing at all is not lifted to the sky."""
    learner = learned(log(stream(200)))
    inputs = inputs_of(learner, 5, 20)
    none = np.zeros((5, 20), dtype=np.float32)
    shown_at = np.zeros(50, dtype=np.float32), np.zeros(50, dtype=np.float32)
    loss = PointwiseLoss(1.0, np.zeros((5, 20), dtype=np.int64), np.ones(5, dtype=bool), none, 0.0, shown_at)
    part = Part(inputs, loss, inputs.mask, 100, [None] * 5, np.zeros(5, np.uint64))
    part.scores = learner.model.score(replace(inputs)) + np.float32(missing)
    served, before = ServedMean(learner.model), bias_of(learner.model)
    for _ in range(300):
        served.compare(part)
        served.keep_lifted(0.0)
    assert served.lift == pytest.approx(max(min(missing, HIGHEST), -HIGHEST), abs=0.01)
    assert bias_of(learner.model) - before == pytest.approx(served.lift, abs=1e-3) and math.isfinite(served.lift)
