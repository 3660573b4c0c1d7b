"""How fast is a rank of 100 candidates, and how much faster than default Ray Serve on the same work?

    python -m benchmarks.bench_serving [--seconds 5] [--rounds 3] [--json [FILE]]

Two systems, each with a Ray cluster of its own, share one store and one machine: Headrace as `headrace up` runs it
(learner, projector and decision log at work) and default Ray Serve around the same `Ranking` (`benchmarks.rival`; its
decisions are NOT logged, nobody learns from it). Both are up all the time and only one is asked; the processor time the
idle one takes meanwhile is told. Rounds are interleaved A B, B A, …; figures are medians over rounds.

Shown: closed loop at 1, 16 and 64 connections; then open loop on Headrace alone, at half of its own rate.
NOT shown: a load generator on another machine (this one shares the cores), more than one replica, weights that change
while one measures (see bench_freshness), a cold cache, a network.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import machine
from benchmarks.feeding import feed
from benchmarks.loadgen import Load, LoadResult, run_load
from benchmarks.systems import System
from benchmarks.workloads import World
from deployments.client import Headrace
from features.embedded import EmbeddedServer

CONNECTIONS: Final = (1, 16, 64)
N_EVENTS: Final = 20_000
N_BODIES: Final = 512
N_CANDIDATES: Final = 100
GOAL: Final = 5.0  # times the rate of default Ray Serve at the most connections
FIGURES: Final = ("rate_per_s", "p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")

Results = dict[tuple[str, str], list[LoadResult]]


class Rounds:
    """Asks one system at a time, and keeps what came back by (system, load)."""

    def __init__(self, systems: Mapping[str, System], store: EmbeddedServer, bodies: tuple[bytes, ...]) -> None:
        self._systems = systems
        self._neighbours = machine.Neighbours(lambda: own_s(systems, store))
        self.others_ratios: list[float] = []
        """Share of all processors that went to neither system, nor store, nor generator."""
        self._bodies = bodies
        self.results: Results = {}
        self.idle_ratios: dict[str, list[float]] = {name: [] for name in systems}
        """Share of one core each system took while another one was asked."""
        self.busy_ratios: dict[tuple[str, str], list[float]] = {}
        """Share of one core a system took while it was asked, all its processes together (the store is not one)."""

    def ask(self, name: str, what: str, **options: Any) -> None:
        """Put a load on one system."""
        before_s = {each: system.cpu_s() for each, system in self._systems.items()}
        began_s = time.monotonic()
        result = run_load(Load(port=self._systems[name].port, bodies=self._bodies, **options))
        wall_s = time.monotonic() - began_s
        for each, system in self._systems.items():
            ratio = (system.cpu_s() - before_s[each]) / wall_s
            shares = self.busy_ratios.setdefault((name, what), []) if each == name else self.idle_ratios[each]
            shares.append(ratio)
        self.others_ratios.append(self._neighbours.ratio())
        self.results.setdefault((name, what), []).append(result)
        print(f"  {name:9} {what:18} {result.rate_per_s:7.0f}/s  p50 {result.p50_ms:6.2f}  p99 {result.p99_ms:7.2f} ms")

    def closed(self, seconds_s: float, rounds: int) -> None:
        """Closed loop at every number of connections, the systems interleaved."""
        for number in range(rounds):
            names = list(self._systems)[:: 1 if number % 2 == 0 else -1]
            for n_connections in CONNECTIONS:
                for name in names:
                    self.ask(name, closed_load(n_connections), n_connections=n_connections, duration_s=seconds_s)

    def open(self, name: str, seconds_s: float, rounds: int) -> None:
        """Open loop at half of the rate the system reached in the closed one."""
        fastest = medians(self.results[name, closed_load(CONNECTIONS[-1])])["rate_per_s"]
        rate_per_s = max(10.0, round(fastest / 2, -1))
        for _ in range(rounds):
            self.ask(name, f"open, {rate_per_s:.0f}/s", n_connections=64, duration_s=seconds_s, rate_per_s=rate_per_s)


def own_s(systems: Mapping[str, System], store: EmbeddedServer) -> float:
    """Processor time of the systems and their store so far."""
    used = psutil.Process(store.pid).cpu_times()
    return float(used.user + used.system) + sum(system.cpu_s() for system in systems.values())


def closed_load(n_connections: int) -> str:
    """Name of a closed loop."""
    return f"{n_connections} connection{'s' if n_connections > 1 else ''}"


def medians(runs: list[LoadResult]) -> dict[str, float]:
    """Median of each figure over the rounds."""
    return {name: statistics.median(getattr(run, name) for run in runs) for name in FIGURES}


def rows(measured: Rounds) -> Iterator[list[Any]]:
    """Rows of the table: medians, errors over all rounds, the system's and the generator's share of a core."""
    for (name, what), runs in measured.results.items():
        errors: dict[int, int] = {}
        for run in runs:
            for status, count in run.errors.items():
                errors[status] = errors.get(status, 0) + count
        cpu = statistics.median(run.cpu_ratio for run in runs)
        busy = statistics.median(measured.busy_ratios[name, what])
        yield [name, what, *medians(runs).values(), errors or "none", f"{busy:.0%}", f"{cpu:.0%}"]


def ratios(results: Results) -> dict[str, dict[str, float]]:
    """Headrace against the rival by load: rate (higher is better) and p50, p99 (lower is better)."""
    found: dict[str, dict[str, float]] = {}
    for n_connections in CONNECTIONS:
        what = closed_load(n_connections)
        ours, theirs = medians(results["headrace", what]), medians(results["serve", what])
        found[what] = {name: ours[name] / theirs[name] for name in ("rate_per_s", "p50_ms", "p99_ms")}
    return found


def score_difference(systems: Mapping[str, System], world: World) -> float:
    """Largest difference of a score between the systems on the same requests: they must do the same work.

    Not exactly 0: the requests are asked one after the other, and counters decay in between.
    """
    answers: list[list[dict[str, float]]] = []
    bodies = [json.loads(body) for body in world.rank_bodies(8)]
    for system in systems.values():
        with Headrace(system.url) as client:
            given = [client.rank(b["user"], b["candidates"], context=b["context"]) for b in bodies]
        answers.append([{item["id"]: item["score"] for item in answer["items"]} for answer in given])
    return float(max(abs(one[i] - two[i]) for one, two in zip(*answers, strict=True) for i in one))


def run(seconds_s: float, rounds: int) -> dict[str, Any]:
    """Start both systems on one store, measure, stop; returns everything that is reported."""
    known, world = machine.facts(), World()
    bodies = tuple(world.rank_bodies(N_BODIES, n_candidates=N_CANDIDATES))
    began_s = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        store = stack.enter_context(EmbeddedServer())
        print("starting Headrace, sending events, training")
        ours = stack.enter_context(System("headrace", redis_url=store.url, folder=scratch / "versions"))
        model = feed(ours.url, world, N_EVENTS)
        # A copy: `Checkpoints.load` tidies up what it reads, and the hub still writes here.
        shutil.copytree(scratch / "versions", scratch / "copy")
        print("starting default Ray Serve")
        rival = stack.enter_context(System("serve", redis_url=store.url, folder=scratch / "copy"))
        systems = {"headrace": ours, "serve": rival}
        difference = score_difference(systems, world)
        measured = Rounds(systems, store, bodies)
        measured.closed(seconds_s, rounds)
        measured.open("headrace", 2 * seconds_s, rounds)
    return {
        "what": "rank of 100 candidates",
        "machine": known,
        "settings": {
            "seconds_s": seconds_s,
            "rounds": rounds,
            "n_events": N_EVENTS,
            "world": asdict(world.config),
        },
        "model_version": model["version"],
        "largest_score_difference": difference,
        "took_s": time.monotonic() - began_s,
        "others_ratio": statistics.median(measured.others_ratios),
        "idle_ratios": {name: statistics.median(shares) for name, shares in measured.idle_ratios.items() if shares},
        "ratios": ratios(measured.results),
        "table": list(rows(measured)),
        "runs": [
            {"system": name, "load": what, **asdict(result)}
            for (name, what), found in measured.results.items()
            for result in found
        ],
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    settings = found["settings"]
    header = (
        "system",
        "load",
        "rate/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "errors",
        "cpu",
        "generator",
    )
    print(f"\n{machine.describe(found['machine'])}\n{machine.warn(found['others_ratio'])}")
    print(
        f"median of {settings['rounds']} interleaved rounds of {settings['seconds_s']:g} s, {N_CANDIDATES} candidates, "
        f"version {found['model_version']} trained on {N_EVENTS:,} events; {found['took_s']:.0f} s in all\n"
        f"the rival logs no decisions; largest difference of a score {found['largest_score_difference']:.1e}\n"
    )
    print(machine.table(header, found["table"]))
    idle = ", ".join(f"{name} {share:.0%}" for name, share in found["idle_ratios"].items())
    print(f"share of a core taken while the other one was asked: {idle}")
    print("\nHeadrace : default Ray Serve")
    print(
        machine.table(
            ("load", "rate", "p50", "p99"),
            [[what, *(f"{value:.3g} x" for value in ratio.values())] for what, ratio in found["ratios"].items()],
        )
    )
    most = closed_load(CONNECTIONS[-1])
    best = found["ratios"][most]["rate_per_s"]
    verdict = "met" if best >= GOAL else "MISSED"
    print(f"\n{most}: {best:.1f} times the rate; goal {GOAL:g}: {verdict}")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_serving", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="measured seconds of each closed-loop run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options.seconds, options.rounds)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
