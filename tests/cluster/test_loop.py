"""The loop on a real cluster: an event is accepted, features change at once, weights follow, answers show it all."""

import concurrent.futures
import os
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CANDIDATES = [f"i{index}" for index in range(20)]


def event(user: str, item: str, **fields: Any) -> dict[str, Any]:
    """A click, unless told otherwise."""
    return {"type": "click", "user": user, "item": item, **fields}


def test_an_acknowledged_event_is_in_the_next_read_and_in_the_next_ranking(application: Application) -> None:
    """1,000 of 1,000, posted by 25 people at a time; each has a connection of their own."""

    def post_and_look(worker: int) -> int:
        with httpx.Client(base_url=application.url, timeout=60.0) as http:
            return sum(_sees_own_event(http, f"ryw-{worker}-{index}", CANDIDATES[index % 20]) for index in range(40))

    with concurrent.futures.ThreadPoolExecutor(25) as pool:
        assert sum(pool.map(post_and_look, range(25))) == 1000


def _sees_own_event(http: httpx.Client, user: str, item: str) -> bool:
    before = _features(http, user, item)
    http.post("/v1/events", json={"events": [event(user, item)]}).raise_for_status()
    known = http.get(f"/v1/users/{user}").json()["recent"]["items"]
    after = _features(http, user, item)
    return known[0]["item"] == item and before["n_seen"] == 0.0 and after["n_seen"] > 0.0


def _features(http: httpx.Client, user: str, item: str) -> dict[str, float]:
    body = {"user": user, "candidates": CANDIDATES, "explain": True}
    answer = http.post("/v1/rank", json=body).raise_for_status().json()
    assert "features" not in answer["degraded"]
    (row,) = [row for row in answer["items"] if row["id"] == item]
    features: dict[str, float] = row["features"]
    return features


def test_an_event_is_answered_for_by_weights_trained_through_it(application: Application) -> None:
    receipt = application.post("/v1/events", {"events": [event("learned", "i3")]})

    def is_answered_for() -> bool:
        model = application.post("/v1/rank", {"user": "learned", "candidates": CANDIDATES})["model"]
        return bool(model["trained_through_ms"] > receipt["log_ms"] and model["version"] > 0)

    eventually(is_answered_for, "an answer from weights trained through the event")
    assert application.get("/v1/model")["trained_through_ms"] > receipt["log_ms"]


def test_the_same_event_counts_once_through_every_door(application: Application) -> None:
    before = eventually(lambda: application.get("/v1/model"), "a model")
    same = event("five-times", "only-once", id="e1")
    receipts = [application.post("/v1/events", {"events": [same]}) for _ in range(2)]
    receipts += [application.call("push", [same, same]), application.call("push", [same])]
    assert sum(receipt["accepted"] for receipt in receipts) == 1
    assert sum(receipt["duplicates"] for receipt in receipts) == 4
    last = application.post("/v1/events", {"events": [event("last", "other")]})
    counters = application.get("/v1/users/five-times")["counters"]
    assert counters["click.2592000s"] == pytest.approx(1.0, abs=1e-3)
    eventually(lambda: application.get("/v1/model")["trained_through_ms"] > last["log_ms"], "both events learned")
    item = eventually(lambda: application.http.get("/v1/items/only-once").json().get("counters"), "the item's row")
    assert item["click.604800s"] == pytest.approx(1.0, abs=1e-3)
    assert application.get("/v1/model")["events"] >= before["events"] + 2


def test_a_pipeline_pushes_a_thousand_events_at_a_time(application: Application) -> None:
    rows = [event(f"pushed-{index}", CANDIDATES[index % 20], id=f"p{index}", device="tv") for index in range(1000)]
    assert application.call("push", rows)["accepted"] == 1000
    assert application.call("push", rows)["duplicates"] == 1000


PIPELINE = """
import sys, learners
from deployments.cluster import join
ray = join(int(sys.argv[1]))
push = ray.remote(num_cpus=0)(lambda rows: learners.push(rows))
rows = [{"type": "click", "user": f"own-{index}", "item": "i1", "device": "tv"} for index in range(10)]
print("accepted", ray.get(push.remote(rows))["accepted"])
"""


def test_a_program_of_its_own_joins_the_cluster_and_pushes(application: Application) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(application.port)],
        env={**os.environ, "HEADRACE_HOME": str(application.folder / "home")},
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    assert "accepted 10" in ended.stdout, ended.stderr
    assert application.get("/v1/users/own-9")["recent"]["items"][0]["item"] == "i1"


def test_attributes_and_erasure_reach_the_next_read(application: Application) -> None:
    application.http.put("/v1/users/erased", json={"attributes": {"segment": "gold"}}).raise_for_status()
    application.post("/v1/events", {"events": [event("erased", "i1")]})
    known = application.get("/v1/users/erased")
    assert known["attributes"] == {"segment": "gold"}
    assert known["recent"]["items"][0]["item"] == "i1"
    assert application.http.delete("/v1/users/erased").status_code == 202
    assert application.get("/v1/users/erased")["recent"]["items"] == []
    application.http.put("/v1/items/i1", json={"attributes": {"category": "news"}}).raise_for_status()
    eventually(
        lambda: application.get("/v1/items/i1")["attributes"].get("category") == "news", "the item's attributes", 5.0
    )
