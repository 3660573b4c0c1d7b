"""`ray up cluster.yaml`, `headrace deploy`, `headrace status` and `ray down`, really done, on three machines.

The tests are one story, in order. How long each part of it took is written to the test's report.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from deployments.environment import FRONT_PORT
from tests.cluster.lab import what_is_missing
from tests.cluster.operating import DASHBOARD_PORT, Operator
from tests.waiting import eventually

MISSING = what_is_missing()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.lab,
    pytest.mark.timeout(600),
    pytest.mark.skipif(MISSING != "", reason=MISSING),
]

ITEMS = [f"i{index}" for index in range(5)]
ENDED_S = 150.0  # a worker's raylet gives its head up after 60 s, Ray's agents give up the raylet's after another 60


@pytest.fixture
def timed(record_property: Callable[[str, object], None]) -> Callable[[str], Any]:
    """Measures what happens within a `with` block."""

    @contextmanager
    def measure(what: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        took_s = time.monotonic() - began_s
        record_property(what, f"{took_s:.1f} s")
        print(f"{what}: {took_s:.1f} s")

    return measure


def head_url(operator: Operator) -> str:
    return operator.url("h1", DASHBOARD_PORT)


def status(operator: Operator) -> dict[str, Any]:
    shown = operator.run(f"headrace status --address {head_url(operator)} --json 2> /dev/null || true")
    return msgspec.json.decode(shown)


def test_ray_up_starts_every_node(operator: Operator, timed: Callable[[str], Any]) -> None:
    operator.run("ray get-auth-token --generate")
    with timed("ray up"):
        operator.run("ray up --yes cluster.yaml")
    with timed("until all nodes are alive"):
        eventually(lambda: _n_alive(operator) == 3, "three nodes", 90.0)
    nodes = status(operator)["nodes"]
    assert [node["address"] for node in nodes] == [operator.lab.addresses[host] for host in operator.lab.hosts]
    assert all(node["roles"] == ["serving", "learning"] for node in nodes)


def _n_alive(operator: Operator) -> int:
    return sum(node["is_alive"] for node in status(operator)["nodes"])


def test_a_cluster_with_nothing_on_it_is_not_well(operator: Operator) -> None:
    shown = operator.run(f"! headrace status --address {head_url(operator)}")
    assert "nothing is deployed" in shown


def test_the_dashboard_is_closed_without_the_token(operator: Operator) -> None:
    body = {"entrypoint": "touch ~/broken-in"}
    for options in ({}, {"headers": {"Authorization": "Bearer wrong"}}):
        for method, path in (("GET", "/nodes?view=summary"), ("POST", "/api/jobs/"), ("GET", "/api/v0/actors")):
            refused = operator.request(method, head_url(operator) + path, json=body, **options)
            assert refused.status_code in {401, 403}, (path, refused.text)
    assert not (operator.lab.home("h1") / "broken-in").exists()


def test_a_deployment_that_cannot_work_is_refused_with_the_reason(operator: Operator) -> None:
    refused = operator.run(f"! headrace deploy --address {head_url(operator)}")
    assert "HEADRACE_REDIS_URL" in refused
    operator.settings("")
    (operator.checkout / "pyproject.toml").write_text('[project]\ndependencies = ["no-such-thing==1"]\n')
    try:
        failed = operator.run(f"! {operator.deploy_command}")
    finally:
        operator.refresh("pyproject.toml")
    assert "no-such-thing==1, not installed" in failed
    assert status(operator)["deployments"] == []


def test_a_deployment_ends_with_a_ranking_through_every_front_door(
    operator: Operator, timed: Callable[[str], Any]
) -> None:
    operator.settings("")
    with timed("headrace deploy"):
        operator.run(operator.deploy_command, wait_s=400.0)
    for host in operator.lab.hosts:
        assert _rank(operator, host)["degraded"] == ["model"]


def _rank(operator: Operator, host: str, user: str = "nobody") -> dict[str, Any]:
    answer = operator.request("POST", operator.url(host) + "/v1/rank", json={"user": user, "candidates": ITEMS})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_events_sent_through_one_front_door_are_known_at_every_other(operator: Operator) -> None:
    for number, host in enumerate(operator.lab.hosts * 2):
        event = {"type": "click", "user": "u", "item": ITEMS[number % 5], "id": f"e{number}"}
        sent = operator.request("POST", operator.url(host) + "/v1/events", json={"events": [event]})
        assert (sent.status_code, sent.json()["accepted"]) == (202, 1)
        for other in operator.lab.hosts:
            known = operator.request("GET", operator.url(other) + "/v1/users/u").json()["recent"]["items"]
            assert known[0]["item"] == event["item"]


def test_what_is_learned_on_one_node_ranks_on_all(operator: Operator, timed: Callable[[str], Any]) -> None:
    with timed("until new weights rank on every node"):  # the first time in a checkout the learner's loops are compiled
        for host in operator.lab.hosts:
            eventually(lambda host=host: _rank(operator, host)["model"]["version"] > 0, f"weights at {host}", 180.0)


def test_status_says_that_all_is_well(operator: Operator, timed: Callable[[str], Any]) -> None:
    eventually(lambda: status(operator)["is_well"], "all is well", 60.0)
    with timed("headrace status"):
        operator.run(f"headrace status --address {head_url(operator)}")
    shown = status(operator)
    assert [node["replicas"] for node in shown["nodes"]] == [{"events": 1, "rank": 1}] * 3
    assert all(node["door"]["version"] > 0 for node in shown["nodes"])
    assert [actor["name"] for actor in shown["actors"]] == ["headrace-hub", "headrace-learner", "headrace-projector"]


def test_the_password_is_in_no_command_line_and_in_nothing_that_the_dashboard_tells(operator: Operator) -> None:
    for host in operator.lab.hosts:
        for process in operator.lab.processes(host):
            assert operator.password not in " ".join(process.cmdline())
    token = (operator.lab.home("operator") / ".ray" / "auth_token").read_text().strip()
    for path in ("/api/jobs/", "/api/serve/applications/", "/api/v0/actors?detail=1", "/api/v0/runtime_envs?detail=1"):
        told = operator.request("GET", head_url(operator) + path, headers={"Authorization": f"Bearer {token}"})
        assert told.status_code == 200
        assert operator.password not in told.text


def test_after_ray_down_nothing_is_left_on_any_host(operator: Operator, timed: Callable[[str], Any]) -> None:
    with timed("ray down"):
        operator.run("ray down --yes cluster.yaml")
    hosts = operator.lab.hosts
    with timed("until no front door is open"):
        eventually(lambda: all(operator.is_closed(host, FRONT_PORT) for host in hosts), "closed doors", ENDED_S)
    with timed("until nothing is left"):
        eventually(lambda: not any(operator.lab.processes(host) for host in hosts), "no process", ENDED_S)
    assert all(operator.is_closed(host, port) for host in hosts for port in (DASHBOARD_PORT, 6379, 8404, 9101))
