"""Adam over one flat vector: five vector operations a step, and a state that is two vectors and a number."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
        self.mean.lerp_(gradient, 1 - config.memory)
        self.square.mul_(config.square_memory).addcmul_(gradient, gradient, value=1 - config.square_memory)
        spread = (self.square / (1 - config.square_memory**self.n_steps)).sqrt_().add_(1e-8)
        self._weights.mul_(1 - rate * config.decay)
        self._weights.addcdiv_(self.mean, spread, value=-rate / (1 - config.memory**self.n_steps))

    def load(self, mean: Tensor, square: Tensor, n_steps: int) -> None:
        """Go on from a saved state."""
        self.mean.copy_(mean)
        self.square.copy_(square)
        self.n_steps = n_steps
