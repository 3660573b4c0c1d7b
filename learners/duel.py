"""Does one model lose more than another, on the same examples? Told as soon as it can be, however often one looks.

    how much more the first one lost on a batch ──► evidence that it is more than is tolerated

Evidence is what a gambler has who bets on that, batch after batch, and begins anew with every batch, so that a change
is found whenever it comes (e-detector of Shiryaev and Roberts' kind):

    R_t = (R_{t-1} + 1) (1 + b (d_t - tolerance)),   d_t the difference of mean losses, cut to ±LIMIT

for some stakes b, of which the mean counts. As long as no batch is expected to lose more than is tolerated given those
before it, an alarm comes after 1 / `alarms` batches on the average, or later. Nothing else is supposed: neither a
distribution, nor that batches are alike.

Not known here: what the models are.

Source: Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2024.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

LIMIT: Final = 0.25  # a single batch does not decide
STAKES: Final = np.array([0.05, 0.2, 0.5, 1.0, 2.0, 3.0])
"""Of what there is, for each unit of loss more than tolerated; 1 / (LIMIT + tolerance) would be all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuelConfig:
    """When the first one counts as worse."""

    tolerance: float = 0.01
    """Mean loss by which it may be worse."""
    alarms: float = 1e-6
    """Bound of the share of batches at which an alarm comes though it is not."""

    def __post_init__(self) -> None:
        for name, low, high in (("tolerance", 0.0, 0.05), ("alarms", 1e-12, 0.1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"duel.{name}: expected {low} to {high}, got {getattr(self, name)}")


class Duel:
    """`add` batches, one after the other."""

    def __init__(self, config: DuelConfig) -> None:
        self._config = config
        self._evidence = np.zeros(len(STAKES))
        self.n_batches = 0
        self.mean = 0.0
        """By how much the first one lost more, on the average over all batches."""

    @property
    def evidence(self) -> float:
        """1 is the alarm."""
        return float(self._evidence.mean()) * self._config.alarms

    def add(self, difference: float) -> bool:
        """Take in by how much more the first one lost on a batch; what is not finite counts against it.

        Returns:
            Whether it is worse.
        """
        difference = min(max(difference, -LIMIT), LIMIT) if np.isfinite(difference) else LIMIT
        self.n_batches += 1
        self.mean += (difference - self.mean) / self.n_batches
        factor = 1.0 + STAKES * (difference - self._config.tolerance)
        self._evidence = np.minimum((self._evidence + 1.0) * factor, 1e30)
        return self.evidence >= 1.0
