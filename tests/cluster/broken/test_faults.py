"""Faults made to happen: everything goes on, and nothing acknowledged is lost or counted twice."""

import asyncio
import concurrent.futures
import json
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from learners.checkpoints import LEFT
from learners.folder_files import FolderFiles
from tests.cluster.conftest import Application, eventually
from tests.cluster.traffic import RANK, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

ITEMS = [f"i{index}" for index in range(30)]


def _send(application: Application, n_events: int, seed: int) -> dict[str, int]:
    """Send seeded events with ids until each is acknowledged; returns how often each item was clicked."""
    rng = np.random.default_rng(seed)
    clicks = dict.fromkeys(ITEMS, 0)
    for start in range(0, n_events, 100):
        events = []
        for index in range(start, start + 100):
            item = ITEMS[int(rng.integers(len(ITEMS)))]
            events.append(
                {"type": "click", "user": f"s{seed}-{rng.integers(2000)}", "item": item, "id": f"{seed}-{index}"}
            )
            clicks[item] += 1
        eventually(lambda events=events: _is_taken(application, events), "all events of a post acknowledged")
    return clicks


def _is_taken(application: Application, events: list[dict[str, Any]]) -> bool:
    response = application.http.post("/v1/events", json={"events": events})
    return response.status_code == 202 and not response.json()["rejected"]


def test_killed_actors_go_on_from_the_last_commit_and_count_every_event_once(broken: Application) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(_send, broken, 6000, 1)
        pause = threading.Event()
        for actor in ("learner", "projector", "hub", "projector", "learner"):
            pause.wait(1.0)
            eventually(lambda actor=actor: broken.kill(actor), f"{actor} killed")
        clicks = sent.result()
    eventually(lambda: _events(broken) == 6000, "every event learned once", 60.0)
    pause.wait(1.0)
    assert _events(broken) == 6000
    for item, n_clicks in clicks.items():
        counters = eventually(lambda item=item: broken.get(f"/v1/items/{item}")["counters"], "the item's row")
        assert counters["click.604800s"] == pytest.approx(n_clicks, rel=2e-3), item


def test_a_version_that_is_left_beside_the_durable_ones_is_adopted_and_another_dropped(broken: Application) -> None:
    folder = str(broken.folder / "home" / "versions" / broken.run_id)
    asyncio.run(_leave(folder, b"no version at all"))
    saved, n_saved = Path(broken.call("save_version", str(broken.folder / "saved"))), _events(broken)
    _send(broken, 500, 3)
    eventually(lambda: _events(broken) == n_saved + 500, "more is learned", 60.0)
    eventually(lambda: not asyncio.run(_is_left(folder)), "what is no version is dropped")
    version = broken.get("/v1/model")["version"]
    asyncio.run(_leave(folder, saved.read_bytes()))
    eventually(lambda: not asyncio.run(_is_left(folder)), "the version is adopted")
    eventually(lambda: _events(broken) == n_saved + 500, "the log behind it is learned again", 60.0)
    assert broken.get("/v1/model")["version"] > version


async def _leave(folder: str, packed: bytes) -> None:
    await FolderFiles(folder).write(LEFT, packed)


async def _is_left(folder: str) -> bool:
    return LEFT in await FolderFiles(folder).names()


def _events(application: Application) -> int:
    response = application.http.get("/v1/model")
    return int(response.json().get("events", -1))


def test_a_killed_replica_is_replaced_and_the_other_answers_for_it(broken: Application) -> None:
    victims = broken.replicas("Ranker")
    assert len(victims) == 2
    with Traffic([broken.url], rankers=4, senders=0, pause_s=0.0) as traffic:
        eventually(lambda: len(traffic.ranks()) > 100, "traffic")
        victims[0].send_signal(signal.SIGKILL)
        eventually(lambda: set(broken.replicas("Ranker")) - set(victims), "a new replica", 60.0)
    assert set(traffic.outcomes()) == {(RANK, 200)}, traffic.outcomes()
    eventually(lambda: len(broken.replicas("Ranker")) == 2, "two replicas again", 60.0)


def test_without_the_store_events_are_refused_and_rankings_degrade_until_it_is_back(broken: Application) -> None:
    body = {"user": "u", "candidates": ITEMS}
    event = {"events": [{"type": "click", "user": "during", "item": "i1", "id": "during-1"}]}
    assert broken.post("/v1/rank", body)["degraded"] == []
    broken.call("store_kill")
    try:
        refused = broken.http.post("/v1/events", json=event)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert broken.post("/v1/rank", body)["degraded"] == ["features"]
    finally:
        broken.call("store_start")
    eventually(lambda: broken.http.post("/v1/events", json=event).status_code == 202, "events accepted again")
    eventually(lambda: broken.post("/v1/rank", body)["degraded"] == [], "rankings whole again")
    assert broken.get("/v1/users/during")["recent"]["items"][0]["item"] == "i1"
    before = _events(broken)
    _send(broken, 200, 2)
    eventually(lambda: _events(broken) >= before + 200, "learning goes on", 60.0)


def test_thousands_who_hang_up_stall_nobody(broken: Application) -> None:
    request = json.dumps({"user": "gone", "candidates": ITEMS}).encode()
    head = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(request)

    async def hang_up(index: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", broken.port)
        writer.write(head + (request if index % 2 else request[:10]))
        await writer.drain()
        writer.transport.abort()
        del reader

    async def all_of_them() -> None:
        for _ in range(40):
            await asyncio.gather(*(hang_up(index) for index in range(50)))

    asyncio.run(all_of_them())
    with httpx.Client(base_url=broken.url, timeout=30.0) as http:
        for _ in range(20):
            assert http.post("/v1/rank", json={"user": "u", "candidates": ITEMS}).status_code == 200
