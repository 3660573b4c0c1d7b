"""Another release takes the place of one that runs, and nobody notices."""

import concurrent.futures
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ITEMS = [f"i{index}" for index in range(20)]
ACTORS = ("hub", "projector", "learner")
DEPLOY_S = 200.0


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application to be upgraded; of each replica there is one, so its successor must be there before it goes."""
    application = Application(tmp_path_factory.mktemp("upgraded"))
    yield application
    assert application.close() == []


class Traffic:
    """Ranks and events, one after the other each; counts how they were answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(2)
        self.answers: Counter[Any] = Counter()
        self.n_events = 0
        self._running = [self._pool.submit(self._rank), self._pool.submit(self._send)]

    def stop(self) -> None:
        """End it; raises what went wrong."""
        self._is_over.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()

    def _rank(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30.0) as http:
            while not self._is_over.is_set():
                body = {"user": "u1", "candidates": ITEMS, "deadline_ms": 20_000}
                self._count(http, "/v1/rank", body)

    def _send(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30.0) as http:
            while not self._is_over.wait(0.02):
                event = {"type": "click", "user": f"u{self.n_events % 50}", "item": ITEMS[self.n_events % 20]}
                self.n_events += self._count(http, "/v1/events", {"events": [event]}) == 202

    def _count(self, http: httpx.Client, path: str, body: Any) -> int | str:
        try:
            answer: int | str = http.post(path, json=body).status_code
        except httpx.TransportError as error:
            answer = repr(error)
        self.answers[path, answer] += 1
        return answer


def _pids(application: Application) -> dict[str, int]:
    return {actor: application.call("pid", actor) for actor in ACTORS}


def test_another_release_takes_over_without_a_failed_request(upgraded: Application) -> None:
    traffic = Traffic(upgraded.url)
    eventually(lambda: upgraded.get("/v1/model")["version"] > 1, "versions")
    actors, replicas = _pids(upgraded), upgraded.replicas("Ranker")
    upgraded.call("redeploy", {"offer_s": 1.5}, wait_s=DEPLOY_S)
    now = _pids(upgraded)
    assert all(now[actor] != actors[actor] for actor in ACTORS)
    eventually(lambda: not set(upgraded.replicas("Ranker")) & set(replicas), "the old replicas gone", 60.0)
    before = upgraded.get("/v1/model")["version"]
    eventually(lambda: upgraded.get("/v1/model")["version"] > before, "learning goes on")
    traffic.stop()
    assert set(traffic.answers) == {("/v1/rank", 200), ("/v1/events", 202)}, traffic.answers
    eventually(lambda: upgraded.get("/v1/model")["events"] >= traffic.n_events, "everything learned", 60.0)
    assert upgraded.get("/v1/model")["events"] == traffic.n_events


def test_the_same_release_leaves_everything_in_place(upgraded: Application) -> None:
    actors, replicas = _pids(upgraded), upgraded.replicas("Ranker")
    upgraded.call("redeploy", {"offer_s": 1.5, "policy": {"name": "plackett_luce"}}, wait_s=DEPLOY_S)
    body = {"user": "u1", "candidates": ITEMS, "deadline_ms": 20_000}
    eventually(lambda: upgraded.post("/v1/rank", body)["items"][0]["propensity"] < 1.0, "a drawn slate")
    assert (_pids(upgraded), upgraded.replicas("Ranker")) == (actors, replicas)
