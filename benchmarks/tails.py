"""What a tail, a recovery, a drift and a paired difference are, computed from measured values.

Pure. Intervals are 95 %. Not here: independence of what is resampled; pairs and windows of one run share its luck.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.latency import Trace, percentiles

REPLICATES: Final = 10_000
CALM: Final = 10  # probes in a row that make a recovery


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float

    def text(self, unit: str = "") -> str:
        """As it is printed."""
        return f"{self.value:.3g}{unit} [{self.low:.3g}, {self.high:.3g}]"


def median_ratio(ones: Sequence[float], others: Sequence[float], seed: int = 7) -> Interval:
    """Median of the ratios of pairs; bootstrap over pairs.

    Raises:
        ValueError: If there are no pairs.
    """
    if not ones:
        raise ValueError("a ratio needs a pair")
    ratios = np.asarray(ones, dtype=np.float64) / np.asarray(others, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(REPLICATES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Interval(float(np.median(ratios)), float(low), float(high))


def slope(times: Sequence[float], values: Sequence[float]) -> Interval:
    """Least-squares slope, per unit of time; NaN ends with fewer than three points.

    The interval takes deviations from the line as independent.
    """
    x, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return Interval(math.nan, math.nan, math.nan)
    centred = x - x.mean()
    found = float((centred * y).sum() / (centred**2).sum())
    if len(x) < 3:
        return Interval(found, math.nan, math.nan)
    residuals = y - y.mean() - found * centred
    error = math.sqrt(float((residuals**2).sum()) / (len(x) - 2) / float((centred**2).sum()))
    return Interval(found, found - 1.96 * error, found + 1.96 * error)


def recovery_s(probe: Trace, before_s: float, ended_s: float) -> float:
    """Seconds from the end of an overload until a probe's latency is within its range before; infinity if never.

    Its range: up to the p99 of what was due before `before_s`. It is back with the first of ten probes in a row that
    are answered within it.

    Args:
        before_s: Start of the overload, on the probe's own time.
        ended_s: Its end.
    """
    order = np.argsort(probe.at_s)
    at_s, latency_s, status = probe.at_s[order], probe.latency_s[order], probe.status[order]
    is_good = (status >= 200) & (status < 300)
    (limit_s,) = percentiles(latency_s[is_good & (at_s < before_s)], (0.99,))
    is_calm = is_good & (latency_s <= limit_s)
    after = np.flatnonzero(at_s >= ended_s)
    for first in after[: len(after) - CALM + 1]:
        if is_calm[first : first + CALM].all():
            return float(at_s[first] - ended_s)
    return math.inf
