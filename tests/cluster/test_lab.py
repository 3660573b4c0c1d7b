"""`ray up cluster.yaml`, `headrace deploy`, `headrace status` and `ray down`, really done, on three machines.

The tests are one story, in order. How long each part of it took is written to the test's report.
"""

from collections.abc import Callable
from typing import Any

import pytest

from deployments.environment import FRONT_PORT
from tests.cluster.conftest import LAB, Tell
from tests.cluster.operating import DASHBOARD_PORT, Operator
from tests.cluster.traffic import EVENTS, RANK, Traffic
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, *LAB]

ITEMS = [f"i{index}" for index in range(5)]
N_SENT = 6  # events, before others come in masses
ENDED_S = 90.0


def test_ray_up_starts_every_node(operator: Operator, timed: Callable[[str], Any]) -> None:
    operator.run("ray get-auth-token --generate")
    with timed("ray up"):
        operator.run("ray up --yes cluster.yaml")
    with timed("until all nodes are alive"):
        eventually(lambda: _n_alive(operator) == 3, "three nodes", 90.0)
    nodes = operator.status()["nodes"]
    assert [node["address"] for node in nodes] == [operator.lab.addresses[host] for host in operator.lab.hosts]
    assert all(node["roles"] == ["serving", "learning"] for node in nodes)


def _n_alive(operator: Operator) -> int:
    return sum(node["is_alive"] for node in operator.status()["nodes"])


def test_a_cluster_with_nothing_on_it_is_not_well(operator: Operator) -> None:
    shown = operator.run(f"! headrace status --address {operator.head_url}")
    assert "nothing is deployed" in shown


def test_the_dashboard_is_closed_without_the_token(operator: Operator) -> None:
    body = {"entrypoint": "touch ~/broken-in"}
    for options in ({}, {"headers": {"Authorization": "Bearer wrong"}}):
        for method, path in (("GET", "/nodes?view=summary"), ("POST", "/api/jobs/"), ("GET", "/api/v0/actors")):
            refused = operator.request(method, operator.head_url + path, json=body, **options)
            assert refused.status_code in {401, 403}, (path, refused.text)
    assert not (operator.lab.home("h1") / "broken-in").exists()


def test_a_deployment_that_cannot_work_is_refused_with_the_reason(operator: Operator) -> None:
    refused = operator.run(f"! env -u HEADRACE_REDIS_URL headrace deploy --address {operator.head_url}")
    assert "HEADRACE_REDIS_URL" in refused
    operator.settings("")
    (operator.checkout / "pyproject.toml").write_text('[project]\ndependencies = ["no-such-thing==1"]\n')
    try:
        failed = operator.run(f"! {operator.deploy_command}")
    finally:
        operator.refresh("pyproject.toml")
    assert "no-such-thing==1, not installed" in failed
    assert operator.status()["deployments"] == []


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
    for number in range(N_SENT):
        host = operator.lab.hosts[number % 3]
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
    eventually(lambda: operator.model()["events"] >= N_SENT, "everything learned", 60.0)
    assert operator.model()["events"] == N_SENT


def test_status_says_that_all_is_well(operator: Operator, timed: Callable[[str], Any]) -> None:
    eventually(operator.is_well, "all is well", 60.0)
    with timed("headrace status"):
        operator.run(f"headrace status --address {operator.head_url}")
    shown = operator.status()
    assert [node["replicas"] for node in shown["nodes"]] == [{"events": 1, "rank": 1}] * 3
    assert all(node["door"]["version"] > 0 for node in shown["nodes"])
    assert [actor["name"] for actor in shown["actors"]] == [
        "headrace-hub",
        "headrace-judge",
        "headrace-learner",
        "headrace-log",
        "headrace-projector",
        "headrace-skew",
    ]


def test_the_password_is_in_no_command_line_and_in_nothing_that_the_dashboard_tells(operator: Operator) -> None:
    for host in operator.lab.hosts:
        lines = operator.lab.command_lines(host)
        assert lines and not any(operator.password in line for line in lines)
    token = (operator.lab.home("operator") / ".ray" / "auth_token").read_text().strip()
    for path in ("/api/jobs/", "/api/serve/applications/", "/api/v0/actors?detail=1", "/api/v0/runtime_envs?detail=1"):
        told = operator.request("GET", operator.head_url + path, headers={"Authorization": f"Bearer {token}"})
        assert told.status_code == 200
        assert operator.password not in told.text


def test_newer_source_takes_the_place_of_what_runs_without_a_failed_request(
    operator: Operator, timed: Callable[[str], Any], tell: Tell
) -> None:
    file = operator.checkout / "deployments" / "openapi.py"
    file.write_text(file.read_text().replace('"version": "1"', '"version": "newer"'))
    doors = [operator.url(host) for host in operator.lab.hosts]
    with (
        Traffic(doors, in_thread=operator.lab.enter_as_operator, headers=operator.shown) as traffic,
        timed("headrace deploy, again"),
    ):
        operator.run(operator.deploy_command, wait_s=400.0)
    tell("requests", dict(traffic.outcomes()))
    assert set(traffic.outcomes()) == {(RANK, 200), (EVENTS, 202)}, traffic.outcomes()
    for host in operator.lab.hosts:
        assert operator.request("GET", operator.url(host) + "/v1/openapi.json").json()["info"]["version"] == "newer"
    eventually(operator.is_well, "all is well again", 60.0)
    n_events = N_SENT + traffic.n_taken
    eventually(lambda: operator.model()["events"] >= n_events, "everything learned", 60.0)
    assert operator.model()["events"] == n_events


def test_a_lost_head_that_kept_nothing_is_done_without_and_a_new_one_starts_from_the_durable_versions(
    operator: Operator, timed: Callable[[str], Any], tell: Tell
) -> None:
    before = operator.model()
    others = [operator.url(host) for host in operator.lab.hosts[1:]]
    with Traffic(others, in_thread=operator.lab.enter_as_operator, headers=operator.shown) as traffic:
        operator.lab.crash("h1")
        n_answers = len(traffic.answers)
        eventually(lambda: len(traffic.answers) > n_answers + 500, "answers without a head", 60.0)
        operator.lab.boot("h1")
        assert all(answer.is_good for answer in traffic.answers[-400:]), traffic.outcomes()
        tell("requests before `ray up`", dict(traffic.outcomes()))
        with timed("ray up and headrace deploy, again"):
            operator.run("ray up --yes cluster.yaml")
            operator.run(operator.deploy_command, wait_s=400.0)
    tell("requests in all", dict(traffic.outcomes()))
    eventually(operator.is_well, "all is well again", 60.0)
    n_events = before["events"] + traffic.n_taken
    eventually(lambda: operator.model()["events"] >= n_events, "everything learned", 60.0)
    assert operator.model()["events"] == n_events and operator.model()["version"] > before["version"]


def test_after_headrace_down_and_ray_down_nothing_is_left_on_any_host(
    operator: Operator, timed: Callable[[str], Any]
) -> None:
    with timed("headrace down"):
        operator.run(f"headrace down --address {operator.head_url}")
    assert all(operator.is_closed(host, FRONT_PORT) for host in operator.lab.hosts)
    with timed("ray down"):
        operator.run("ray down --yes cluster.yaml")
    with timed("until nothing is left"):
        eventually(lambda: not any(operator.lab.processes(host) for host in operator.lab.hosts), "no process", ENDED_S)
    ports = (FRONT_PORT, DASHBOARD_PORT, 6379, 8404, 9101)
    assert all(operator.is_closed(host, port) for host in operator.lab.hosts for port in ports)
