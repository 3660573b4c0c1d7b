"""`headrace status --address`: a cluster, from its operator's machine."""

import argparse

import msgspec
from rich.console import Console
from rich.table import Table

from deployments import front_doors
from deployments.cluster_status import ClusterStatus, Node, compose, serving_addresses
from deployments.credentials import API_KEY, key_for
from deployments.front_doors import Log
from deployments.head import Head, read_token
from deployments.terminal import console


def run_status(options: argparse.Namespace) -> int:
    """Show the cluster; exit status 1 unless all is well, and what is not."""
    options.url = options.address
    with Head(options.address, read_token()) as head:
        nodes, actors, serve = head.nodes(), head.actors(), head.serving()
        being_set_up = head.being_set_up() or ()
    addresses, api_key = serving_addresses(nodes), key_for("")
    doors, log = front_doors.look(addresses, api_key), front_doors.look_at_log(addresses, api_key) if api_key else None
    status = compose(nodes, actors, serve, doors, log, being_set_up)
    if api_key:
        status = msgspec.structs.replace(status, sources=front_doors.look_at_sources(addresses, api_key))
    else:
        console.print(f"model, log and sources are told to a key of scope admin: set {API_KEY}", style="dim")
    if options.json:
        print(msgspec.json.encode(status).decode())
    else:
        show(status, Console())
    for problem in status.problems:
        console.print(problem, style="red", markup=False, highlight=False)
    for source in status.sources:
        console.print(source, style="yellow", markup=False, highlight=False)
    return 0 if status.is_well else 1


def show(status: ClusterStatus, to: Console) -> None:
    """Draw tables."""
    nodes = Table(title="nodes", title_justify="left")
    for column in ("address", "alive", "roles", "replicas", "front door", "model", "age"):
        nodes.add_column(column)
    for node in status.nodes:
        nodes.add_row(*_row(node))
    to.print(nodes)
    parts = Table(title="what runs", title_justify="left")
    for column in ("name", "state", "where"):
        parts.add_column(column)
    for one in status.deployments:
        parts.add_row(one.application, one.status, f"{one.n_running} of {one.n_wanted} replicas")
    for actor in status.actors:
        parts.add_row(actor.name, actor.state, actor.node)
    to.print(parts)
    if status.log is not None:
        to.print(_of_log(status.log), markup=False, highlight=False)


def _of_log(log: Log) -> str:
    said = f"log: {log.bytes / 1e6:,.1f} MB"
    if log.max_bytes:
        said += f" of {log.max_bytes / 1e6:,.0f}"
    said += f", {log.bytes_per_s / 1e3:,.1f} kB/s are appended"
    if log.hours_left is not None:
        said += f", {log.hours_left:,.1f} h left if nothing is dropped"
    if log.archive_behind_s is not None:
        said += f"; archived in {log.archive}, {log.archive_behind_s:,.0f} s behind"
    return said


def _row(node: Node) -> tuple[str, ...]:
    address = f"{node.address} (head)" if node.is_head else node.address
    replicas = ", ".join(f"{count} {name}" for name, count in node.replicas.items())
    known = (address, "yes" if node.is_alive else "no", ", ".join(node.roles), replicas)
    if node.door is None:
        return (*known, "", "", "")
    if node.door.problem:
        return (*known, "no", "", "")
    return (
        *known,
        "ok",
        str(node.door.version or "none"),
        f"{node.door.age_ms / 1000:.1f} s" if node.door.version else "",
    )
