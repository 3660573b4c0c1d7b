"""A cluster's state is put together rightly, and what is wrong with it is said. The rows are as Ray 2.60 sends them."""

from collections.abc import Callable
from typing import Any

import pytest

from deployments.cluster_status import ClusterStatus, compose, serving_addresses
from deployments.front_doors import Door, Log

HEAD, WORKER = "192.0.2.10", "192.0.2.11"
ALL_ROLES = {"CPU": 2.0, "serving": 1000.0, "learning": 1000.0}


def node(address: str, *, number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "node_id": f"{address}-{number}",
        "node_ip": address,
        "is_head_node": address == HEAD,
        "state": "ALIVE",
        "resources_total": ALL_ROLES,
        "start_time_ms": 1_795_758_287_618 + number,
        **changes,
    }


def actor(name: str | None, state: str = "ALIVE", on: str = HEAD) -> dict[str, Any]:
    return {"name": name, "state": state, "node_id": f"{on}-0", "class_name": "X", "ray_namespace": "headrace"}


def application(deployment: str, *, status: str = "RUNNING", message: str = "") -> dict[str, Any]:
    replicas = [{"node_ip": address, "state": "RUNNING"} for address in (HEAD, WORKER)]
    part = {"name": deployment, "message": "", "target_num_replicas": 2, "replicas": replicas}
    return {"status": status, "message": message, "deployments": {deployment: part}}


class Cluster:
    """Two machines that are well, to be spoilt."""

    def __init__(self) -> None:
        self.nodes = [node(WORKER), node(HEAD)]
        self.actors = [actor(f"headrace-{name}") for name in ("hub", "judge", "projector", "log", "learner")]
        self.serve = {"applications": {"rank": application("Ranker"), "events": application("Events")}}
        self.doors = {address: Door(version=41, age_ms=820) for address in (HEAD, WORKER)}
        self.log: Log | None = Log(3_000_000, 8_000_000, 700.0, 1.98, "/log", 12.0, [])
        self.being_set_up: list[str] = []

    def status(self) -> ClusterStatus:
        return compose(self.nodes, self.actors, self.serve, self.doors, self.log, self.being_set_up)

    def replicas(self, name: str, deployment: str) -> list[dict[str, Any]]:
        replicas: list[dict[str, Any]] = self.serve["applications"][name]["deployments"][deployment]["replicas"]
        return replicas


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_cluster_that_is_well(cluster: Cluster) -> None:
    status = cluster.status()
    assert status.is_well and status.problems == []
    assert [(one.address, one.is_head, one.roles, one.replicas) for one in status.nodes] == [
        (HEAD, True, ["serving", "learning"], {"events": 1, "rank": 1}),
        (WORKER, False, ["serving", "learning"], {"events": 1, "rank": 1}),
    ]
    assert [(one.application, one.n_running, one.n_wanted) for one in status.deployments] == [
        ("events", 2, 2),
        ("rank", 2, 2),
    ]
    assert {(one.name, one.node) for one in status.actors} == {
        (f"headrace-{name}", HEAD) for name in ("hub", "judge", "projector", "log", "learner")
    }


def test_what_died_and_was_replaced_is_no_problem(cluster: Cluster) -> None:
    cluster.nodes.insert(0, node(WORKER, number=-1, state="DEAD"))
    cluster.actors += [actor("headrace-learner", "DEAD"), actor("headrace-learner-1", "DEAD"), actor(None, "DEAD")]
    assert cluster.status() == Cluster().status()


def test_a_model_that_does_not_exist_yet_is_no_problem(cluster: Cluster) -> None:
    cluster.doors[HEAD] = Door()
    assert cluster.status().is_well


def test_a_node_without_replicas_and_door_is_no_problem_where_nothing_is_to_be_served(cluster: Cluster) -> None:
    cluster.nodes.append(node("192.0.2.12", resources_total={"learning": 1000.0}))
    assert cluster.status().is_well
    assert serving_addresses(cluster.nodes) == [HEAD, WORKER]


def lose_a_node(cluster: Cluster) -> None:
    cluster.nodes[0] = node(WORKER, state="DEAD")
    del cluster.doors[WORKER]


def add_a_node(cluster: Cluster) -> None:
    cluster.nodes.append(node("192.0.2.12"))
    cluster.doors["192.0.2.12"] = Door(problem="[Errno 111] Connection refused")


def shut_a_door(cluster: Cluster) -> None:
    cluster.doors[WORKER] = Door(problem="503 unavailable: the store is away")


def stop_learning(cluster: Cluster) -> None:
    cluster.doors[HEAD] = Door(version=41, age_ms=75_000)


def lose_a_replica(cluster: Cluster) -> None:
    cluster.replicas("rank", "Ranker")[0]["state"] = "STARTING"


def fail_to_deploy(cluster: Cluster) -> None:
    cluster.serve["applications"]["events"] = application("Events", status="DEPLOY_FAILED", message="no module")


def deploy_nothing(cluster: Cluster) -> None:
    cluster.serve = {"controller_info": {}, "proxies": {}, "applications": {}}


def lose_the_hub(cluster: Cluster) -> None:
    cluster.actors[0]["state"] = "DEAD"


def restart_a_learner(cluster: Cluster) -> None:
    cluster.actors.append(actor("headrace-learner-1", "RESTARTING"))


def set_up_a_node(cluster: Cluster) -> None:
    cluster.being_set_up = ["192.0.2.12 (setting-up)"]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lose_a_node, f"{WORKER}: the node is away"),
        (add_a_node, "192.0.2.12: no replica; if the node is new, deploy again"),
        (shut_a_door, f"{WORKER}: the front door says: 503 unavailable: the store is away"),
        (stop_learning, f"{HEAD}: the model's knowledge is 75 s old"),
        (lose_a_replica, "rank: 1 of 2 replicas, RUNNING"),
        (fail_to_deploy, "events: 2 of 2 replicas, DEPLOY_FAILED; no module"),
        (deploy_nothing, "nothing is deployed"),
        (lose_the_hub, "headrace-hub: it does not run"),
        (restart_a_learner, "headrace-learner-1: RESTARTING"),
        (set_up_a_node, "nodes are being set up: 192.0.2.12 (setting-up)"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_else(
    cluster: Cluster, spoil: Callable[[Cluster], None], problem: str
) -> None:
    spoil(cluster)
    status = cluster.status()
    assert (status.is_well, status.problems) == (False, [problem])


def test_a_log_that_is_full_or_in_trouble_is_a_problem(cluster: Cluster) -> None:
    cluster.log = Log(8_000_001, 8_000_000, 700.0, 0.0, "/log", None, ["the log is not archived: /log: no space"])
    assert cluster.status().problems == [
        "the log is not archived: /log: no space",
        "the log takes 8,000,001 of 8,000,000 bytes: events are refused",
    ]
    cluster.log = Log(8_000_001, 0, 700.0, None, "", None, [])
    assert cluster.status().is_well
    cluster.log = None
    assert cluster.status().is_well
