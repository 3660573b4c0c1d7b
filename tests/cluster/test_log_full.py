"""More comes than the log may take: it goes on in the archive, and where that fails events are refused, not lost."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import Application, Tell, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

MAX_BYTES = 64_000_000
POST = 500
N_BEHIND = 150_000  # 100 MB under the default schema
ITEMS = [f"i{n}" for n in range(30)]
BODY = {"user": "u", "candidates": ITEMS}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application with an archive and a small log."""
    folder = tmp_path_factory.mktemp("full")
    store = {"url": "", "archive": str(folder / "archive"), "log_max_bytes": MAX_BYTES}
    application = Application(folder, store=store)
    yield application
    assert application.close() == []


class Sender:
    """Sends clicks of many people, and counts what was taken."""

    def __init__(self, application: Application) -> None:
        self._http = application.http
        self.n_sent = self.n_taken = 0

    def post(self) -> Any:
        """Send some more."""
        numbers = range(self.n_sent, self.n_sent + POST)
        events = [{"type": "click", "user": f"u{n % 997}", "item": ITEMS[n % 30], "id": str(n)} for n in numbers]
        response = self._http.post("/v1/events", json={"events": events})
        if response.status_code == 202:
            assert response.json()["rejected"] == []
            self.n_sent += POST
            self.n_taken += response.json()["accepted"]
        return response


@pytest.fixture(scope="module")
def sender(application: Application) -> Sender:
    """One for all tests: they count on from each other."""
    return Sender(application)


def _has_learned(application: Application, n_events: int) -> bool:
    learned = application.http.get("/v1/model").json().get("events", -1)
    assert learned <= n_events
    return bool(learned == n_events)


def test_while_a_learner_is_away_twice_what_the_log_holds_is_taken_and_learned_once(
    application: Application, sender: Sender, tell: Tell
) -> None:
    sender.post()
    eventually(lambda: _has_learned(application, POST), "something is learned", 60.0)
    learner = psutil.Process(application.call("pid", "learner"))
    learner.send_signal(signal.SIGSTOP)
    fullest = 0
    while sender.n_sent < N_BEHIND:
        assert sender.post().status_code == 202
        fullest = max(fullest, application.get("/v1/log")["bytes"])
    tell("log", log := application.get("/v1/log"))
    tell("fullest", fullest)
    assert fullest < MAX_BYTES
    assert log["archived_entries"] > 10_000 and log["problems"] == []
    learner.kill()
    eventually(lambda: _has_learned(application, sender.n_taken), "everything is learned, once", 120.0)
    clicks = application.get("/v1/items/i7")["counters"]["click.604800s"]
    assert clicks == pytest.approx(len(range(7, sender.n_sent, 30)), rel=2e-3)


def test_when_the_archive_is_out_of_reach_events_are_refused_and_rankings_are_not(
    application: Application, sender: Sender
) -> None:
    folder = application.folder / "archive"
    away = folder.rename(application.folder / "elsewhere")
    folder.write_text("no folder")
    learner = psutil.Process(application.call("pid", "learner"))
    learner.send_signal(signal.SIGSTOP)
    try:
        refused = eventually(lambda: _refused(sender), "a full log", 120.0)
        assert refused.json()["error"]["code"] == "log_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert "log_max_bytes" in refused.json()["error"]["message"]
        assert application.http.put("/v1/items/i1", json={"attributes": {}}).status_code == 429
        assert application.http.delete("/v1/users/nobody").status_code == 202
        assert application.post("/v1/rank", BODY)["degraded"] == []
        log = eventually(lambda: _troubled(application), "the trouble is told", 60.0)
        assert any(str(folder) in problem for problem in log["problems"]), log
    finally:
        learner.send_signal(signal.SIGCONT)
        _put_back(folder, away)
    eventually(lambda: sender.post().status_code == 202, "events are taken again", 60.0)
    eventually(lambda: _has_learned(application, sender.n_taken), "everything is learned, once", 120.0)
    assert sender.n_taken == sender.n_sent
    eventually(lambda: application.get("/v1/log")["problems"] == [], "no trouble is left", 60.0)


def _refused(sender: Sender) -> Any:
    response = sender.post()
    return response if response.status_code == 429 else None


def _troubled(application: Application) -> Any:
    log = application.get("/v1/log")
    return log if log["problems"] else None


def _put_back(folder: Path, away: Path) -> None:
    folder.unlink()
    away.rename(folder)
