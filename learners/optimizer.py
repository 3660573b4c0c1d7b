"""Adam over one flat vector: a step goes over it once, and the state is two vectors and a number.

Legend: W weights.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from features.compiling import compiled

LEAST: Final = np.float32(1e-8)  # added to what is divided by


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamConfig:
    """How dense parameters learn."""

    rate: float = 4e-3
    """Step length."""
    decay: float = 1e-5
    """Share of every weight that a step takes away, relative to the rate (AdamW)."""
    memory: float = 0.9
    """Decay of the gradient's mean."""
    square_memory: float = 0.999
    """Decay of the gradient's mean square."""

    def __post_init__(self) -> None:
        for name, low, high in (("rate", 0, 1), ("decay", 0, 1), ("memory", 0, 0.9999), ("square_memory", 0, 0.999999)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"adam.{name}: expected {low} to {high}, got {getattr(self, name)}")


class Adam:
    """`step` in place.

    Source: Kingma and Ba, ICLR 2015; decoupled decay: Loshchilov and Hutter, ICLR 2019.
    """

    def __init__(self, weights: Tensor, config: AdamConfig) -> None:
        self._weights = weights
        self._config = config
        self.mean = torch.zeros_like(weights)
        self.square = torch.zeros_like(weights)
        self.n_steps = 0

    def step(self, gradient: Tensor, share: float = 1.0) -> None:
        """Move the weights against the gradient, by this share of a full step."""
        config = self._config
        rate = config.rate * share
        self.n_steps += 1
        how = (
            *(1 - config.memory, config.square_memory, 1 - config.square_memory),
            1 - config.square_memory**self.n_steps,
            *(1 - rate * config.decay, rate / (1 - config.memory**self.n_steps)),
        )
        vectors = self._weights.numpy(), self.mean.numpy(), self.square.numpy(), gradient.numpy()
        _move(*vectors, tuple(map(np.float32, how)))

    def load(self, mean: Tensor, square: Tensor, n_steps: int) -> None:
        """Go on from a saved state."""
        self.mean.copy_(mean)
        self.square.copy_(square)
        self.n_steps = n_steps


@compiled()
def _move(weight_W: Any, mean_W: Any, square_W: Any, gradient_W: Any, how: Any) -> None:
    """One step.

    Args:
        how: Share of the gradient in its mean; shares in the mean square of what was and of the gradient; how far that
            is from its beginning at 0; what is left of a weight; and the length of the step.
    """
    new, old_square, new_square, known, kept, rate = how
    for w in range(len(weight_W)):
        gradient = gradient_W[w]
        mean_W[w] += new * (gradient - mean_W[w])
        square_W[w] = old_square * square_W[w] + new_square * gradient * gradient
        weight_W[w] = kept * weight_W[w] - rate * mean_W[w] / (np.sqrt(square_W[w] / known) + LEAST)
