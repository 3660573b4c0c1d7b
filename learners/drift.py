"""Has the world changed? Whether the mean of a stream of values has: over a window as long as it has not (ADWIN).

    values of steps ──► buckets, newest exact, older ones merged ──► does any cut divide two different means?

A cut between n0 older and n1 newer values divides them if their means differ by more than

    e = sqrt(2 m v L) + 2/3 m L,   m = 1/n0 + 1/n1,   L = log(2 log(n) / delta)

where v is the variance of all n. What is older than the clearest such cut is forgotten. The bound supposes values that
stay within one of each other; rare ones that do not make an alarm a little likelier.

The paper forgets one bucket at a time, until no cut divides what is left. That keeps a rest of before, too short to be
told from chance, which the next values are then told from again: one change is some ten alarms. Here it is one.

The window is an exponential histogram: at most `N_EQUAL` buckets of a size, sizes powers of two; so a window of a
million values is some ninety buckets of three numbers.

Only a mean that rises is an *alarm*: the values are losses. Not known here: what the values are, and what time it is.

Source: Bifet and Gavaldà, SDM 2007 (ADWIN2).

Legend: N buckets, oldest first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

N_EQUAL: Final = 5  # the paper's M: cuts are looked for at every fifth of a window
F64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftConfig:
    """When a change counts as one."""

    delta: float = 0.002
    """Bound of the chance of a false alarm, for one look at one window; as in River."""

    def __post_init__(self) -> None:
        if not 1e-9 <= self.delta <= 0.5:  # above it the logarithm of a short window is below 0
            raise ValueError(f"drift.delta: expected 1e-09 to 0.5, got {self.delta}")


class DriftDetector:
    """`add` the value of each step; the whole state is `state`, a list of floats."""

    def __init__(self, config: DriftConfig) -> None:
        self._config = config
        self._buckets_N3 = np.zeros((0, 3))  # number of values, their sum, the sum of their squares
        self.n_alarms = 0
        self.alarmed_ms = 0
        """Log time of the latest alarm; 0: there was none."""

    @property
    def n_values(self) -> int:
        """Length of the window."""
        return int(self._buckets_N3[:, 0].sum())

    def add(self, value: float, now_ms: int) -> bool:
        """Take in a value, and forget those of another time.

        Args:
            now_ms: Log time.
        Returns:
            Whether the mean has risen.
        """
        self._buckets_N3 = _merged(np.concatenate([self._buckets_N3, [[1.0, value, value * value]]]))
        has_risen = False
        while (cut := _clearest_cut(self._buckets_N3, self._config.delta)) is not None:
            n_older, rise = cut
            self._buckets_N3 = self._buckets_N3[n_older:]
            has_risen |= rise > 0
        if has_risen:
            self.n_alarms += 1
            self.alarmed_ms = now_ms
        return has_risen

    def metrics(self) -> dict[str, float]:
        """Number of alarms, and the log time of the latest."""
        return {"drifts": float(self.n_alarms), "drifted_ms": float(self.alarmed_ms)}

    @property
    def state(self) -> list[float]:
        """All there is to know, exactly."""
        return [float(self.n_alarms), float(self.alarmed_ms), *self._buckets_N3.ravel().tolist()]

    @state.setter
    def state(self, values: Sequence[float]) -> None:
        self.n_alarms, self.alarmed_ms = int(values[0]), int(values[1])
        self._buckets_N3 = np.array(values[2:]).reshape(-1, 3)


def _merged(buckets_N3: F64) -> F64:
    """Two of a size into one of the next, from the newest on, until there are no more than `N_EQUAL` of any."""
    end, size = len(buckets_N3), 1.0
    while True:
        start = end
        while start > 0 and buckets_N3[start - 1, 0] == size:
            start -= 1
        if end - start <= N_EQUAL:
            return buckets_N3
        two = buckets_N3[start] + buckets_N3[start + 1]
        buckets_N3 = np.concatenate([buckets_N3[:start], [two], buckets_N3[start + 2 :]])
        end, size = start + 1, 2.0 * size


def _clearest_cut(buckets_N3: F64, delta: float) -> tuple[int, float] | None:
    """How many buckets are older than the cut whose means differ by most beyond its bound, and the rise of the mean
    there; None where no means differ by more than that."""
    if len(buckets_N3) < 2:
        return None
    n, total, squares = buckets_N3.sum(axis=0).tolist()
    n0, total0, _ = np.cumsum(buckets_N3[:-1], axis=0).T
    n1 = n - n0
    rise = (total - total0) / n1 - total0 / n0
    m = 1.0 / n0 + 1.0 / n1
    variance = max(squares / n - (total / n) ** 2, 0.0)
    certainty = math.log(2.0 * math.log(n) / delta)
    beyond = np.abs(rise) - np.sqrt(2.0 * m * variance * certainty) - 2.0 / 3.0 * m * certainty
    clearest = int(beyond.argmax())
    return (clearest + 1, float(rise[clearest])) if beyond[clearest] > 0 else None
