"""Two learners divide the log: they make one model, whichever of them is lost, and when."""

import concurrent.futures
import threading
from typing import Any

import numpy as np
import pytest

from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

N_SHOWN = 1  # the item of the ranking that tells that the application is ready
LOSSES = ("learner-1", "learner", "hub", "learner-1", "learner")


def _send_until(application: Application, stop: threading.Event) -> int:
    """Send clicks, some hundred a second; returns how many."""
    rng = np.random.default_rng(4)
    n_sent = 0
    while not stop.wait(0.1):
        events = [
            {"type": "click", "user": f"u{rng.integers(200)}", "item": f"i{rng.integers(1000)}", "id": f"e{n_sent + n}"}
            for n in range(50)
        ]
        application.post("/v1/events", {"events": events})
        n_sent += len(events)
    return n_sent


def _model(application: Application) -> dict[str, Any]:
    answer: dict[str, Any] = application.http.get("/v1/model").json()
    return answer


def _version(application: Application) -> int:
    return int(_model(application).get("version", 0))


def _how_far(application: Application, n_examples: int) -> str:
    told = {actor: application.call("status", actor) for actor in ("hub", "learner", "learner-1")}
    return f"{n_examples} examples learned; {told}"


def test_whoever_is_lost_every_event_is_learned_once(spread: Application) -> None:
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(_send_until, spread, stop)
        try:
            for actor in LOSSES:
                before = _version(spread)
                eventually(
                    lambda before=before: _version(spread) > before + 1, f"two versions before {actor} is lost", 60.0
                )
                eventually(lambda actor=actor: spread.kill(actor), f"{actor} killed")
        finally:
            stop.set()
        n_events = sent.result()
    n_examples = n_events + N_SHOWN
    eventually(lambda: _model(spread).get("examples", 0) >= n_examples, lambda: _how_far(spread, n_examples), 120.0)
    assert (_model(spread)["events"], _model(spread)["examples"]) == (n_events, n_examples)


def test_what_either_learns_is_in_the_versions_that_answer(spread: Application) -> None:
    """The people of both: each of these events has a version that knows it, and counts once."""
    before = _model(spread)["events"]
    for user in (f"v{number}" for number in range(4)):
        receipt = spread.post("/v1/events", {"events": [{"type": "click", "user": user, "item": "i3"}]})

        def is_answered_for(user: str = user, log_ms: int = receipt["log_ms"]) -> bool:
            model = spread.post("/v1/rank", {"user": user, "candidates": ["i3", "i4"]})["model"]
            return bool(model["trained_through_ms"] > log_ms)

        eventually(is_answered_for, "an answer from weights trained through the event")
    assert _model(spread)["events"] == before + 4
