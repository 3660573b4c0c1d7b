"""The application that everything happens to, with a store of the test's own; and what it goes through."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from deployments.config import Config, config_from_dict
from features.embedded import EmbeddedServer
from features.events import Entry
from learners import snapshots
from learners.snapshots import Delta
from tests.chaos import laws
from tests.chaos.faults import DEPLOYMENTS, KINDS, RISKIEST, Fault, Incident, Targets, plan
from tests.chaos.load import ITEMS, N_CANDIDATES, Load
from tests.cluster.conftest import Application, eventually, tell

__all__ = ["tell"]  # a fixture of the other tests with an application

SEED: Final = "HEADRACE_CHAOS_SEED"
N_FAULTS: Final = "HEADRACE_CHAOS_FAULTS"
N_REPLICAS: Final = 2
WHOLE_S: Final = 90.0  # a replica imports and compiles for ten seconds of an idle core
LEARNED_S: Final = 120.0
LAST: Final = "last"
ATTRIBUTION_S: Final = 60.0  # decisions are forgotten while it goes on, and who restarts reads that much again


@dataclass(frozen=True, slots=True)
class Aftermath:
    """All that is known after the faults."""

    seed: int
    took_s: float
    load: Load
    incidents: list[Incident]
    history: list[dict[str, Any]]
    """What became of versions, as it was told after each fault: a hub that is killed forgets the newest lines."""
    full: Delta
    """The last version."""
    entries: list[Entry]
    """The log."""
    config: Config


class Ordeal:
    """An application, and what it goes through."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        values = {
            "n_rankers": N_REPLICAS,
            "n_events": N_REPLICAS,
            "store": {"url": server.url, "durability": "disk"},
            "learner": {"join": {"attribution_s": ATTRIBUTION_S}},
        }
        self.config = config_from_dict(values)
        self.application = Application(folder, **values)
        self._targets = Targets(self.application, server)
        self._history: list[dict[str, Any]] = []

    def endure(self, seed: int, faults: list[Fault]) -> Aftermath:
        """One fault after the other, under load all the time."""
        began_s = time.monotonic()
        with Load(self.application.url, seed) as load:
            eventually(self._is_whole_since(0), "everything begins", WHOLE_S)
            incidents = [self._endure(fault, began_s) for fault in faults]
        full = self._last_version(len(load.sent))
        return Aftermath(
            seed,
            time.monotonic() - began_s,
            load,
            incidents,
            self._history,
            full,
            asyncio.run(laws.read_all(self.config.store, self.config.schema)),
            self.config,
        )

    def _endure(self, fault: Fault, began_s: float) -> Incident:
        before = self.application.call("serving")
        struck_s, ended_s = self._targets.strike(fault)
        gone = DEPLOYMENTS.get(fault.kind.victim, "") if fault.kind.manner == "kill" or fault.is_killed else ""
        eventually(lambda: not gone or self._is_replaced(gone, before), f"another replica: {fault.name}", WHOLE_S)
        version = eventually(lambda: self._model().get("version"), f"the hub again: {fault.name}", WHOLE_S)
        eventually(self._is_whole_since(version), lambda: f"whole again: {fault.name}; {self._model()}", WHOLE_S)
        whole_s = time.monotonic()
        self._note_history()
        print(f"{struck_s - began_s:6.1f} s: {fault.name}; whole {whole_s - ended_s:.1f} s later", flush=True)
        return Incident(fault, struck_s, ended_s, whole_s)

    def _note_history(self) -> None:
        told = self.application.get("/v1/model/versions")["history"]
        self._history += [line for line in told if line not in self._history]

    def _is_replaced(self, deployment: str, before: dict[str, dict[str, int]]) -> bool:
        running = self._serving().get(deployment, {})
        return len(running) == N_REPLICAS and running.keys() != before[deployment].keys()

    def _is_whole_since(self, version: int) -> Callable[[], bool]:
        """Whether all replicas run, rankings and posts are as they should be, and newer weights answer."""

        def is_whole() -> bool:
            model, serving = self._model(), self._serving()
            return (
                all(len(serving.get(name, ())) == N_REPLICAS for name in DEPLOYMENTS.values())
                and model.get("state") == "live"
                and model["live"] > version + 1
                and self._answers_whole()
            )

        return is_whole

    def _answers_whole(self) -> bool:
        http, body = self.application.http, {"user": "u", "candidates": ITEMS[:N_CANDIDATES]}
        ranked, health = http.post("/v1/rank", json=body), http.get("/v1/health")
        return ranked.status_code == health.status_code == 200 and ranked.json()["degraded"] == []

    def _model(self) -> dict[str, Any]:
        told: dict[str, Any] = self.application.http.get("/v1/model").json()
        return told

    def _serving(self) -> dict[str, dict[str, int]]:
        try:
            told: dict[str, dict[str, int]] = self.application.call("serving")
        except AssertionError:  # the controller is being restarted
            return {}
        return told

    def _last_version(self, n_sent: int) -> Delta:
        """The version that has learned everything."""
        self.application.post("/v1/events", {"events": [{"type": "click", "user": "u", "item": "i0", "id": LAST}]})
        eventually(lambda: self._model().get("events", 0) > n_sent, lambda: f"{n_sent}: {self._model()}", LEARNED_S)
        self._note_history()
        path = Path(self.application.call("save_version", str(self.application.folder / "version")))
        return snapshots.unpack(path.read_bytes())


@pytest.fixture(scope="class")
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """What is left of an application after the faults of the test's class, which says how many and of which kinds."""
    seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(10_000))
    n_faults = int(os.environ.get(N_FAULTS) or request.cls.n_faults)
    print(f"{SEED}={seed} {N_FAULTS}={n_faults}", flush=True)
    faults = plan(seed, n_faults, KINDS if n_faults > len(RISKIEST) else RISKIEST)
    folder = tmp_path_factory.mktemp("chaos")
    with EmbeddedServer(folder / "store", settings=("--appendfsync", "always")) as server:
        ordeal = Ordeal(folder, server)
        try:
            yield ordeal.endure(seed, faults)
        finally:
            left = ordeal.application.close()
    assert left == []
