"""How many replicas a load needs: by how busy those are that run, and by whether anybody waits too long.

    replica: `Load`, a meter ─► Serve's controller: `load_policy` ─► `desired`, arithmetic

How busy is the processor time of the event loop, which is what a replica runs out of first: requests under way, which
Serve counts by itself, are few until it is too late, as a batcher that drains while it is busy has short queues. How
many are late covers what is not the replica's own time: a slow store, a machine that others use.

Serve waits for a while before it follows, up sooner than down, and keeps to the bounds.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from deployments.errors import ConfigError

BUSY: Final = "busy_ratio"
LATE: Final = "late_ratio"
TOO_MANY_LATE: Final = 0.01  # of all requests; that is what a 99th percentile means
GROW: Final = 1.5  # as many replicas, where too many are late although nobody is busy enough to explain it
SHRINK: Final = 0.8  # of the wanted load is what those that stay may come to, lest they grow again at once


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoscaleConfig:
    """When Rankers are added and taken away."""

    max_rankers: int = 0
    """Most replicas, where `n_rankers` are the fewest; on a cluster, of each node. 0: there are `n_rankers`, always."""
    busy_ratio: float = 0.5
    """Wanted share of time that a replica computes; up to half of saturation nobody waits for others to speak of."""
    late_ms: int = 50
    """An answer that takes a replica longer than this is late; more than one in a hundred asks for more replicas."""
    up_s: float = 5.0
    """How long more replicas must be wanted before they are started."""
    down_s: float = 300.0
    """How long fewer must be wanted before some are ended."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_rankers <= 1024:
            raise ConfigError(f"max_rankers: expected 0 to 1024, got {self.max_rankers}")
        if not 0.05 <= self.busy_ratio <= 0.95:
            raise ConfigError(f"busy_ratio: expected 0.05 to 0.95, got {self.busy_ratio}")
        if self.late_ms < 1:
            raise ConfigError(f"late_ms: expected 1 or more, got {self.late_ms}")


class Load:
    """A replica's meter: `note` every answer, `take` what came together since the last time.

    Args:
        late_s: An answer that takes longer is late.
        busy_s: Processor seconds of the thread that calls it.
    """

    def __init__(
        self,
        late_s: float,
        now_s: Callable[[], float] = time.monotonic,
        busy_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._late_s = late_s
        self._now_s = now_s
        self._busy_s = busy_s
        self._since = now_s(), busy_s()
        self._n_answers = self._n_late = 0

    def note(self, took_s: float) -> None:
        """Count an answer; one that was refused took for ever."""
        self._n_answers += 1
        self._n_late += took_s > self._late_s

    def take(self) -> dict[str, float]:
        """Shares of time and of answers, and begin anew; for `desired`."""
        before, self._since = self._since, (self._now_s(), self._busy_s())
        passed_s, busy_s = (now - then for now, then in zip(self._since, before, strict=True))
        load = {BUSY: busy_s / passed_s if passed_s > 0 else 0.0, LATE: self._n_late / max(1, self._n_answers)}
        self._n_answers = self._n_late = 0
        return load


def desired(n_replicas: int, busy_ratio: float, late_ratio: float, config: AutoscaleConfig) -> int:
    """How many replicas should share what `n_replicas` are busy with; at least one.

    So many that each is busy for the wanted share of its time. Fewer only if those that stay are well below it then.

    Args:
        busy_ratio: Mean over the replicas.
        late_ratio: The same of late answers.
    """
    load = n_replicas * busy_ratio / config.busy_ratio  # in replicas at the wanted load
    if late_ratio > TOO_MANY_LATE:
        return math.ceil(max(load, GROW * n_replicas))
    if load > n_replicas:
        return math.ceil(load)
    return max(1, min(n_replicas, math.ceil(load / SHRINK)))
