"""A private Redis Cluster on this machine: three masters with replicas. For tests and benchmarks.

Owns the servers, and what they are told about one another. The first three are the masters in the beginning, each three
behind them their replicas in the same order; who is what later on, `masters` asks.
"""

import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from features.embedded import EmbeddedServer
from features.errors import StoreUnavailable

N_MASTERS: Final = 3
N_SLOTS: Final = 16384
NODE_TIMEOUT_MS: Final = 1000  # of silence, after which a master counts as failed; by default it is 15 s
BUS_AFTER: Final = 1  # its port is so much behind the server's
TLS_AFTER: Final = 2
AGREE_S: Final = 60.0
POLL_S: Final = 0.02


class EmbeddedCluster:
    """A cluster to `start`, use through `url`, and `close`; or a `with` block.

    Args:
        settings: Further settings of every server, as its command line takes them.
        n_replicas: Of each master.
        tls: Folder with `ca.crt`, `server.crt` and `server.key`: every server listens on a second port, with TLS.
        binary: Which server to start; that of `EmbeddedServer` has no TLS.
    """

    def __init__(
        self,
        settings: Sequence[str] = (),
        *,
        n_replicas: int = 1,
        tls: Path | None = None,
        binary: Path | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-cluster-")
        self._settings = settings
        self._tls = tls
        self._binary = binary
        self.servers = [self._server() for _ in range((1 + n_replicas) * N_MASTERS)]

    @property
    def url(self) -> str:
        """Where to connect to: two servers, in case one is away."""
        ports = [server.port + (TLS_AFTER if self._tls else 0) for server in self.servers[:2]]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"rediss://{hosts}/0?ssl_ca_certs={self._tls}/ca.crt" if self._tls else f"redis://{hosts}/0"

    def start(self) -> Self:
        """Start every server, and wait until they agree that all slots are served.

        Raises:
            StoreUnavailable: If they do not within a minute.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End every server; nothing of them stays."""
        for server in self.servers:
            server.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, server: EmbeddedServer, *command: str | int | bytes) -> Any:
        """Run a command on one server; of INFO a dict comes back, else what the server says."""
        with redis.Redis.from_url(server.url, protocol=2) as client:
            return client.execute_command(*command)

    def masters(self) -> list[EmbeddedServer]:
        """Those that have slots, as somebody sees it who runs."""
        ports = [port for _, _, port in self._slots(self._running()[0])]
        return [server for server in self.servers if server.port in ports]

    def master_of(self, slot: int) -> EmbeddedServer:
        """Who has a slot, as somebody sees it who runs."""
        told = self._slots(self._running()[0])
        (port,) = {port for first, last, port in told if first <= slot <= last}
        return next(server for server in self.servers if server.port == port)

    def replica_of(self, master: EmbeddedServer) -> EmbeddedServer:
        """The first of its replicas from the beginning."""
        return self.servers[self.servers.index(master) + N_MASTERS]

    def id_of(self, server: EmbeddedServer) -> str:
        """A server's name in the cluster."""
        return str(self.say(server, "CLUSTER", "MYID").decode())

    def add_master(self) -> EmbeddedServer:
        """Start one more server, with neither slots nor replica."""
        server = self._server().start()
        self.servers.append(server)
        self._meet(server)
        self.wait_until_whole()
        return server

    def wait_until_whole(self) -> None:
        """Wait until every slot is served, and every replica linked to its master."""
        self._wait(lambda: all(map(self._is_whole, self._running())), "a whole cluster")

    def wait_until_replaced(self, lost: EmbeddedServer) -> None:
        """Wait until all agree that somebody else has the slots of a server that is lost."""
        self._wait(lambda: all(self._has_replaced(server, lost) for server in self._running()), "a failover")

    def _start(self) -> None:
        for server in self.servers:
            server.start()
        masters, replicas = self.servers[:N_MASTERS], self.servers[N_MASTERS:]
        bounds = [N_SLOTS * n // N_MASTERS for n in range(N_MASTERS + 1)]
        for n, server in enumerate(masters):
            self.say(server, "CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
            self.say(server, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for server in self.servers[1:]:
            self._meet(server)
        for n, replica in enumerate(replicas):
            master = masters[n % N_MASTERS]
            self._wait(lambda replica=replica, master=master: self._follows(replica, master), "a replica")  # type: ignore[misc]
        self.wait_until_whole()

    def _server(self) -> EmbeddedServer:
        port = _free_ports()
        settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
        settings += ["--cluster-port", str(port + BUS_AFTER), "--repl-diskless-sync-delay", "0", *self._settings]
        if self._tls:
            settings += ["--tls-port", str(port + TLS_AFTER), "--tls-ca-cert-file", f"{self._tls}/ca.crt"]
            settings += ["--tls-cert-file", f"{self._tls}/server.crt", "--tls-key-file", f"{self._tls}/server.key"]
            settings += ["--tls-auth-clients", "no", "--tls-cluster", "yes", "--tls-replication", "yes"]
        return EmbeddedServer(Path(self._folder.name) / str(port), port=port, settings=settings, binary=self._binary)

    def _running(self) -> list[EmbeddedServer]:
        return [server for server in self.servers if server.pid is not None]

    def _meet(self, server: EmbeddedServer) -> None:
        known = self.servers[0].port
        port = known + TLS_AFTER if self._tls else known
        self.say(server, "CLUSTER", "MEET", "127.0.0.1", port, known + BUS_AFTER)
        met = self.servers[: self.servers.index(server) + 1]
        self._wait(lambda: all(self._n_known(each) >= len(met) for each in met), "servers that know one another")

    def _n_known(self, server: EmbeddedServer) -> int:
        return len(self.say(server, "CLUSTER", "NODES").splitlines())

    def _follows(self, replica: EmbeddedServer, master: EmbeddedServer) -> bool:
        try:
            self.say(replica, "CLUSTER", "REPLICATE", self.id_of(master))
        except redis.ResponseError:
            return False  # it has not heard of its master yet
        return True

    def _is_whole(self, server: EmbeddedServer) -> bool:
        replication = self.say(server, "INFO", "replication")
        is_linked = replication["role"] == "master" or replication["master_link_status"] == "up"
        return is_linked and b"cluster_state:ok" in self.say(server, "CLUSTER", "INFO")

    def _has_replaced(self, server: EmbeddedServer, lost: EmbeddedServer) -> bool:
        is_ok = b"cluster_state:ok" in self.say(server, "CLUSTER", "INFO")
        return is_ok and all(port != lost.port for _, _, port in self._slots(server))

    def _slots(self, server: EmbeddedServer) -> list[tuple[int, int, int]]:
        """First slot, last slot, and the master's port, of each range."""
        return [(first, last, master[1]) for first, last, master, *_ in self.say(server, "CLUSTER", "SLOTS")]

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + AGREE_S
        while time.monotonic() < deadline_s:
            with suppress(redis.ConnectionError):  # asked while it was ending
                if is_so():
                    return
            time.sleep(POLL_S)
        raise StoreUnavailable(f"not within {AGREE_S:g} s: {what}")


def _free_ports() -> int:
    """A free port, with free ones behind it for the servers' own talk and for TLS."""
    while True:
        with ExitStack() as stack, suppress(OSError):
            sockets = [stack.enter_context(socket.socket()) for _ in (0, BUS_AFTER, TLS_AFTER)]
            sockets[0].bind(("127.0.0.1", 0))
            port = int(sockets[0].getsockname()[1])
            sockets[1].bind(("127.0.0.1", port + BUS_AFTER))
            sockets[2].bind(("127.0.0.1", port + TLS_AFTER))
            return port
