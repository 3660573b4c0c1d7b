"""Machines with roles of their own: one learns, one serves, which gets weights once for all of its replicas."""

from typing import Any

import msgspec
import pytest

from tests.cluster.conftest import LAB, Tell, eventually
from tests.cluster.operating import Operator
from tests.cluster.traffic import Traffic

pytestmark = [pytest.mark.cluster, *LAB]

BOTH = """'{"serving":1000,"learning":1000}'"""
INLINE_BYTES = 100 * 1024  # what Ray sends along with an answer, to each who asks
COUNT_S = 20.0
# What reaches a node from another one, and how many versions it takes over meanwhile.
COUNT = """
import json, socket, struct, sys, time, urllib.request

def version():
    shown = urllib.request.Request("http://127.0.0.1:8000/v1/model", headers={"authorization": f"Bearer {sys.argv[3]}"})
    return json.load(urllib.request.urlopen(shown, timeout=10))["version"]

source, n_bytes, buffer = socket.inet_aton(sys.argv[1]), 0, bytearray(1 << 16)
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as packets:
    packets.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
    packets.settimeout(0.1)
    before, end_s = version(), time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end_s:
        try:
            received = packets.recv_into(buffer)
        except TimeoutError:
            continue
        n_bytes += received if buffer[12:16] == source else 0
    n_versions = version() - before
    _, dropped = struct.unpack("II", packets.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
print(json.dumps({"bytes": n_bytes, "versions": n_versions, "dropped": dropped}))
"""


@pytest.fixture(scope="module")
def divided(operator: Operator) -> Operator:
    """Two machines; the third does not take part."""
    addresses = operator.lab.addresses
    operator.edit(f"[{addresses['h2']}, {addresses['h3']}]", f"[{addresses['h2']}]")
    operator.edit(f"{BOTH}; }}", """'{"serving":1000}'; }""")
    operator.edit(BOTH, """'{"learning":1000}'""")
    operator.run("ray get-auth-token --generate; ray up --yes cluster.yaml")
    return operator


def deploy(divided: Operator, n_rankers: int) -> None:
    divided.settings(f"n_rankers = {n_rankers}\n")
    divided.run(divided.deploy_command, wait_s=400.0)
    eventually(divided.is_well, "all is well", 60.0)


def test_each_machine_does_what_it_is_told(divided: Operator) -> None:
    deploy(divided, 1)
    shown = divided.status()
    assert [node["roles"] for node in shown["nodes"]] == [["learning"], ["serving"]]
    assert [node["replicas"] for node in shown["nodes"]] == [{}, {"events": 1, "rank": 1}]
    assert {actor["node"] for actor in shown["actors"]} == {divided.lab.addresses["h1"]}


def test_weights_cross_the_network_once_a_node_and_not_once_a_replica(divided: Operator, tell: Tell) -> None:
    bytes_of = {}
    for n_rankers in (1, 3):
        deploy(divided, n_rankers)
        counted = _count(divided)
        bytes_of[n_rankers] = counted["bytes"] / counted["versions"]
        tell(f"{n_rankers} replicas", f"{bytes_of[n_rankers]:,.0f} bytes a version, of {counted}")
        assert counted["dropped"] == 0
    assert bytes_of[1] > INLINE_BYTES
    assert bytes_of[3] < 1.2 * bytes_of[1]


def _count(divided: Operator) -> dict[str, Any]:
    """Of a node that serves, while events come: what the one with the hub sent it, and how many versions it took."""
    door, source = divided.url("h2"), divided.lab.addresses["h1"]
    crowd = {"rankers": 0, "n_candidates": 5000, "events_per_post": 50, "pause_s": 0.1}
    with Traffic([door], **crowd, in_thread=divided.lab.enter_as_operator, headers=divided.shown) as traffic:
        eventually(lambda: traffic.n_taken > 5000, "events", 60.0)
        counted: dict[str, Any] = msgspec.json.decode(
            divided.lab.run("h2", "python3", "-c", COUNT, source, str(COUNT_S), divided.api_key).encode()
        )
    return counted
