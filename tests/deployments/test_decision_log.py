"""Decisions are logged a moment later, or never."""

from typing import Any

from deployments.decision_log import LATE_S, DecisionLog
from features.memory_store import MemoryStore
from features.people import LATE_MS
from features.store import decision_record
from tests.features.examples import KEYS, SCHEMA, decision, log_of


class Now:
    """A monotonic clock that is set."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


def kept(log: DecisionLog, n: int, **_: Any) -> None:
    for _number in range(n):
        log.keep(decision_record(decision("u1"), b"", KEYS))


async def test_decisions_are_logged_and_late_ones_are_lost() -> None:
    store, now = MemoryStore(SCHEMA, keys=KEYS), Now()
    log = DecisionLog(store, now)
    kept(log, 3)
    now.s = LATE_S + 1
    kept(log, 20)
    assert await log.flush()
    assert (log.n_logged, log.n_lost) == (20, 3) and len(await log_of(store)) == 20


def test_nothing_is_logged_after_erasures_have_stopped_looking() -> None:
    assert LATE_MS >= 1000 * (LATE_S + 8)
