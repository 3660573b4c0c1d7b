"""Several machines on this one, so that `ray up` can be run for real: a few hosts, and the operator who types it.

    lab = Lab(folder)                                   hosts h1, h2, …; `store`; `operator`
    lab.up()  ─► switch (a network of its own) ─┬─ h1         own network, processes, mounts, home, /tmp, /run,
                                                ├─ h2 …       /dev/shm; an sshd; the rest of the disk is everybody's
                                                └─ operator   the same; from here hosts are looked at

A host is a set of Linux namespaces. The switch lies in one too, and leads nowhere else: nothing that a host sends
leaves the lab, this machine's own network does not change, and two labs know nothing of each other.

Invariant: everything descends from processes that end with this one, even if it is killed; the kernel takes the
networks and mounts with them.

`python -m tests.cluster.lab` brings one up to look around in.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import psutil

ROOT: Final = Path(__file__).parents[2]
OPERATOR: Final = "operator"
STORE: Final = "store"
NETWORK: Final = "10.77.0"
NEEDED: Final = ("ip", "nft", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "unshare", "/usr/sbin/sshd")
# No variable of this process reaches a host.
ENVIRONMENT: Final = ("HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb", f"PATH={os.defpath}:/usr/sbin:/sbin")
SSHD_CONFIG: Final = """\
HostKey /root/.ssh/host_key
PidFile none
PasswordAuthentication no
UsePAM no
MaxStartups 100
"""
BOOT_S: Final = 20.0
CLONE_NEWNET: Final = 0x40000000
_Result = TypeVar("_Result")


def what_is_missing() -> str:
    """Say why no lab can be had here; empty if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a lab needs Linux and root"
    absent = [program for program in NEEDED if shutil.which(program) is None]
    if absent:
        return f"a lab needs {', '.join(absent)}: install iproute2, nftables, openssh-server, rsync and util-linux"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


class Lab:
    """Hosts to bring up, to log in to, to switch off; or a `with` block.

    Args:
        folder: Empty, and only for this: the hosts' homes, which outlive a boot, and their logs.
        n_hosts: How many besides the store's and the operator's.
        shared: Folders that every host must see although they lie under a home or temporary folder, besides this
            checkout and its Python.
    """

    def __init__(self, folder: Path, n_hosts: int = 3, shared: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.hosts = [f"h{number}" for number in range(1, n_hosts + 1)]
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(self.hosts, 1)}
        self.addresses |= {STORE: f"{NETWORK}.100", OPERATOR: f"{NETWORK}.200"}
        # A virtual environment may be a link, and its Python lies elsewhere.
        needed = (ROOT, sys.prefix, sys.base_prefix, *shared)
        self._shared = sorted({str(Path(path).resolve()) for path in needed})
        self._switch: subprocess.Popen[bytes] | None = None
        self._booted: dict[str, subprocess.Popen[str]] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._inside: ThreadPoolExecutor | None = None

    def up(self) -> Self:
        """Boot all hosts; nothing is left of those that did boot if one does not."""
        try:
            self._start_switch()
            for host in self.addresses:
                self._make_home(host)
                self.boot(host)
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """End everything; the homes stay for who looks into the logs."""
        if self._inside is not None:
            self._inside.shutdown()
            self._inside = None
        for host in [*self._booted]:
            self.crash(host)
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()
            self._switch = None

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def boot(self, host: str) -> None:
        """Start a host: with an empty /tmp, /run and /dev/shm, and its home as it was left."""
        self._ip(f"link set {host} up")
        command = [
            *_with_this_process("nsenter", f"--target={self._switch_pid}", "--net", "--mount"),
            *("ip", "netns", "exec", host),
            *("unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"),
            *("env", "-i", *ENVIRONMENT, "bash", str(Path(__file__).with_name("lab_host.sh"))),
            *(host, self.addresses[host], str(self.folder / host), *self._shared),
        ]
        log_path = self.folder / host / "boot.log"
        with log_path.open("ab") as log:
            self._booted[host] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        if _first_line(self._booted[host]) != "ready":
            self.crash(host)
            raise RuntimeError(f"{host} did not boot: {log_path.read_text()}")

    def crash(self, host: str) -> None:
        """Kill everything on a host; its network stays, so that peers are told that the connection is gone."""
        outside = self._booted.pop(host)
        with contextlib.suppress(psutil.NoSuchProcess):
            for first in psutil.Process(outside.pid).children():
                first.kill()
        outside.wait(BOOT_S)  # it waits for the first process, and that one's end for all others'
        assert outside.stdout is not None
        outside.stdout.close()

    def power_off(self, host: str) -> None:
        """Cut a host's cable, then kill everything on it: peers hear nothing any more."""
        self._ip(f"link set {host} down")
        self.crash(host)

    def start(self, host: str, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a program on a host, in its home folder, as root; it ends with the host at the latest."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._on(host, command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        self._started.append(process)
        return process

    def run(self, host: str, *command: str, wait_s: float = 120.0, check: bool = True) -> str:
        """Run a program on a host as `start` does; returns what it printed, errors too.

        Raises:
            AssertionError: With the end of what it printed, if it fails.
        """
        done = subprocess.run(
            self._on(host, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=wait_s,
            check=False,
        )
        printed = done.stdout.decode(errors="replace")
        assert not check or done.returncode == 0, f"{' '.join(command)} on {host}: {done.returncode}\n{printed[-6000:]}"
        return printed

    def ssh(self, host: str, command: str) -> str:
        """Run a shell command on a host as the operator does; returns what it printed."""
        options = ("-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
        return self.run(OPERATOR, "ssh", *options, f"root@{self.addresses[host]}", command)

    def as_operator(self, call: Callable[[], _Result]) -> _Result:
        """Call a function whose sockets are the operator's: opened in a thread that is in the operator's network."""
        if self._inside is None:
            self._inside = ThreadPoolExecutor(1, "operator", initializer=self.enter_as_operator)
        return self._inside.submit(call).result()

    def enter_as_operator(self) -> None:
        """Move the thread that calls this to the operator's network, for good; what it opened stays where it was."""
        _enter_network(f"/proc/{self._first_pid(OPERATOR)}/ns/net")

    def everything(self, host: str) -> list[psutil.Process]:
        """Whatever runs on a host."""
        namespace = Path(f"/proc/{self._first_pid(host)}/ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process.pid}/ns/pid").readlink() == namespace:
                    found.append(process)
        return found

    def processes(self, host: str) -> list[psutil.Process]:
        """What runs on a host besides what every host has: its first process, and sshd for who listens."""
        first = psutil.Process(self._first_pid(host))
        own = {first}
        for child in first.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() in {"sleep", "sshd"}:
                    own.add(child)
        return [process for process in self.everything(host) if process not in own]

    def command_lines(self, host: str) -> list[str]:
        """How the programs that run on a host were called."""
        found = []
        for process in self.processes(host):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline()))
        return found

    def home(self, host: str) -> Path:
        """A host's home folder, as seen from here."""
        return self.folder / host / "home"

    @property
    def _switch_pid(self) -> int:
        assert self._switch is not None, "the lab is not up"
        return self._switch.pid

    def _first_pid(self, host: str) -> int:
        (first,) = psutil.Process(self._booted[host].pid).children()
        return first.pid

    def _on(self, host: str, command: Sequence[str]) -> list[str]:
        spaces = ("--mount", "--net", "--pid", "--uts", "--ipc")
        inside = ("env", "-i", "--chdir=/root", *ENVIRONMENT, *command)
        return [*_with_this_process("nsenter", f"--target={self._first_pid(host)}", *spaces), *inside]

    def _start_switch(self) -> None:
        script = "mount -t tmpfs tmpfs /run; mkdir /run/netns; echo ready; exec sleep infinity"
        self._switch = subprocess.Popen(
            _with_this_process("unshare", "--net", "--mount", "bash", "-ec", script), stdout=subprocess.PIPE
        )
        assert self._switch.stdout is not None
        assert self._switch.stdout.readline() == b"ready\n"
        self._switch.stdout.close()
        lines = ["link add switch type bridge", "link set switch up"]
        for host, address in self.addresses.items():
            lines += [
                f"netns add {host}",
                f"link add {host} type veth peer name eth0 netns {host}",
                f"link set {host} master switch",
            ]
            inside = ["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"]
            # A way to everywhere else, where nobody answers: by it Ray finds out which address is the host's.
            inside.append("route add default dev eth0")
            self._ip("\n".join(lines))
            self._ip("\n".join(inside), "-netns", host)
            lines.clear()

    def _ip(self, lines: str, *options: str) -> None:
        entered = ("nsenter", f"--target={self._switch_pid}", "--net", "--mount")
        subprocess.run([*entered, "ip", *options, "-batch", "-"], input=lines.encode(), check=True)

    def _make_home(self, host: str) -> None:
        keys = self.home(host) / ".ssh"
        keys.mkdir(parents=True, mode=0o700)
        (keys / "sshd_config").write_text(SSHD_CONFIG)
        _make_key(keys / "host_key")
        operator_key = self.folder / "operator_key"
        if not operator_key.exists():
            _make_key(operator_key)
        shutil.copy(operator_key.with_suffix(".pub"), keys / "authorized_keys")
        if host == OPERATOR:
            shutil.copy(operator_key, keys / "id_ed25519")


def _with_this_process(*command: str) -> list[str]:
    """The command, to be killed by the kernel when the thread that started it ends."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)], check=True)


def _first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints; empty if it prints none in time, and it is killed then."""
    timer = threading.Timer(BOOT_S, process.kill)
    timer.start()
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    timer.cancel()
    return line


def _enter_network(path: str) -> None:
    """Move this thread to another network."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(path).open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


def main() -> None:
    """Bring a lab up, say how to enter its hosts, take it down at the end of the input or at Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="headrace-lab-") as folder, Lab(Path(folder)) as lab:
        for host, address in lab.addresses.items():
            print(f"{host:9} {address:12} {' '.join(lab._on(host, ('bash', '-l')))}")
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == "__main__":
    main()
