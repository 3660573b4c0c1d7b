"""One machine's Ray and Serve, from nothing to an open port and back to nothing.

Owns the ports, the HAProxy wrapper and the order of starting and stopping; what environment they are started under is
told in `environment.py`. Does not know which applications run: callers use `ray.serve.run` between `start` and `stop`.

Binding: in HAProxy mode Ray 2.60 defaults to every interface, but an explicit `http_options.host` of 127.0.0.1 reaches
both HAProxy's frontend and the replicas' own ports. What else HAProxy must be told stands in `haproxy.py`.

Invariant: after `stop`, or `processes.sweep(run_id)` from any other process, nothing of the run is left.
"""

import importlib
import logging
import os
import random
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

from deployments import haproxy
from deployments.environment import LOOPBACK, ray_environment, serve_environment
from deployments.errors import ConfigError, UnavailableError
from deployments.processes import Ended, is_stale, mark_this_process, read_record, sweep, termination

logger = logging.getLogger(__name__)

NAMESPACE = "headrace"
QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""How much Serve and its replicas log."""
ORDERLY_STOP_S = 15.0  # a stop takes 3 to 4 s on two idle cores
MAX_ONGOING = 10_000  # requests in one replica, for Serve; we shed long before, and its queue must never be what fills
WORK_STORE_BYTES = 150_000_000  # reports and plans; what is large lies in files
N_REPLICA_PORTS = 64  # more than one machine runs replicas, with room for those Serve holds back after a restart


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How one machine's cluster is started."""

    port: int = 8000
    """Port of the HTTP frontend."""
    host: str = LOOPBACK
    """Interface of the frontend, the replicas' ports and HAProxy's own pages; 0.0.0.0 opens all of them."""
    num_cpus: int = 8
    """Logical processors Ray may hand out; not cores, every actor of ours asks for a fraction."""
    object_store_bytes: int = 300_000_000
    """Shared memory of the object store; holds a few weight snapshots."""
    draining_s: float = 1.0
    """How long a replica stays reachable after it is told to stop. Ray: 30 s, made for many proxies."""
    include_dashboard: bool = False
    """Ray's dashboard: about 200 MB and a tenth of a core."""
    max_in_flight: int = haproxy.MAX_IN_FLIGHT
    """Rank requests per live replica that HAProxy lets in; it refuses one more (429) by itself. Four full batches."""
    calm_in_flight: int = haproxy.CALM_IN_FLIGHT
    """The same from the first refusal until nothing was refused for a second. A batch that runs, and half a one."""
    least_in_flight: int = haproxy.LEAST_IN_FLIGHT
    """The same while half or more of what arrived within 100 ms was refused. Half a batch."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port: expected 1..65535, got {self.port}")
        if self.object_store_bytes < 80_000_000:
            raise ConfigError(
                f"object_store_bytes: expected at least 80 MB (Ray's minimum), got {self.object_store_bytes}"
            )
        if not 1 <= self.max_in_flight <= MAX_ONGOING:
            raise ConfigError(f"max_in_flight: expected 1..{MAX_ONGOING}, got {self.max_in_flight}")
        if not 1 <= self.calm_in_flight <= self.max_in_flight:
            raise ConfigError(
                f"calm_in_flight: expected 1..{self.max_in_flight} (max_in_flight), got {self.calm_in_flight}"
            )
        if not 1 <= self.least_in_flight <= self.calm_in_flight:
            raise ConfigError(
                f"least_in_flight: expected 1..{self.calm_in_flight} (calm_in_flight), got {self.least_in_flight}"
            )


def free_ports() -> dict[str, str]:
    """Return variables that give Serve ports of its own: two runs, or a run and its tests, live on one machine."""
    first_http, first_grpc, first = _free_range(N_REPLICA_PORTS), _free_range(N_REPLICA_PORTS), _free_range(4)
    metrics, stats, fallback_http, fallback_grpc = range(first, first + 4)
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_http),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_http + N_REPLICA_PORTS - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_grpc + N_REPLICA_PORTS - 1),
    }


class LocalCluster:
    """Ray and Serve on this machine: `start`, deploy, `stop`; or a `with` block.

    `start` exports Serve's environment and only then imports Ray. A module that imports `ray.serve` must therefore be
    imported after `start`, or the process must have been started under HAProxy mode; `start` refuses otherwise.
    """

    def __init__(self, config: ClusterConfig | None = None) -> None:
        self.config = config or ClusterConfig()
        self.run_id = ""
        self.ray_address = ""
        """Where other programs join the cluster; see `join`."""
        self.spare: set[int] = set()
        """Process ids that carry the mark and outlive the cluster, such as the run's store: its owner ends them."""
        self._stack = ExitStack()
        self._ray: ModuleType | None = None

    def start(self) -> Self:
        """Start Ray, Serve and HAProxy; return when the port is open.

        Raises:
            UnavailableError: something else listens on the port.
            ConfigError: `ray.serve` was imported earlier, without HAProxy mode.
        """
        _require_free(self.config.host, self.config.port)
        self.run_id = mark_this_process()
        try:
            folder = self._make_folder()
            # Four threads of HAProxy, as Ray would have them, would compete with the replica for two cores.
            draining_s = self.config.draining_s
            of_serve = serve_environment(folder, draining_s=draining_s, proxy_draining_s=draining_s, n_proxy_threads=1)
            self._export(ray_environment(self.config.host) | of_serve | free_ports())
            self._start_ray()
            self._start_serve()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, *, grace_s: float = 3.0) -> list[Ended]:
        """Stop Serve and Ray, then end whatever is left of the run.

        Args:
            grace_s: How long a leftover process may take to end by itself.
        Returns:
            The leftovers, for the log.
        """
        with termination():  # a second Ctrl-C must not interrupt the sweep
            self._stop_ray()
            ended = sweep(self.run_id, grace_s=grace_s, spare=self.spare) if self.run_id else []
            self._stack.close()
        return ended

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_folder(self) -> Path:
        folder = run_folder(self.run_id)
        folder.mkdir(mode=0o700)
        self._stack.callback(remove_run_folder, self.run_id)
        haproxy.write_haproxy_wrapper(
            folder,
            self.config.host,
            max_in_flight=self.config.max_in_flight,
            calm_in_flight=self.config.calm_in_flight,
            least_in_flight=self.config.least_in_flight,
        )
        return folder

    def _export(self, environment: Mapping[str, str]) -> None:
        before = {name: os.environ.get(name) for name in environment}
        self._stack.callback(_restore_environment, before)
        os.environ.update(environment)

    def _start_ray(self) -> None:
        config = self.config
        self._ray, self.ray_address = start_ray(
            self.run_id, config.num_cpus, config.object_store_bytes, include_dashboard=config.include_dashboard
        )

    def _start_serve(self) -> None:
        constants = importlib.import_module("ray.serve._private.constants")
        if not constants.RAY_SERVE_ENABLE_HA_PROXY:
            raise ConfigError("ray.serve was imported before LocalCluster.start(): its settings are fixed at import")
        serve = importlib.import_module("ray.serve")
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": self.config.host, "port": self.config.port},
            logging_config=QUIET,
        )

    def _stop_ray(self) -> None:
        if self._ray is None:
            return
        # Ray waits 44 s for a control store that has died; the sweep needs nobody's consent.
        orderly = threading.Thread(target=_shut_down, args=(self._ray,), daemon=True, name="ray-shutdown")
        orderly.start()
        orderly.join(ORDERLY_STOP_S)
        if orderly.is_alive():
            logger.warning("Ray did not stop in order within %.0f s; its processes are ended", ORDERLY_STOP_S)
        self._ray = None


def start_ray(
    run_id: str, num_cpus: int, object_store_bytes: int, *, include_dashboard: bool = False
) -> tuple[ModuleType, str]:
    """Start Ray on this machine, under the environment of this process; returns the module and its address."""
    ray = importlib.import_module("ray")
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=object_store_bytes,
        include_dashboard=include_dashboard,
        namespace=NAMESPACE,
        log_to_driver=False,
        _temp_dir=str(run_folder(run_id) / "ray"),
        logging_level=logging.WARNING,
        configure_logging=False,
    )
    return ray, ray.get_runtime_context().gcs_address


@contextmanager
def workers(port: int) -> Iterator[bool]:
    """Ray to work with: that of the run on a port of this machine, or one of its own for as long as the block lasts.

    Yields:
        Whether it is that of a run.
    """
    record = read_record(port)
    if record is not None and not is_stale(record):
        ray = join(port)
        try:
            yield True
        finally:
            ray.shutdown()
        return
    run_id = mark_this_process(uuid.uuid4().hex)
    before = {name: os.environ.get(name) for name in ray_environment(LOOPBACK)}
    os.environ.update(ray_environment(LOOPBACK))
    try:
        run_folder(run_id).mkdir(mode=0o700)
        start_ray(run_id, os.cpu_count() or 1, WORK_STORE_BYTES)
        yield False
    finally:
        with termination():
            importlib.import_module("ray").shutdown()
            sweep(run_id)
            remove_run_folder(run_id)
            _restore_environment(before)


def join(port: int = 8000) -> ModuleType:
    """Connect this process to the Ray cluster of the run on a port of this machine, so that its tasks may push events.

        ray = join()
        ray.get(ray.remote(lambda: learners.push(events)).remote())

    Call it before Ray is imported: the settings that let one in are read then.

    Returns:
        The module `ray`, initialised.
    Raises:
        UnavailableError: If nothing runs there.
    """
    record = read_record(port)
    if record is None or is_stale(record):
        raise UnavailableError(f"nothing runs on port {port}; start it with: headrace up --port {port}")
    os.environ.update(ray_environment(record.host))
    ray = importlib.import_module("ray")
    ray.init(record.ray_address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    return ray


def _shut_down(ray: ModuleType) -> None:
    try:
        if ray.is_initialized():  # else Serve would start a cluster of its own to look for itself
            importlib.import_module("ray.serve").shutdown()
    except Exception:  # half started, or its controller is dead; the sweep follows
        logger.warning("Serve did not stop in order; its processes are ended", exc_info=True)
    ray.shutdown()


def run_folder(run_id: str) -> Path:
    """Return where a run keeps Ray's logs and sockets, HAProxy's files and the wrapper.

    Short and under /tmp on purpose: the path of a unix socket has 108 bytes at most, and Ray adds 80.
    """
    return Path("/tmp") / f"headrace-{run_id[:12]}"


def remove_run_folder(run_id: str) -> None:
    """Remove what a run left on disk; `stop` does, `headrace down` does after a run that was killed."""
    shutil.rmtree(run_folder(run_id), ignore_errors=True)


def _restore_environment(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _require_free(host: str, port: int) -> None:
    if not _is_free(port, host):
        raise UnavailableError(f"port {port} on {host} is in use; choose another one, or end the run that holds it")


def _is_free(port: int, host: str = LOOPBACK) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_range(length: int) -> int:
    """Return the first of `length` free ports in a row, below 32768 where the kernel hands out its own."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000)
        if all(_is_free(port) for port in range(first, first + length)):
            return first
    raise UnavailableError(f"no {length} free ports in a row between 20000 and 32000")
