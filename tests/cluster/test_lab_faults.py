"""Machines of a cluster are lost under load, one after the other; the head keeps what it knows in a Redis.

The tests are one story, in order. What each loss cost is written to the test's report.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.conftest import LAB, Tell, eventually
from tests.cluster.lab import STORE
from tests.cluster.operating import Operator
from tests.cluster.traffic import Traffic

pytestmark = [pytest.mark.chaos, *LAB]

AWAY_S = 75.0  # longer than Ray by itself would have nodes wait for their head
HEALED_S = 120.0
N_UNDER_WAY = 4  # at two doors, each with somebody who ranks and somebody who sends events
LEARNERS = ("headrace-learner", "headrace-learner-1")


@pytest.fixture(scope="module")
def served(operator: Operator) -> Operator:
    """A cluster with two learners, on which all is well."""
    operator.start_store(6380)
    kept = f"redis://:{operator.password}@{operator.lab.addresses[STORE]}:6380"
    operator.edit("HEADRACE_GCS_REDIS=''", f"HEADRACE_GCS_REDIS='{kept}'")
    operator.run("ray get-auth-token --generate; ray up --yes cluster.yaml")
    operator.settings("[learner.rounds]\nn_learners = 2\n")
    operator.run(operator.deploy_command, wait_s=400.0)
    eventually(operator.is_well, "all is well", 60.0)
    return operator


@contextmanager
def traffic_beside(served: Operator, lost: str) -> Iterator[Traffic]:
    """Ranks and events at every door but one; at the end each event must have been learned once."""
    hosts = [host for host in served.lab.hosts if host != lost]
    doors, first = [served.url(host) for host in hosts], hosts[0]
    before = served.model(first).get("events", 0)
    with Traffic(
        doors, pause_s=0.05, timeout_s=5.0, in_thread=served.lab.enter_as_operator, headers=served.shown
    ) as traffic:
        eventually(lambda: traffic.n_taken > 300 and served.model(first)["events"] > before, "traffic", 60.0)
        yield traffic
    n_events = before + traffic.n_taken
    eventually(lambda: served.model(first).get("events", 0) >= n_events, "everything learned", 60.0)
    assert served.model(first)["events"] == n_events


def places(served: Operator) -> dict[str, str]:
    """On which host each actor is."""
    hosts = {address: host for host, address in served.lab.addresses.items()}
    return {one["name"]: hosts[one["node"]] for one in served.status()["actors"]}


def failed_for_others(traffic: Traffic, lost_s: float, tell: Tell) -> int:
    """How many requests failed at the doors that stay; until when is told."""
    failed = traffic.failed()
    until_s = max((answer.at_s for answer in failed), default=lost_s) - lost_s
    tell("failed", f"{len(failed)} of {len(traffic.answers)}, the last one {until_s:.1f} s after the loss")
    return len(failed)


def test_learners_are_on_different_hosts(served: Operator) -> None:
    place = places(served)
    assert place[LEARNERS[0]] != place[LEARNERS[1]]


@pytest.mark.parametrize("loss", ["power_off", "crash"])
def test_a_lost_worker_costs_those_it_was_answering_and_its_partitions_are_taken_over(
    served: Operator, loss: str, tell: Tell
) -> None:
    place = places(served)
    lost = _worker_with_a_learner(place)
    tell("lost", f"{lost}, of {place}")
    with traffic_beside(served, lost) as traffic:
        version = served.model()["version"]
        lost_s = time.monotonic()
        getattr(served.lab, loss)(lost)
        # Versions under way may still come; one of a later round needs every learner.
        eventually(lambda: served.model().get("version", 0) > version + 2, "versions again", 60.0)
        tell("learning goes on", f"{time.monotonic() - lost_s:.1f} s after the loss")
    assert failed_for_others(traffic, lost_s, tell) <= N_UNDER_WAY, traffic.outcomes()
    served.lab.boot(lost)
    booted_s = time.monotonic()
    eventually(served.is_well, "all is well again", HEALED_S)
    tell("healed", f"{time.monotonic() - booted_s:.1f} s after the boot, by itself")


def _worker_with_a_learner(place: dict[str, str]) -> str:
    """The worker with a learner and without the hub; if there is none, with a learner; if there is none, any."""
    return max(
        ("h2", "h3"),
        key=lambda host: (any(place[name] == host for name in LEARNERS), place["headrace-hub"] != host),
    )


def test_a_lost_head_is_done_without_for_longer_than_a_minute_and_finds_everything_again(
    served: Operator, tell: Tell
) -> None:
    with traffic_beside(served, "h1") as traffic:
        lost_s = time.monotonic()
        served.lab.crash("h1")
        eventually(lambda: time.monotonic() > lost_s + AWAY_S, "enough time without a head", 2 * AWAY_S)
        served.lab.boot("h1")
        booted_s = time.monotonic()
        served.run("ray up --yes cluster.yaml")
        eventually(served.is_well, "all is well again", HEALED_S)
        tell("healed", f"{time.monotonic() - booted_s:.1f} s after the boot, with `ray up`")
    assert failed_for_others(traffic, lost_s, tell) <= N_UNDER_WAY, traffic.outcomes()
