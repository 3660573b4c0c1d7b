"""The front door of a whole application: many at once, msgpack, deadlines, and too many refused before a replica."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from deployments.client import AsyncHeadrace, Headrace
from deployments.processes import marked_processes
from features.priority import CAN_IDLE
from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MAX_IN_FLIGHT = 4


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application that lets in little, and was asked nothing but whether it is ready."""
    limits = {"max_in_flight": MAX_IN_FLIGHT, "calm_in_flight": 1, "least_in_flight": 1}
    application = Application(tmp_path_factory.mktemp("application"), cluster=limits)
    yield application
    assert application.close() == []


def body(user: str, n_candidates: int, **more: Any) -> dict[str, Any]:
    return {"user": user, "candidates": [f"i{index}" for index in range(n_candidates)], **more}


def test_many_at_once_and_msgpack_pass_the_front(fresh: Application) -> None:
    many = {"requests": [body("u1", 3), {"user": "u2"}, body("u3", 2)]}
    response = fresh.http.post(
        "/v1/rank", content=msgspec.msgpack.encode(many), headers={"content-type": "application/msgpack"}
    )
    answers = msgspec.msgpack.decode(response.content)["answers"]
    assert [len(answer.get("items", ())) for answer in answers] == [3, 0, 2]
    assert answers[1]["error"]["path"] == "$.requests[1]"


def test_the_clients_rank_many_with_a_deadline(fresh: Application) -> None:
    requests = [body("u1", 3, deadline_ms=5000), body("u2", 2)]
    with Headrace(fresh.url) as headrace:
        answers = headrace.rank_many(requests)
        assert len(headrace.rank("u1", ["a"], deadline_ms=5000)["items"]) == 1
    assert [len(answer["items"]) for answer in answers] == [3, 2]
    assert [len(answer["items"]) for answer in asyncio.run(_rank_many(fresh.url, requests))] == [3, 2]


async def _rank_many(url: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async with AsyncHeadrace(url) as headrace:
        return await headrace.rank_many(requests)


def test_too_many_at_once_are_refused_and_a_second_later_all_is_well(fresh: Application) -> None:
    answers = asyncio.run(_flood(fresh.url, 60))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert len(answers) - len(refused) >= MAX_IN_FLIGHT
    assert all(answer.json()["error"]["code"] == "overloaded" for answer in refused)
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert fresh.http.get("/v1/health").status_code == 200
    eventually(lambda: fresh.http.post("/v1/rank", json=body("u1", 3)).status_code == 200, "a request is let in")


async def _flood(url: str, n_requests: int) -> list[httpx.Response]:
    content = msgspec.json.encode(body("u1", 1000, deadline_ms=60_000))
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as http:
        return await asyncio.gather(*(http.post("/v1/rank", content=content) for _ in range(n_requests)))


@pytest.mark.skipif(not CAN_IDLE, reason="idle scheduling is Linux's")
def test_the_agent_that_reports_and_the_hub_leave_the_cores_to_rankings(fresh: Application) -> None:
    assert _policies(fresh, "DashboardAgent") == {os.SCHED_IDLE}
    assert os.SCHED_IDLE in _policies(fresh, "ModelHub")  # the thread that commits, not Ray's own
    assert os.sched_getscheduler(fresh.replicas("Ranker")[0].pid) != os.SCHED_IDLE


def _policies(application: Application, name: str) -> set[int]:
    """Scheduling policies of the threads of the run's one process of that name."""
    (process,) = (found for found in marked_processes(application.run_id) if name in " ".join(found.cmdline()))
    return {os.sched_getscheduler(thread.id) for thread in process.threads()}
