"""Bringing a system to the state that is measured: items and people known, a version trained on what was sent."""

import time
from typing import Any, Final

import msgspec

from benchmarks.workloads import World, posts
from deployments.client import Headrace

TRAINED_S: Final = 120.0


def feed(url: str, world: World, n_events: int, *, api_key: str | None = None) -> dict[str, int]:
    """Send items and events, and wait until a rank is answered by weights trained on all of them.

    Returns:
        The `model` of that answer.
    Raises:
        RuntimeError: If something was rejected, or the weights do not come.
    """
    with Headrace(url, timeout_s=60.0, api_key=api_key) as client:
        for body in posts(world.items()):
            rows = msgspec.json.decode(body)["events"]
            _check(client.items({row["id"]: row["attributes"] for row in rows}))
        log_ms = 0
        for body in posts(world.events(n_events)):
            log_ms = _check(client.send(msgspec.json.decode(body)["events"]))
        return wait_until_trained(client, log_ms)


def _check(receipt: dict[str, Any]) -> int:
    if receipt["rejected"]:
        raise RuntimeError(f"rejected: {receipt['rejected'][0]}")
    return int(receipt["log_ms"])


def wait_until_trained(client: Headrace, log_ms: int) -> dict[str, int]:
    """Wait until a rank is answered by weights trained beyond this log time; returns its `model`."""
    deadline_s = time.monotonic() + TRAINED_S
    while time.monotonic() < deadline_s:
        model: dict[str, int] = client.rank("u0", ["i0", "i1"])["model"]
        if model["version"] and model["trained_through_ms"] > log_ms:
            return model
        time.sleep(0.2)
    raise RuntimeError(f"no weights trained beyond {log_ms} within {TRAINED_S:g} s; the last answer's model: {model}")
