"""What predicted rates of reward are worth: ratios to what came, with intervals, and log loss. Pure.

Not here: who predicted, and when.
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from learners.metrics import F64, N_BINS
from learners.off_policy import NORMAL_95

CERTAIN: Final = 1e-7  # a rate comes as float32, which rounds what is nearer to 1 than this
Bools = NDArray[np.bool_]


class Bin(NamedTuple):
    """Impressions that were given about the same rate."""

    n: int
    n_clicks: int
    predicted: float
    came: float
    low: float
    high: float
    """Ends of the interval of `came`."""

    @property
    def ratio(self) -> float:
        """Predicted to came; infinite where nothing came."""
        return self.predicted / self.came if self.came else math.inf


def wilson(n_hits: int, n: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share.

    Source: Wilson, 1927; closed under few hits, where mean ± is not.
    """
    z2 = NORMAL_95**2
    middle = (n_hits + z2 / 2) / (n + z2)
    half = NORMAL_95 / (n + z2) * (n_hits * (n - n_hits) / n + z2 / 4) ** 0.5
    return middle - half, middle + half


def bins(predicted: F64, is_clicked: Bools, n_bins: int = N_BINS) -> list[Bin]:
    """Bins of equally many, by what was predicted; equal predictions share one."""
    ends = np.quantile(predicted, np.arange(1, n_bins) / n_bins)
    place = np.searchsorted(ends, predicted, side="right")
    return [_bin(predicted[place == number], is_clicked[place == number]) for number in np.unique(place)]


def _bin(predicted: F64, is_clicked: Bools) -> Bin:
    n, n_clicks = len(predicted), int(is_clicked.sum())
    return Bin(n, n_clicks, float(predicted.mean()), n_clicks / n, *wilson(n_clicks, n))


def log_loss(rate: F64, is_clicked: Bools) -> float:
    """Mean of -log of the probability of what came; no rate is taken to be nearer to 0 or 1 than `CERTAIN`."""
    rate = np.clip(rate, CERTAIN, 1.0 - CERTAIN)
    return float(-np.log(np.where(is_clicked, rate, 1.0 - rate)).mean())


def shifted(rate: F64, log_odds: float) -> F64:
    """The rate with its log odds moved."""
    found: F64 = rate / (rate + (1.0 - rate) * np.exp(-log_odds))
    return found


def judged(rate: F64, shown_rate: F64, is_clicked: Bools, log_odds_shift: float) -> dict[str, Any]:
    """What predicted rates are worth.

    Args:
        rate, shown_rate: Of each impression, as predicted and as it is.
        log_odds_shift: The correction that is in them.
    """
    whole, deciles = _bin(rate, is_clicked), bins(rate, is_clicked)
    return {
        "whole": whole,
        "deciles": deciles,
        "worst": max((one.ratio for one in deciles[len(deciles) // 2 :]), key=lambda ratio: abs(ratio - 1.0)),
        "uncorrected": float(shifted(rate, log_odds_shift).mean()) / whole.came,
        "log_loss": log_loss(rate, is_clicked),
        "log_loss_of_true_rates": log_loss(shown_rate, is_clicked),
    }
