"""The whole application on a Redis Cluster, which also keeps its versions."""

from typing import Any

import pytest
from redis.crc import key_slot

from features.embedded import EmbeddedServer
from features.embedded_cluster import EmbeddedCluster
from features.keys import Keys
from tests.cluster.conftest import Application, eventually
from tests.cluster.traffic import EVENTS, RANK, USERS, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def _master_of(servers: EmbeddedCluster, user: str) -> EmbeddedServer:
    return servers.master_of(int(key_slot(Keys().user(user).encode())))


def _model(application: Application) -> dict[str, Any]:
    answer: dict[str, Any] = application.http.get("/v1/model").json()
    return answer


def test_a_master_killed_under_load_costs_its_people_their_features_for_a_while_and_nobody_an_event(
    spread: Application, servers: EmbeddedCluster
) -> None:
    before = _model(spread).get("events", 0)
    with Traffic([spread.url], events_per_post=10, pause_s=0.0) as traffic:
        eventually(lambda: traffic.n_taken > 200 and len(traffic.ranks()) > 100, "traffic")
        lost = _master_of(servers, USERS[0])
        lost.kill()
        eventually(lambda: any(_degraded(traffic)), "a ranking without features")
        servers.wait_until_replaced(lost)
        lost.start()  # it follows its replica now, and confirms what that writes
        eventually(
            lambda: len(traffic.ranks()) > 400 and not any(_degraded(traffic)[-200:]), "whole rankings again", 60.0
        )
        n_taken = traffic.n_taken
        eventually(lambda: traffic.n_taken > n_taken + 200, "events taken again", 60.0)
    assert set(traffic.outcomes()) == {(RANK, 200), (EVENTS, 202), (EVENTS, 503)}, traffic.outcomes()
    share = sum(_degraded(traffic)) / len(traffic.ranks())
    assert share < 0.9, "others than the people of the lost master were ranked without features"
    eventually(lambda: _model(spread).get("events", 0) >= before + traffic.n_taken, "everything learned", 60.0)
    assert _model(spread)["events"] == before + traffic.n_taken


def _degraded(traffic: Traffic) -> list[bool]:
    """Of each ranking, whether it did without features."""
    return ["features" in answer.degraded for answer in traffic.ranks()]


def test_a_hub_that_is_lost_finds_its_versions_in_the_store(spread: Application) -> None:
    before = eventually(lambda: _model(spread).get("version", 0), "a version")
    events = _model(spread)["events"]
    eventually(lambda: spread.kill("hub"), "the hub killed")
    model = eventually(lambda: _model(spread) if "version" in _model(spread) else None, "the hub again")
    assert model["version"] >= before and model["events"] == events
    spread.post("/v1/events", {"events": [{"type": "click", "user": USERS[0], "item": "i1"}]})
    eventually(lambda: _model(spread).get("events") == events + 1, "learning goes on")
