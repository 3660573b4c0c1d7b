"""More comes than the log may take: it goes on in the archive, and where that fails events are refused, not lost."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.broken.conftest import LOG_MAX_BYTES
from tests.cluster.conftest import Application, Tell, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

POST = 500
N_BEHIND = 120_000  # 80 MB under the default schema, more than the log may take
ITEMS = [f"full-{n}" for n in range(30)]
BODY = {"user": "u", "candidates": ITEMS}


class Sender:
    """Sends clicks of many people, and counts what was taken."""

    def __init__(self, broken: Application) -> None:
        self._http = broken.http
        self.n_sent = self.n_taken = 0
        receipt = broken.post("/v1/events", {"events": [{"type": "click", "user": "before", "item": "before"}]})

        def is_learned() -> bool:
            return bool(broken.get("/v1/model")["trained_through_ms"] > receipt["log_ms"])

        eventually(is_learned, "everything of before is learned", 60.0)
        self._n_before = broken.get("/v1/model")["events"]

    def post(self) -> Any:
        """Send some more."""
        numbers = range(self.n_sent, self.n_sent + POST)
        events = [
            {"type": "click", "user": f"full-{n % 997}", "item": ITEMS[n % 30], "id": f"full-{n}"} for n in numbers
        ]
        response = self._http.post("/v1/events", json={"events": events})
        if response.status_code == 202:
            assert response.json()["rejected"] == []
            self.n_sent += POST
            self.n_taken += response.json()["accepted"]
        return response

    def is_learned(self) -> bool:
        """Whether all that was taken is learned; more must never be."""
        learned = self._http.get("/v1/model").json().get("events", -1) - self._n_before
        assert learned <= self.n_taken
        return bool(learned == self.n_taken)


@pytest.fixture(scope="module")
def sender(broken: Application) -> Sender:
    """One for all tests: they count on from each other."""
    return Sender(broken)


def test_while_a_learner_is_away_more_than_the_log_holds_is_taken_and_learned_once(
    broken: Application, sender: Sender, tell: Tell
) -> None:
    sender.post()
    eventually(sender.is_learned, "something is learned", 60.0)
    learner = psutil.Process(broken.call("pid", "learner"))
    learner.send_signal(signal.SIGSTOP)
    fullest = 0
    while sender.n_sent < N_BEHIND:
        assert sender.post().status_code == 202
        fullest = max(fullest, broken.get("/v1/log")["bytes"])
    tell("log", log := broken.get("/v1/log"))
    tell("fullest", fullest)
    assert fullest < LOG_MAX_BYTES
    assert log["archived_entries"] > 10_000 and log["problems"] == []
    learner.kill()
    eventually(sender.is_learned, "everything is learned, once", 120.0)
    clicks = broken.get("/v1/items/full-7")["counters"]["click.604800s"]
    assert clicks == pytest.approx(len(range(7, sender.n_sent, 30)), rel=2e-3)


def test_when_the_archive_is_out_of_reach_events_are_refused_and_rankings_are_not(
    broken: Application, sender: Sender
) -> None:
    folder = broken.folder / "archive"
    away = folder.rename(broken.folder / "elsewhere")
    folder.write_text("no folder")
    learner = psutil.Process(broken.call("pid", "learner"))
    learner.send_signal(signal.SIGSTOP)
    try:
        refused = eventually(lambda: _refused(sender), "a full log", 120.0)
        assert refused.json()["error"]["code"] == "log_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert "log_max_bytes" in refused.json()["error"]["message"]
        assert broken.http.put("/v1/items/full-1", json={"attributes": {}}).status_code == 429
        assert broken.http.delete("/v1/users/nobody").status_code == 202
        assert broken.post("/v1/rank", BODY)["degraded"] == []
        log = eventually(lambda: _troubled(broken), "the trouble is told", 60.0)
        assert any(str(folder) in problem for problem in log["problems"]), log
    finally:
        learner.send_signal(signal.SIGCONT)
        _put_back(folder, away)
    eventually(lambda: sender.post().status_code == 202, "events are taken again", 60.0)
    eventually(sender.is_learned, "everything is learned, once", 120.0)
    assert sender.n_taken == sender.n_sent
    eventually(lambda: broken.get("/v1/log")["problems"] == [], "no trouble is left", 60.0)


def _refused(sender: Sender) -> Any:
    response = sender.post()
    return response if response.status_code == 429 else None


def _troubled(broken: Application) -> Any:
    log = broken.get("/v1/log")
    return log if log["problems"] else None


def _put_back(folder: Path, away: Path) -> None:
    folder.unlink()
    away.rename(folder)
