"""A running, trained Headrace and what goes on around it while it is measured: events, toggled publishing, processes.

    with stage() as stage:
        events = stage.events(1000.0, 10.0)            # flows in from now on, from a process of its own
        trace = stage.start(rate_per_s=500.0, duration_s=10.0).result()

Roles are told by the command lines of the run's processes; the store is one of them, though it is not the run's.
"""

import contextlib
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from benchmarks import machine
from benchmarks.feeding import feed
from benchmarks.latency import LoadResult
from benchmarks.load import Load
from benchmarks.loadgen import Running
from benchmarks.systems import System
from benchmarks.workloads import World, posts
from deployments.client import Headrace, HeadraceError
from features.embedded import EmbeddedServer

N_EVENTS: Final = 20_000
N_BODIES: Final = 512
N_CANDIDATES: Final = 100
USUAL: Final = 64  # connections that saturation is measured on
OPEN_CONNECTIONS: Final = 256
WARMUP_S: Final = 1.0
POSTS_PER_S: Final = 10.0
EVENTS_NICENESS: Final = 10
SETTLED_S: Final = 60.0
WATCH_S: Final = 0.1
ROLES: Final = (  # first match wins
    ("haproxy", "HAProxy"),
    (":Ranker", "Ranker"),
    (":Events", "Events"),
    ("ray::Learner", "learner"),
    ("ray::Projector", "projector"),
    ("ray::ModelHub", "hub"),
)


def role_of(command: str) -> str:
    """What a process of the run is, by its command line."""
    return next((role for sign, role in ROLES if sign in command), "rest of Ray")


class Stage:
    """What there is while something is measured."""

    def __init__(self, system: System, store: EmbeddedServer, world: World) -> None:
        self.system, self.store = system, store
        self.neighbours = machine.Neighbours(lambda: sum(self.cpu_s().values()))
        self._world = world
        self._bodies = tuple(world.rank_bodies(N_BODIES, n_candidates=N_CANDIDATES))

    def load(self, **options: Any) -> Load:
        """A load of rank requests."""
        defaults = {"port": self.system.port, "n_connections": OPEN_CONNECTIONS, "warmup_s": WARMUP_S}
        return Load(bodies=self._bodies, **{**defaults, **options})

    def start(self, **options: Any) -> Running:
        """Put a load of rank requests on it, from now on."""
        return Running(self.load(**options))

    def ask(self, **options: Any) -> LoadResult:
        """Put a load on it and wait."""
        return self.start(**options).result().summary()

    def saturation_per_s(self, seconds_s: float) -> float:
        """Rate of the closed loop at 64 connections, after some load to warm up."""
        self.ask(n_connections=16, duration_s=2.0)
        return self.ask(n_connections=USUAL, duration_s=seconds_s).rate_per_s

    def events(self, per_s: float, duration_s: float) -> Running:
        """Have events flow in from now on, ten posts a second, from a niced process."""
        size = max(1, round(per_s / POSTS_PER_S))
        bodies = tuple(posts(self._world.events(max(N_EVENTS, 20 * size)), size=size))
        return Running(
            Load(
                port=self.system.port,
                bodies=bodies,
                path="/v1/events",
                n_connections=8,
                rate_per_s=POSTS_PER_S,
                duration_s=duration_s,
                warmup_s=0.0,
                niceness=EVENTS_NICENESS,
            )
        )

    def settle(self) -> float:
        """Wait until the learner has caught up; seconds it took, infinity if it has not after a minute."""
        began_s = time.monotonic()
        with Headrace(self.system.url, timeout_s=30.0) as client:
            log_ms = client.send([{"type": "click", "user": "u0", "item": "i0"}])["log_ms"]
            while time.monotonic() < began_s + SETTLED_S:
                if client.get("/v1/model")["trained_through_ms"] > log_ms:
                    return time.monotonic() - began_s
                time.sleep(0.2)
        return float("inf")

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The run's processes by role, and the store."""
        found: dict[str, list[psutil.Process]] = {"store": [psutil.Process(self.store.pid)]}
        for process in self.system.processes():
            with contextlib.suppress(psutil.Error):
                found.setdefault(role_of(" ".join(process.cmdline())), []).append(process)
        return found

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far by role."""
        found: dict[str, float] = {}
        for role, processes in self.processes().items():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    used = process.cpu_times()
                    found[role] = found.get(role, 0.0) + used.user + used.system
        return found

    def pids(self, role: str) -> list[int]:
        """Process ids of a role, in order."""
        return sorted(process.pid for process in self.processes().get(role, []))


@contextmanager
def stage(n_rankers: int = 1) -> Iterator[Stage]:
    """A Headrace of its own that has learned from 20,000 events."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        store = stack.enter_context(EmbeddedServer())
        print(f"starting Headrace with {n_rankers} Ranker replica(s), sending events, training", flush=True)
        folder = scratch / "versions"
        system = stack.enter_context(System("headrace", redis_url=store.url, folder=folder, n_rankers=n_rankers))
        world = World()
        feed(system.url, world, N_EVENTS)
        yield Stage(system, store, world)


class Watch:
    """Asks for a rank ten times a second and notes the version that answered, as a `with` block."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._versions: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def swaps_per_s(self) -> float:
        """Changes of the version that answers, per second."""
        return changes_per_s(self._versions)

    def _look(self) -> None:
        with Headrace(self._url, timeout_s=30.0) as client:
            while not self._stop.wait(WATCH_S):
                with contextlib.suppress(HeadraceError):
                    version = client.rank("u0", ["i0"])["model"]["version"]
                    self._versions.append((time.monotonic(), version))


def changes_per_s(seen: Sequence[tuple[float, int]]) -> float:
    """How often a version differs from the one before, per second of the time it was looked at."""
    if len(seen) < 2:
        return 0.0
    n_changes = sum(one[1] != other[1] for one, other in itertools.pairwise(seen))
    return n_changes / (seen[-1][0] - seen[0][0])
