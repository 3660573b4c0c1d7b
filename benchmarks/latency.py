"""What a load met: every request with when it was due, how long it took and how it ended; and the figures of a span.

Percentiles are nearest-rank, of answers with status 2xx only. Refusals (429) have a percentile of their own; every
other end, lost requests included, is counted by status and has no latency. So a percentile says nothing about a system
that fails: read it beside `errors`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

LOST: Final = 0  # "status" of a request that got no answer
REFUSED: Final = 429
QUANTILES: Final = (0.5, 0.95, 0.99, 0.999)

F64 = npt.NDArray[np.float64]
I16 = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """What came back during the measured time; NaN where nothing did."""

    n: int
    rate_per_s: float
    """Answers with status 2xx per second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: dict[int, int]
    """Answers other than 2xx by status; `LOST` for none at all."""
    refused_p99_ms: float | None = None
    """How long a refusal took; None without any."""
    cpu_ratio: float
    """Share of one core the generator took."""


def percentiles(values: Sequence[float] | F64, quantiles: Sequence[float] = QUANTILES) -> list[float]:
    """Nearest-rank percentiles; NaN of nothing."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ordered):
        return [math.nan] * len(quantiles)
    # Rounded, for 0.999 x 1,000 is a little more than 999 in floating point.
    return [float(ordered[max(1, math.ceil(round(len(ordered) * q, 6))) - 1]) for q in quantiles]


def summarize(
    latencies_s: Sequence[float] | F64,
    statuses: Mapping[int, int],
    duration_s: float,
    cpu_ratio: float,
    refused_s: Sequence[float] | F64 = (),
) -> LoadResult:
    """Figures of a span in milliseconds, and counts.

    Args:
        latencies_s: Of the answers with status 2xx.
        refused_s: Of the refusals.
    """
    p50, p95, p99, p999, largest = (1000.0 * value for value in percentiles(latencies_s, (*QUANTILES, 1.0)))
    n_good = sum(count for status, count in statuses.items() if is_good(status))
    return LoadResult(
        n=sum(statuses.values()),
        rate_per_s=n_good / duration_s,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=largest,
        errors={status: count for status, count in statuses.items() if not is_good(status)},
        refused_p99_ms=1000.0 * percentiles(refused_s, (0.99,))[0] if len(refused_s) else None,
        cpu_ratio=cpu_ratio,
    )


def is_good(status: int) -> bool:
    """Whether an answer counts as one."""
    return 200 <= status < 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Every measured request, N of them in the order of their answers."""

    from_s: float
    """Monotonic instant at which the measured time began; the clock is the machine's."""
    duration_s: float
    at_s: F64
    """When it counts, from `from_s`: open loop, when it was due; closed loop, when it was answered."""
    latency_s: F64
    status: I16
    cpu_ratio: float

    def summary(self, from_s: float = 0.0, until_s: float | None = None) -> LoadResult:
        """Figures of a span of the measured time; by default all of it."""
        until_s = self.duration_s if until_s is None else until_s
        within_N = (self.at_s >= from_s) & (self.at_s < until_s)
        status, latency_s = self.status[within_N], self.latency_s[within_N]
        is_good_N = (status >= 200) & (status < 300)
        counts = dict(Counter(status.tolist()))
        refused_s = latency_s[status == REFUSED]
        return summarize(latency_s[is_good_N], counts, until_s - from_s, self.cpu_ratio, refused_s)

    def windows(self, width_s: float) -> list[LoadResult]:
        """Figures of each whole window of this width."""
        n_windows = int(self.duration_s / width_s + 1e-9)
        return [self.summary(index * width_s, (index + 1) * width_s) for index in range(n_windows)]

    def pack(self) -> bytes:
        """As bytes, for another process."""
        arrays = (self.at_s, self.latency_s, self.status)
        plain = (self.from_s, self.duration_s, self.cpu_ratio, *(array.tobytes() for array in arrays))
        return msgspec.msgpack.encode(plain)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Back from `pack`."""
        values: list[Any] = msgspec.msgpack.decode(packed)
        return cls(
            from_s=values[0],
            duration_s=values[1],
            cpu_ratio=values[2],
            at_s=np.frombuffer(values[3], dtype=np.float64),
            latency_s=np.frombuffer(values[4], dtype=np.float64),
            status=np.frombuffer(values[5], dtype=np.int16),
        )
