"""`headrace deploy`: an operator's source and settings, onto a cluster that is up."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deployments import front_doors
from deployments.cluster_status import serving_addresses
from deployments.config import read_values
from deployments.environment import FRONT_PORT
from deployments.errors import ClusterError
from deployments.head import Head, read_token
from deployments.shipping import Visitor, config_for_cluster, pack
from deployments.terminal import console, user_name
from features.access import RANK, new_key, new_token
from features.clock import WallClock

COMMAND: Final = "python -m deployments.deploy_job"
SET_UP_S: Final = 900.0  # a fresh node downloads and unpacks torch first
FIRST_LOOK_S: Final = 20.0  # the autoscaler looks for nodes every 5 s, once it runs
KEY_S: Final = 3600.0  # a first deployment compiles and starts for minutes
OPEN_S: Final = 60.0  # all replicas run by then; each node's HAProxy must hear of them
POLL_S: Final = 0.5


def run_deploy(options: argparse.Namespace) -> int:
    """Deploy; return once every front door answers a ranking."""
    options.url = options.address
    values = read_values(options.config)
    config_for_cluster(values)
    began_s = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began_s:6.1f} s[/dim] ", end="")
        console.print(text, markup=False, highlight=False)

    with Head(options.address, read_token()) as head:
        wait_for_nodes(head, say)
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            visitor, token = new_visitor()
            pack(values, Path(folder), visitor)
            say("sending the source")
            head.run(COMMAND, say, Path(folder))
        addresses = serving_addresses(head.nodes())
        wait_for_doors(addresses, token)
    say(f"ready at {', '.join(f'http://{address}:{FRONT_PORT}' for address in addresses)}")
    return 0


def wait_for_nodes(head: Head, say: Callable[[str], None]) -> None:
    """Wait until no node is being set up any more, so that the replicas come to all of them.

    What takes too long is said, and not waited for: a machine that is broken must not be in the way of all others.

    Raises:
        ClusterError: If no node serves.
    """
    began_s = time.monotonic()
    said: list[str] = []
    while True:
        awaited = head.being_set_up()
        if awaited == [] or (awaited is None and time.monotonic() - began_s > FIRST_LOOK_S):
            break
        if awaited and awaited != said:
            say(f"waiting for nodes: {', '.join(awaited)}")
            said = awaited
        if time.monotonic() - began_s > SET_UP_S:
            say(f"not waiting any longer for {', '.join(awaited or ())}: deploy again once they are there")
            break
        time.sleep(POLL_S)
    if not serving_addresses(head.nodes()):
        raise ClusterError(f"{head.address}: no node serves; see `resources` in cluster.yaml")


def new_visitor() -> tuple[Visitor, str]:
    """Who deploys, with a key that opens rankings for a while; and the token of it, which stays here."""
    token, now_ms = new_token(), WallClock().now_ms()
    until_ms = now_ms + round(KEY_S * 1000)
    return Visitor(user_name(), new_key(token, "deploy", (RANK,), made_ms=now_ms, until_ms=until_ms)), token


def wait_for_doors(addresses: list[str], api_key: str) -> None:
    """Wait until every front door answers a ranking.

    Args:
        api_key: That opens rankings.
    Raises:
        ClusterError: If one does not in time, with what each says.
    """
    deadline_s = time.monotonic() + OPEN_S
    while shut := {
        name: door.problem for name, door in front_doors.try_rank(addresses, api_key).items() if door.problem
    }:
        if time.monotonic() > deadline_s:
            said = "; ".join(f"{address}: {problem}" for address, problem in shut.items())
            raise ClusterError(f"deployed, but not every front door answers within {OPEN_S:g} s: {said}")
        time.sleep(POLL_S)
