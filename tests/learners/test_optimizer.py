"""Adam against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.optimizer import Adam, AdamConfig

steps = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20)


@given(steps, st.floats(0.1, 1.0))
def test_steps_are_those_of_adam_with_decoupled_decay(gradients: list[float], share: float) -> None:
    config = AdamConfig(rate=0.05, decay=0.1)
    weights = torch.tensor([1.0, -2.0])
    adam = Adam(weights, config)
    weight, mean, square = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for number, value in enumerate(gradients, 1):
        gradient = np.array([value, 1.0])
        adam.step(torch.tensor(gradient, dtype=torch.float32), share)
        mean = config.memory * mean + (1 - config.memory) * gradient
        square = config.square_memory * square + (1 - config.square_memory) * gradient**2
        spread = np.sqrt(square / (1 - config.square_memory**number)) + 1e-8
        weight *= 1 - share * config.rate * config.decay
        weight -= share * config.rate * mean / (1 - config.memory**number) / spread
    np.testing.assert_allclose(weights.numpy(), weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(adam.mean.numpy(), mean, rtol=1e-4, atol=1e-6)
    assert adam.n_steps == len(gradients)


def test_it_goes_on_from_a_saved_state() -> None:
    one, other = torch.ones(3), torch.ones(3)
    first, second = Adam(one, AdamConfig()), Adam(other, AdamConfig())
    for value in (1.0, -0.5):
        first.step(torch.full((3,), value))
    other.copy_(one)
    second.load(first.mean, first.square, first.n_steps)
    for adam in (first, second):
        adam.step(torch.full((3,), 0.25))
    assert one.tolist() == other.tolist() and one[0] != pytest.approx(1.0)
