"""The door for pipelines inside the Ray cluster."""

import time
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from learners.actor import LEARNER_NAME

BATCH: Final = 1000
WAIT_S: Final = 30.0  # for a learner that is being restarted


def push(events: pa.Table | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Send events to the running learner; returns when they are durable.

    The same checks and the same duplicates as `POST /v1/events`. While the learner restarts, a batch is sent again:
    events with an `id` count once all the same.

    Args:
        events: A table or rows with `type, user, item` and optionally `id, ts_ms, value, decision, context, source`;
            every other column is context.
    Returns:
        `accepted`, `duplicates`, `quarantined`, `rejected` (by row number) and `log_ms`.
    Raises:
        ValueError: If no learner runs in this cluster.
        ActorUnavailableError, ActorDiedError: If it does not come back within 30 s.
    """
    rows: Sequence[dict[str, Any]] = events.to_pylist() if isinstance(events, pa.Table) else events
    total: dict[str, Any] = {"accepted": 0, "duplicates": 0, "quarantined": 0, "rejected": [], "log_ms": None}
    for start in range(0, len(rows), BATCH):
        receipt = _send(rows[start : start + BATCH])
        total["accepted"] += receipt["accepted"]
        total["duplicates"] += receipt["duplicates"]
        total["quarantined"] += receipt["quarantined"]
        total["rejected"] += [{**row, "index": row["index"] + start} for row in receipt["rejected"]]
        total["log_ms"] = max(total["log_ms"] or 0, receipt["log_ms"] or 0) or None
    return total


def _send(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            learner: Any = ray.get_actor(LEARNER_NAME)
            receipt: dict[str, Any] = ray.get(learner.push.remote(rows))
            return receipt
        except (ActorUnavailableError, ActorDiedError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
