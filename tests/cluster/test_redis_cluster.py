"""The whole application on a Redis Cluster, which also keeps its versions."""

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis.crc import key_slot

from features.embedded import EmbeddedServer
from features.embedded_cluster import EmbeddedCluster
from features.keys import Keys
from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

ITEMS = [f"i{index}" for index in range(20)]
USERS = [f"u{index}" for index in range(40)]


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedCluster]:
    """Three masters with replicas that sync what they are sent."""
    with EmbeddedCluster(("--appendfsync", "always")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spread(servers: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application on them; an event counts when a replica has it."""
    store = {"url": servers.url, "durability": "replica"}
    application = Application(tmp_path_factory.mktemp("spread"), store=store)
    yield application
    assert application.close() == []


class Traffic:
    """Sends events until they are taken, and ranks; notes what became of both."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._is_over = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(2)
        self._running = [self._pool.submit(self._send), self._pool.submit(self._rank)]
        self.n_taken = self.n_refused = 0
        self.degraded: list[bool] = []
        self.failures: list[int] = []

    def stop(self) -> None:
        """End it; raises what went wrong."""
        self._is_over.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()

    def _send(self) -> None:
        number = 0
        with httpx.Client(base_url=self._application.url, timeout=30.0) as http:
            while not self._is_over.is_set():
                events = [_event(number + n) for n in range(10)]
                number += len(events)
                while events:
                    answer = http.post("/v1/events", json={"events": events})
                    assert answer.status_code in (202, 503), answer.text
                    rejected = [row["index"] for row in answer.json()["rejected"]]
                    self.n_taken += len(events) - len(rejected)
                    self.n_refused += len(rejected)
                    events = [events[index] for index in rejected]

    def _rank(self) -> None:
        with httpx.Client(base_url=self._application.url, timeout=30.0) as http:
            while not self._is_over.is_set():
                for user in USERS:
                    answer = http.post("/v1/rank", json={"user": user, "candidates": ITEMS})
                    if answer.status_code != 200:
                        self.failures.append(answer.status_code)
                    else:
                        self.degraded.append("features" in answer.json()["degraded"])


def _event(number: int) -> dict[str, Any]:
    return {"type": "click", "user": USERS[number % 40], "item": ITEMS[number * 7 % 20], "id": f"e{number}"}


def _master_of(servers: EmbeddedCluster, user: str) -> EmbeddedServer:
    return servers.master_of(int(key_slot(Keys().user(user).encode())))


def _model(application: Application) -> dict[str, Any]:
    answer: dict[str, Any] = application.http.get("/v1/model").json()
    return answer


def test_a_master_killed_under_load_costs_its_people_their_features_for_a_while_and_nobody_an_event(
    spread: Application, servers: EmbeddedCluster
) -> None:
    before = _model(spread).get("events", 0)
    traffic = Traffic(spread)
    eventually(lambda: traffic.n_taken > 200 and len(traffic.degraded) > 100, "traffic")
    lost = _master_of(servers, USERS[0])
    lost.kill()
    eventually(lambda: any(traffic.degraded), "a ranking without features")
    servers.wait_until_replaced(lost)
    lost.start()  # it follows its replica now, and confirms what that writes
    eventually(lambda: len(traffic.degraded) > 400 and not any(traffic.degraded[-200:]), "whole rankings again", 60.0)
    n_taken = traffic.n_taken
    eventually(lambda: traffic.n_taken > n_taken + 200, "events taken again", 60.0)
    traffic.stop()
    share = sum(traffic.degraded) / len(traffic.degraded)
    assert traffic.failures == [] and traffic.n_refused > 0
    assert share < 0.9, "others than the people of the lost master were ranked without features"
    eventually(lambda: _model(spread).get("events", 0) >= before + traffic.n_taken, "everything learned", 60.0)
    assert _model(spread)["events"] == before + traffic.n_taken


def test_a_hub_that_is_lost_finds_its_versions_in_the_store(spread: Application) -> None:
    before = eventually(lambda: _model(spread).get("version", 0), "a version")
    events = _model(spread)["events"]
    eventually(lambda: spread.kill("hub"), "the hub killed")
    model = eventually(lambda: _model(spread) if "version" in _model(spread) else None, "the hub again")
    assert model["version"] >= before and model["events"] == events
    spread.post("/v1/events", {"events": [_event(10**6)]})
    eventually(lambda: _model(spread).get("events") == events + 1, "learning goes on")
