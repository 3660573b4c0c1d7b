"""Faults: who is struck, how, and for how long, planned from a seed; and striking them.

A *kill* is SIGKILL; the store is started again after a while, everybody else must come back without help. A *stop* is
SIGSTOP for a while; of the stops of each victim every other one ends with SIGKILL instead of SIGCONT.

What is planned knows no process: `Fault` says who, `Targets` finds the process and does it.
"""

import random
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import psutil

from features.embedded import EmbeddedServer
from tests.cluster.conftest import Application, eventually

Victim = Literal["learner", "hub", "judge", "ranker", "events", "controller", "store"]
Manner = Literal["kill", "stop"]
ACTORS: Final = ("learner", "hub", "judge")
VICTIMS: Final[tuple[Victim, ...]] = (*ACTORS, "ranker", "events", "controller", "store")
DEPLOYMENTS: Final = {"ranker": "Ranker", "events": "Events"}
CONTROLLER: Final = "ServeController"
STOPPED_S: Final = (1.0, 4.0)
AWAY_S: Final = (0.5, 3.0)
"""Of a store that was killed, until it is started."""


class Kind(NamedTuple):
    """What there is a number of."""

    victim: Victim
    manner: Manner


KINDS: Final = tuple(Kind(victim, manner) for victim in VICTIMS for manner in ("kill", "stop"))
RISKIEST: Final = (
    Kind("store", "kill"),
    Kind("hub", "kill"),
    Kind("ranker", "stop"),
    Kind("events", "kill"),
    Kind("learner", "kill"),
    Kind("controller", "kill"),
)
"""If there is only time for some."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One that is planned."""

    kind: Kind
    lasts_s: float
    """Until it is ended: a stop, or a store that is away."""
    is_killed: bool
    """How it ends, for a stop."""
    which: int
    """Of several replicas."""

    @property
    def name(self) -> str:
        """For people."""
        victim, manner = self.kind
        if manner == "kill":
            return f"{victim} killed" + (f", started {self.lasts_s:.1f} s later" if victim == "store" else "")
        return f"{victim} stopped for {self.lasts_s:.1f} s" + (", then killed" if self.is_killed else "")


def plan(seed: int, n_faults: int, kinds: Sequence[Kind] = KINDS) -> list[Fault]:
    """So many faults in random order; every kind as often as any other, or once more."""
    rng = random.Random(seed)
    n_rounds, n_more = divmod(n_faults, len(kinds))
    chosen = [*kinds * n_rounds, *rng.sample(kinds, n_more)]
    rng.shuffle(chosen)
    ends_in_kill = {victim: rng.random() < 0.5 for victim in VICTIMS}
    faults = []
    for kind in chosen:
        lasts_s = rng.uniform(*(STOPPED_S if kind.manner == "stop" else AWAY_S))
        is_killed = kind.manner == "stop" and ends_in_kill[kind.victim]
        if kind.manner == "stop":
            ends_in_kill[kind.victim] = not is_killed
        faults.append(Fault(kind, lasts_s, is_killed, rng.randrange(2)))
    return faults


@dataclass(frozen=True, slots=True)
class Incident:
    """A fault that happened; instants of the monotonic clock."""

    fault: Fault
    struck_s: float
    ended_s: float
    """When a stop was ended, or the store started; else as `struck_s`."""
    whole_s: float
    """When the application was whole again."""


class Targets:
    """Finds processes of a running application, and strikes them."""

    def __init__(self, application: Application, store: EmbeddedServer) -> None:
        self._application = application
        self._store = store
        self._pause = threading.Event()

    def strike(self, fault: Fault) -> tuple[float, float]:
        """Do it, and end it; returns when it was done and when it was ended."""
        victim, manner = fault.kind
        process = self._process_of(victim, fault.which)
        process.send_signal(signal.SIGKILL if manner == "kill" else signal.SIGSTOP)
        struck_s = ended_s = time.monotonic()
        if manner == "stop":
            self._pause.wait(fault.lasts_s)
            process.send_signal(signal.SIGKILL if fault.is_killed else signal.SIGCONT)
            ended_s = time.monotonic()
        if victim == "store" and (manner == "kill" or fault.is_killed):
            self._pause.wait(fault.lasts_s)
            self._store.kill()  # it is dead; to have it known
            self._store.start()
            ended_s = time.monotonic()
        return struck_s, ended_s

    def _process_of(self, victim: Victim, which: int) -> psutil.Process:
        if victim == "store":
            assert self._store.pid is not None
            return psutil.Process(self._store.pid)
        if victim == "controller":
            return psutil.Process(self._application.call("controller_pid"))
        if victim in DEPLOYMENTS:
            replicas: list[psutil.Process] = eventually(
                lambda: self._application.replicas(DEPLOYMENTS[victim]), f"a replica of {victim}"
            )
            return replicas[which % len(replicas)]
        return psutil.Process(self._application.call("pid", victim))
