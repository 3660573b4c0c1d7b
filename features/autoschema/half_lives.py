"""Half-lives on one ladder of round durations, and which rungs of it a stream asks for.

A rung is three to six times the one before; half-lives closer together say nearly the same. A ladder covers the rungs
that the best mixture of predictions draws from (`forecast`), and one more on each side: the network also
ranks what few events are about, items long forgotten and items of the last seconds, and a mean over events hardly
hears of them. A rung costs four bytes a row.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0
LADDER: Final = (
    1.0, 5.0, 30.0, 2 * MINUTE_S, 10 * MINUTE_S, 30 * MINUTE_S, 2 * HOUR_S, 6 * HOUR_S,
    DAY_S, 3 * DAY_S, 7 * DAY_S, 30 * DAY_S, 90 * DAY_S, 365 * DAY_S,
)  # fmt: skip
TAIL: Final = 0.02  # of the weights, on either side, that a ladder need not cover
N_RUNGS: Final = 8  # at most


def rungs_within(span_s: float) -> tuple[float, ...]:
    """The rungs that a span of time can tell apart: those it contains, and one that stands for all longer ones."""
    return LADDER[: int(np.searchsorted(LADDER, span_s)) + 1]


def nearest(seconds: float) -> float:
    """The rung that is nearest on a logarithmic scale."""
    return LADDER[int(np.argmin(np.abs(np.log(LADDER) - np.log(max(seconds, 1e-3)))))]


def rung_above(seconds: float) -> float:
    """The first rung that is longer, or the longest."""
    return next((rung for rung in LADDER if rung > seconds), LADDER[-1])


def covering(rungs: tuple[float, ...], weights: NDArray[Any], best: int) -> tuple[float, ...]:
    """The rungs that have the weight and the best one alone, with one more on each side.

    Args:
        weights: Of each rung in the best mixture.
        best: Number of the rung that is best alone.
    """
    low, high = (at_share(weights, share) for share in (TAIL, 1.0 - TAIL))
    low, high = max(min(low, best) - 1, 0), min(max(high, best) + 1, len(rungs) - 1)
    while high - low >= N_RUNGS:
        low, high = (low + 1, high) if best - low > high - best else (low, high - 1)
    return rungs[low : high + 1]


def around(rungs: tuple[float, ...], weights: NDArray[Any]) -> tuple[float, ...]:
    """The rung with most weight, and the second next on each side: enough where each rung is paid for many times."""
    best = int(np.argmax(weights))
    return tuple(rungs[at] for at in (best - 2, best, best + 2) if 0 <= at < len(rungs))


def at_share(weights: NDArray[Any], share: float) -> int:
    """The first rung up to which there is this share of all weight."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, share * total[-1])) if total[-1] > 0 else int(share > 0.5) * (len(weights) - 1)


def words(seconds: float) -> str:
    """A duration for people: `30 s`, `2 min`, `6 h`, `7 d`."""
    for unit, name in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
