"""The lab's hosts are machines of their own, and leave nothing behind."""

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import LAB
from tests.cluster.lab import NETWORK, OPERATOR, Lab
from tests.waiting import eventually

pytestmark = LAB

PORT = 7000
LISTEN = f"""
import socket
with socket.create_server(("0.0.0.0", {PORT})) as server:
    kept, _ = server.accept()
    server.accept()
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, n_hosts=2) as lab:
        yield lab


def test_hosts_share_neither_processes_nor_folders_nor_names(lab: Lab) -> None:
    lab.ssh("h1", "touch /tmp/mine /run/mine /dev/shm/mine ~/mine")
    look = "hostname; ls -d /tmp/mine /run/mine /dev/shm/mine ~/mine 2>/dev/null | wc -l"
    assert lab.ssh("h1", look).split() == ["h1", "4"]
    assert lab.ssh("h2", look).split() == ["h2", "0"]
    waiting = lab.start("h1", "sleep", "infinity", log=lab.folder / "sleep.log")
    assert len(lab.processes("h1")) == 1
    assert lab.processes("h2") == []
    assert lab.ssh("h2", "pgrep --count --full 'sleep infinit[y]'").strip() == "1"  # its own first process waits so
    assert waiting.poll() is None


def test_hosts_reach_one_another_and_nothing_else(lab: Lab) -> None:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"
    lab.run("h1", "python3", "-c", connect, lab.addresses["h2"], "22")
    with socket.create_server(("0.0.0.0", 0)) as outside:
        here = next((one for one in _addresses_of_this_machine() if not one.startswith("127.")), "192.0.2.1")
        refused = lab.run("h1", "python3", "-c", connect, here, str(outside.getsockname()[1]), check=False)
    assert "Error" in refused
    assert not any(address.startswith(NETWORK) for address in _addresses_of_this_machine())


def _addresses_of_this_machine() -> list[str]:
    found = psutil.net_if_addrs().values()
    return [one.address for addresses in found for one in addresses if one.family == socket.AF_INET]


def connected(lab: Lab) -> socket.socket:
    """A connection from the operator to a program on h1."""
    lab.start("h1", "python3", "-c", LISTEN, log=lab.folder / "listen.log")

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection((lab.addresses["h1"], PORT), 3)
        except ConnectionRefusedError:
            return None

    made: socket.socket = eventually(lambda: lab.as_operator(connect), "a connection")
    made.settimeout(1.0)
    return made


def test_peers_of_a_crashed_host_are_told_and_those_of_one_without_power_hear_nothing(lab: Lab) -> None:
    with connected(lab) as told:
        lab.crash("h1")
        assert told.recv(1) == b""
    lab.boot("h1")
    with connected(lab) as untold:
        lab.power_off("h1")
        with pytest.raises(TimeoutError):
            untold.recv(1)
    lab.boot("h1")
    assert lab.ssh("h1", "hostname").strip() == "h1"


def test_a_boot_empties_what_is_temporary_and_keeps_the_home(lab: Lab) -> None:
    lab.ssh("h1", "touch /tmp/mine /run/mine /dev/shm/mine ~/mine")
    lab.crash("h1")
    lab.boot("h1")
    assert lab.ssh("h1", "ls -d /tmp/mine /run/mine /dev/shm/mine ~/mine 2>/dev/null || true").split() == ["/root/mine"]


def test_two_labs_know_nothing_of_each_other_and_leave_nothing(tmp_path: Path) -> None:
    before = _addresses_of_this_machine()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Lab(tmp_path / "a", n_hosts=1) as one, Lab(tmp_path / "b", n_hosts=1) as other:
        one.ssh("h1", "touch ~/mine")
        assert other.ssh("h1", "ls ~").split() == []
        processes = [process for host in (*one.hosts, OPERATOR) for process in one.everything(host)]
        assert processes
    assert not any(process.is_running() for process in processes)
    assert _addresses_of_this_machine() == before


def test_after_a_failed_start_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "h2").write_text("a file where a folder should be")
    lab = Lab(tmp_path, n_hosts=2)
    with pytest.raises(OSError, match="h2"):
        lab.up()
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "lab_host.sh" in " ".join(child.cmdline())]
