"""What somebody gets at the doors of a cluster without key, token or password: from elsewhere, and as one of its nodes.

Every port that listens is tried in every language (`knocking.py`); what it answers is written to the test's report as a
table.
"""

import re
import sys
from collections import Counter
from typing import Final, NamedTuple

import msgspec
import pytest

from tests.cluster.conftest import LAB, Tell, eventually
from tests.cluster.knocking import UNREACHABLE
from tests.cluster.lab import OPERATOR, ROOT, STORE
from tests.cluster.operating import DASHBOARD_PORT, Operator

pytestmark = [pytest.mark.cluster, *LAB]

LISTENING: Final = re.compile(r'^LISTEN\s+\S+\s+\S+\s+(\S+):(\d+)\s+\S+\s+users:\(\("([^"]+)"')
REFUSED: Final = {"401", "403", "404", "405", "UNAUTHENTICATED", "UNIMPLEMENTED", "-NOAUTH"}
FRONT: Final = 8000
STORE_PORT: Final = 6379
OPEN: Final = {FRONT, DASHBOARD_PORT, 22}
"""Ports of a node that others reach."""
HEALTH: Final = ("GET /v1/health", "200")
PAGE: Final = ("GET /", "200")  # the dashboard's empty page, which then asks for the token
ROUTES: Final = ("GET /-/routes", "200")
Answers = dict[str, str]


class Door(NamedTuple):
    """A port that listens, not for its host alone."""

    host: str
    program: str
    port: int


@pytest.fixture(scope="module")
def served(operator: Operator) -> Operator:
    """A cluster on which all is well, and a model answers."""
    operator.run("ray get-auth-token --generate; ray up --yes cluster.yaml")
    operator.settings("")
    operator.run(operator.deploy_command, wait_s=400.0)
    eventually(operator.is_well, "all is well", 60.0)
    return operator


@pytest.fixture(scope="module")
def doors(served: Operator) -> list[Door]:
    """Every one, of head, worker and store."""
    return sorted({door for host in ("h1", "h2", STORE) for door in listening(served, host)})


def listening(served: Operator, host: str) -> list[Door]:
    found = []
    for line in served.lab.run(host, "ss", "-Hltnp").splitlines():
        match = LISTENING.match(line)
        assert match is not None, line
        address, port, program = match.groups()
        if "127.0.0.1" not in address and "[::1]" not in address:
            found.append(Door(host, program, int(port)))
    return found


def knock(served: Operator, host: str, doors: list[Door]) -> dict[Door, Answers]:
    """What a program on a host gets at these doors."""
    addresses = {f"{served.lab.addresses[door.host]}:{door.port}": door for door in doors}
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.cluster.knocking", *addresses)
    told: dict[str, Answers] = msgspec.json.decode(served.lab.run(host, *command, wait_s=300.0).splitlines()[-1])
    return {addresses[address]: answers for address, answers in told.items()}


def summed_up(answers: Answers) -> str:
    counted = Counter(answers.values())
    good = [f"{what} {got}" for what, got in answers.items() if got not in REFUSED | {UNREACHABLE}]
    return ", ".join([*(f"{got} x{n}" for got, n in sorted(counted.items()) if got in REFUSED | {UNREACHABLE}), *good])


def test_from_elsewhere_nothing_is_got_but_that_the_doors_are_open(
    served: Operator, doors: list[Door], tell: Tell
) -> None:
    found = knock(served, OPERATOR, doors)
    for door, answers in found.items():
        tell(f"{door.host} {door.program} {door.port}, from elsewhere", summed_up(answers))
    for door, answers in found.items():
        if door.host != STORE and door.port not in OPEN:
            assert answers == {"connect": UNREACHABLE}, (door, answers)
        allowed = {HEALTH} if door.port == FRONT else {PAGE} if door.port == DASHBOARD_PORT else set()
        assert {(what, got) for what, got in answers.items() if got not in REFUSED | {UNREACHABLE}} <= allowed, door
    assert found[Door("h1", "haproxy", FRONT)]["POST /v1/rank"] == "401"
    (store,) = [door for door in doors if door.host == STORE and door.port == STORE_PORT]
    assert set(found[store].values()) == {"-NOAUTH"}


def test_from_a_node_metrics_are_seen_and_everything_else_asks_for_key_token_or_password(
    served: Operator, doors: list[Door], tell: Tell
) -> None:
    found = knock(served, "h3", doors)
    for door, answers in found.items():
        tell(f"{door.host} {door.program} {door.port}, from a node", summed_up(answers))
    for door, answers in found.items():
        is_metrics = answers.get("GET /metrics") == "200"
        good = {(what, got) for what, got in answers.items() if got not in REFUSED | {UNREACHABLE}}
        if is_metrics:  # whatever one asks for, it tells those
            assert all(what.startswith("GET ") for what, _ in good), (door, good)
        else:
            assert good <= {HEALTH, PAGE, ROUTES}, (door, good)
    for program, method in (
        ("gcs_server", "/ray.rpc.InternalKVGcsService/InternalKVKeys"),
        ("raylet", "/ray.rpc.NodeManagerService/RequestWorkerLease"),
        ("raylet", "/ray.rpc.ObjectManagerService/Push"),
        ("ray::ServeRepli", "/ray.rpc.CoreWorkerService/PushTask"),
        ("ray::ServeRepli", "/ray.serve.ASGIService/HandleRequest"),
    ):
        asked = {answers.get(method) for door, answers in found.items() if door.program == program}
        assert "UNAUTHENTICATED" in asked and asked <= {"UNAUTHENTICATED", "UNIMPLEMENTED", None}, (program, method)
    replicas = [answers for door, answers in found.items() if door.program == "ray::ServeRepli"]
    # Two of each on the machines that are knocked at; those that take events ask for a key for unknown paths, too.
    assert sum(answers.get("POST /v1/rank") == "401" for answers in replicas) == 4
    assert sum(answers.get("POST /v1/events") == "401" for answers in replicas) == 2
