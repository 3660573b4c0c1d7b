"""What state a cluster is in, and what is wrong with it: made of what Ray's head and the nodes' front doors say.

Pure: no request is sent here. Nodes and actors that died are listed by Ray for a while; a node is away only if nothing
alive has its address, and of an actor only that counts which has not died.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from deployments.environment import LEARNING, SERVING
from deployments.front_doors import Door, Log

MAX_AGE_MS: Final = 60_000  # versions come twice a second; so old, nothing is being learned
ALIVE: Final = "ALIVE"
ACTOR_PREFIX: Final = "headrace-"
NEEDED_ACTORS: Final = ("headrace-hub", "headrace-judge", "headrace-learner", "headrace-log", "headrace-projector")


class Node(msgspec.Struct, frozen=True):
    """A machine of the cluster."""

    address: str
    is_head: bool
    is_alive: bool
    roles: list[str]
    replicas: dict[str, int]
    """Running ones, by application."""
    door: Door | None
    """None where nothing is to be served."""


class Deployment(msgspec.Struct, frozen=True):
    """A part of an application, as Serve runs it."""

    application: str
    status: str
    message: str
    n_running: int
    n_wanted: int


class Actor(msgspec.Struct, frozen=True):
    """One of the actors that learn."""

    name: str
    state: str
    node: str


class ClusterStatus(msgspec.Struct, frozen=True):
    """The whole cluster."""

    is_well: bool
    problems: list[str]
    nodes: list[Node]
    deployments: list[Deployment]
    actors: list[Actor]
    log: Log | None
    """None if nobody knows."""
    sources: list[str] = []
    """What is to be known of sources of events. All is well without them."""


def serving_addresses(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Addresses of the live nodes that serve, of those that Ray lists."""
    return sorted(node["node_ip"] for node in nodes if node["state"] == ALIVE and SERVING in node["resources_total"])


def compose(
    nodes: Sequence[Mapping[str, Any]],
    actors: Sequence[Mapping[str, Any]],
    serve: Mapping[str, Any],
    doors: Mapping[str, Door],
    log: Log | None,
    being_set_up: Sequence[str] = (),
) -> ClusterStatus:
    """Put together what was asked for; see `head.Head` and `front_doors.look`.

    Args:
        doors: By address, of `serving_addresses`.
        being_set_up: Nodes that are still to come.
    """
    parts = _deployments(serve)
    machines = _nodes(nodes, serve, doors)
    learning = _actors(actors, {node["node_id"]: node["node_ip"] for node in nodes})
    problems = [
        *_missing(being_set_up),
        *_of_nodes(machines, parts),
        *_of_deployments(parts),
        *_of_actors(learning),
        *_of_log(log),
    ]
    return ClusterStatus(not problems, problems, machines, parts, learning, log)


def _nodes(rows: Sequence[Mapping[str, Any]], serve: Mapping[str, Any], doors: Mapping[str, Door]) -> list[Node]:
    replicas = Counter(
        (replica["node_ip"], name)
        for name, _, deployment in _each_deployment(serve)
        for replica in _running(deployment)
    )
    names = sorted({name for name, _, _ in _each_deployment(serve)})
    newest = {
        row["node_ip"]: row for row in sorted(rows, key=lambda row: (row["state"] == ALIVE, row["start_time_ms"]))
    }
    return [
        Node(
            address=address,
            is_head=row["is_head_node"],
            is_alive=row["state"] == ALIVE,
            roles=[role for role in (SERVING, LEARNING) if role in row["resources_total"]],
            replicas={name: replicas[address, name] for name in names if replicas[address, name]},
            door=doors.get(address),
        )
        for address, row in sorted(newest.items(), key=lambda item: (not item[1]["is_head_node"], item[0]))
    ]


def _each_deployment(serve: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    applications = serve.get("applications", {})
    return [
        (name, application, deployment)
        for name, application in sorted(applications.items())
        for deployment in application["deployments"].values()
    ]


def _running(deployment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [replica for replica in deployment["replicas"] if replica["state"] == "RUNNING"]


def _deployments(serve: Mapping[str, Any]) -> list[Deployment]:
    return [
        Deployment(
            application=name,
            status=application["status"],
            message=" ".join(filter(None, (application["message"], deployment["message"]))),
            n_running=len(_running(deployment)),
            n_wanted=deployment["target_num_replicas"],
        )
        for name, application, deployment in _each_deployment(serve)
    ]


def _actors(rows: Sequence[Mapping[str, Any]], addresses: Mapping[str, str]) -> list[Actor]:
    ours = [row for row in rows if (row["name"] or "").startswith(ACTOR_PREFIX) and row["state"] != "DEAD"]
    return [
        Actor(row["name"], row["state"], addresses.get(row["node_id"] or "", ""))
        for row in sorted(ours, key=lambda row: str(row["name"]))
    ]


def _missing(being_set_up: Sequence[str]) -> list[str]:
    return [f"nodes are being set up: {', '.join(being_set_up)}"] if being_set_up else []


def _of_nodes(nodes: Sequence[Node], deployments: Sequence[Deployment]) -> list[str]:
    problems = []
    for node in nodes:
        if not node.is_alive:
            problems.append(f"{node.address}: the node is away")
        elif SERVING in node.roles and deployments and not node.replicas:
            problems.append(f"{node.address}: no replica; if the node is new, deploy again")
        elif node.door is not None and node.door.problem:
            problems.append(f"{node.address}: the front door says: {node.door.problem}")
        elif node.door is not None and node.door.version and node.door.age_ms > MAX_AGE_MS:
            problems.append(f"{node.address}: the model's knowledge is {node.door.age_ms / 1000:.0f} s old")
    return problems


def _of_deployments(deployments: Sequence[Deployment]) -> list[str]:
    if not deployments:
        return ["nothing is deployed"]
    return [
        f"{one.application}: {one.n_running} of {one.n_wanted} replicas, {one.status}; {one.message}".rstrip("; ")
        for one in deployments
        if one.status != "RUNNING" or one.n_running != one.n_wanted
    ]


def _of_actors(actors: Sequence[Actor]) -> list[str]:
    names = {actor.name for actor in actors}
    problems = [f"{name}: it does not run" for name in NEEDED_ACTORS if name not in names]
    return problems + [f"{actor.name}: {actor.state}" for actor in actors if actor.state != ALIVE]


def _of_log(log: Log | None) -> list[str]:
    if log is None:
        return []  # who should know is named by itself
    problems = list(log.problems)
    if 0 < log.max_bytes < log.bytes:
        problems.append(f"the log takes {log.bytes:,} of {log.max_bytes:,} bytes: events are refused")
    return problems
