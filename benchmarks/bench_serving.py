"""How fast is a rank, what does Ray Serve cost of it, and how does that compare with other ways to serve?

    python -m benchmarks.bench_serving [--seconds 3] [--rounds 3] [--systems headrace,uvicorn,...]
                                       [--connections 1,4,16,64,256] [--json [FILE]] [--plot FILE.png]

Every system does the same work (`Ranking`) on the same requests, store and weights, with one scoring process, and is
alone on the machine while it is measured: it is started, warmed up, asked everything, and ended; rounds go through the
systems forwards, backwards, …, and figures are medians over rounds. `floor` and `uvicorn-floor` answer a fixed body of
the usual size without ranking. How each rival is used, and what is in its favour: `benchmarks/rivals`.

Shown: closed loop over connections at 100 candidates, and at 10 and 500 at 64 connections; then open loop at fractions
of what Headrace reached at 64 connections, with latency from the intended send time, for systems that matter there.
NOT shown: a load generator on another machine (this one shares the cores), weights that change and events that flow in
meanwhile, more than one replica, overload (all of these: bench_tail), a cold cache, a network.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks import machine, plotting
from benchmarks.comparing import COMPARED, Goal, errors, medians, ratios, refused_ms, serving_goals
from benchmarks.feeding import feed
from benchmarks.latency import LoadResult
from benchmarks.load import Load
from benchmarks.loadgen import run_load
from benchmarks.rivals.options import Options
from benchmarks.rivals.work import BlockingWork
from benchmarks.systems import KINDS, System, absence, packed
from benchmarks.workloads import World
from features.embedded import EmbeddedServer

CONNECTIONS: Final = (1, 4, 16, 64, 256)
N_CANDIDATES: Final = 100
OTHER_CANDIDATES: Final = (10, 500)
USUAL: Final = 64  # connections of the goals, of other candidates, and of saturation
FRACTIONS: Final = (0.25, 0.5, 0.75, 0.9)  # of Headrace's saturation
OPEN_CONNECTIONS: Final = 256
OPENED: Final = ("headrace", "uvicorn", "mosec", "floor")  # systems that meet fixed arrival rates
N_EVENTS: Final = 20_000
N_BODIES: Final = 512
WARMUP_S: Final = 0.5
CALM_S: Final = 1.5  # after a load that was shed: HAProxy keeps to its second limit for a second
SETTLE_S: Final = 2.0  # of load after a start, for caches and for what frameworks tune by themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to measure."""

    seconds_s: float = 3.0
    """Measured time of a closed loop; an open one takes twice that."""
    rounds: int = 3
    systems: tuple[str, ...] = tuple(KINDS)
    connections: tuple[int, ...] = CONNECTIONS
    log_decisions: bool = True


@dataclass(slots=True)
class Found:
    """What came back."""

    results: dict[tuple[str, str], list[LoadResult]] = field(default_factory=dict)
    busy_ratios: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Share of one core a system took while it was asked, all its processes together (the store is not one)."""
    others_ratios: list[float] = field(default_factory=list)
    """Share of all processors that went to neither system, nor store, nor generator."""
    differences: dict[str, float] = field(default_factory=dict)
    """Largest difference of a score from the same `Ranking` in this process, by system."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a system is not in the table."""


def bodies_of(world: World) -> dict[int, tuple[bytes, ...]]:
    """Bodies by number of candidates."""
    return {n: tuple(world.rank_bodies(N_BODIES, n_candidates=n)) for n in (N_CANDIDATES, *OTHER_CANDIDATES)}


def closed_load(n_connections: int, n_candidates: int = N_CANDIDATES) -> str:
    """Name of a closed loop."""
    candidates = "" if n_candidates == N_CANDIDATES else f", {n_candidates} candidates"
    return f"{n_connections} connection{'s' if n_connections > 1 else ''}{candidates}"


def open_load(rate_per_s: float) -> str:
    """Name of an open loop."""
    return f"open, {rate_per_s:.0f}/s"


class Asked:
    """One started system, asked one load after another."""

    def __init__(
        self, system: System, store: EmbeddedServer, bodies: dict[int, tuple[bytes, ...]], found: Found
    ) -> None:
        self._system, self._found, self._bodies = system, found, bodies
        self._neighbours = machine.Neighbours(lambda: own_s(system, store))

    def all(self, plan: Plan, rates_per_s: Sequence[float]) -> None:
        """Everything this system is asked in a round."""
        name = self._system.name
        self.load(N_CANDIDATES, n_connections=16, duration_s=SETTLE_S, warmup_s=0.0)
        for n_connections in plan.connections:
            self.ask(closed_load(n_connections), n_connections=n_connections, duration_s=plan.seconds_s)
        if not KINDS[name].is_floor:
            for n in OTHER_CANDIDATES:
                what = closed_load(USUAL, n)
                self.ask(what, n_candidates=n, n_connections=USUAL, duration_s=plan.seconds_s)
        for rate_per_s in rates_per_s if name in OPENED else ():
            what = open_load(rate_per_s)
            self.ask(what, n_connections=OPEN_CONNECTIONS, duration_s=2 * plan.seconds_s, rate_per_s=rate_per_s)

    def ask(self, what: str, n_candidates: int = N_CANDIDATES, **options: Any) -> None:
        """Put a load on the system and keep what came back."""
        key = (self._system.name, what)
        before_s, began_s = self._system.cpu_s(), time.monotonic()
        result = self.load(n_candidates, warmup_s=WARMUP_S, **options)
        ratio = (self._system.cpu_s() - before_s) / (time.monotonic() - began_s)
        if 429 in result.errors:
            time.sleep(CALM_S)
        self._found.results.setdefault(key, []).append(result)
        self._found.busy_ratios.setdefault(key, []).append(ratio)
        self._found.others_ratios.append(self._neighbours.ratio())
        told = f"{result.rate_per_s:7.0f}/s  p50 {result.p50_ms:7.2f}  p99 {result.p99_ms:8.2f} ms"
        print(f"  {key[0]:13} {what:30} {told}  {result.errors or ''}", flush=True)

    def load(self, n_candidates: int, **options: Any) -> LoadResult:
        """Put a load on the system."""
        bodies = packed(self._system.name, self._bodies[n_candidates])
        return run_load(Load(port=self._system.port, bodies=bodies, **options))


def own_s(system: System, store: EmbeddedServer) -> float:
    """Processor time of a system and the store so far."""
    used = psutil.Process(store.pid).cpu_times()
    return float(used.user + used.system) + system.cpu_s()


def score_difference(system: System, reference: BlockingWork, bodies: Sequence[bytes]) -> float:
    """Largest difference of a score from the same ranking done here, at about the same time: the work must be the same.

    Not exactly 0: counters decay between the two questions.
    """
    largest = 0.0
    with httpx.Client(timeout=10.0) as client:
        for body, sent in zip(bodies, packed(system.name, tuple(bodies)), strict=True):
            (ours,) = reference.answer_now([reference.decode(body)])
            given = client.post(f"{system.url}/v1/rank", content=sent, headers={"content-type": "application/json"})
            theirs = given.raise_for_status().json()
            theirs = theirs[0] if KINDS[system.name].takes_lists else theirs
            scores = {item["id"]: item["score"] for item in theirs["items"]}
            largest = max(
                largest, *(abs(scores[item["id"]] - item["score"]) for item in reference.plain(ours)["items"])
            )
    return largest


def run(plan: Plan) -> dict[str, Any]:
    """Train once, then start, measure and stop one system after another; returns everything that is reported."""
    known, world, found = machine.facts(), World(), Found()
    found.left_out = {name: reason for name in plan.systems if (reason := absence(name))}
    names = [name for name in plan.systems if name not in found.left_out]
    for name, reason in found.left_out.items():
        print(f"left out: {name}: {reason}")
    bodies = bodies_of(world)
    began_s = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        store = stack.enter_context(EmbeddedServer())
        print("starting Headrace, sending events, training", flush=True)
        with System("headrace", redis_url=store.url, folder=scratch / "versions") as ours:
            model = feed(ours.url, world, N_EVENTS)
            first = Asked(ours, store, bodies, found)
            first.load(N_CANDIDATES, n_connections=16, duration_s=SETTLE_S, warmup_s=0.0)
            full = first.load(N_CANDIDATES, n_connections=USUAL, duration_s=plan.seconds_s)
        saturation_per_s = full.rate_per_s
        rates_per_s = [max(10.0, round(fraction * saturation_per_s, -1)) for fraction in FRACTIONS]
        # A copy: `Checkpoints.load` tidies up what it reads, and Headrace writes on in its own folder.
        shutil.copytree(scratch / "versions", scratch / "copy")
        reference = BlockingWork(Options(port=0, redis_url=store.url, folder=str(scratch / "copy")))
        for number in range(plan.rounds):
            for name in names[:: 1 if number % 2 == 0 else -1]:
                folder = scratch / ("versions" if name == "headrace" else "copy")
                print(f"round {number + 1} of {plan.rounds}, {time.monotonic() - began_s:.0f} s: {name}", flush=True)
                with System(name, redis_url=store.url, folder=folder, log_decisions=plan.log_decisions) as system:
                    if number == 0 and not KINDS[name].is_floor:
                        found.differences[name] = score_difference(system, reference, bodies[N_CANDIDATES][:8])
                    Asked(system, store, bodies, found).all(plan, rates_per_s)
    return {
        "what": "rank",
        "machine": known,
        "settings": {**asdict(plan), "n_events": N_EVENTS, "world": asdict(world.config)},
        "model_version": model["version"],
        "saturation_per_s": saturation_per_s,
        "rates_per_s": rates_per_s,
        "score_differences": found.differences,
        "left_out": found.left_out,
        "took_s": time.monotonic() - began_s,
        "others_ratio": statistics.median(found.others_ratios),
        "ratios": {theirs: ratios(found.results, "headrace", theirs) for theirs in ("uvicorn", "serve", "mosec")},
        "goals": [
            {**asdict(goal), "verdict": goal.verdict}
            for goal in serving_goals(found.results, closed_load(USUAL), closed_load(1))
        ],
        "table": list(rows(found)),
        "curves": curves(found, rates_per_s),
        "runs": [
            {"system": name, "load": what, **asdict(result)}
            for (name, what), runs in found.results.items()
            for result in runs
        ],
    }


def rows(found: Found) -> Iterator[list[Any]]:
    """Rows of the table by load, floors first: medians, errors over all rounds, shares of a core."""
    loads = list(dict.fromkeys(what for _, what in found.results))
    for what in loads:
        for name in KINDS:
            runs = found.results.get((name, what))
            if runs is None:
                continue
            cpu = statistics.median(run.cpu_ratio for run in runs)
            busy = statistics.median(found.busy_ratios[name, what])
            refused = refused_ms(runs)
            told = [errors(runs) or "none", "-" if refused is None else refused]
            yield [what, name, *medians(runs).values(), *told, f"{busy:.0%}", f"{cpu:.0%}"]


def curves(found: Found, rates_per_s: Sequence[float]) -> dict[str, list[tuple[float, float, float]]]:
    """Points of the plot."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for name in KINDS:
        for rate_per_s in rates_per_s:
            if runs := found.results.get((name, open_load(rate_per_s))):
                median = medians(runs)
                points.setdefault(name, []).append((rate_per_s, median["p50_ms"], median["p99_ms"]))
    return points


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    settings = found["settings"]
    figures = ("rate/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "429 p99 ms")
    header = ("load", "system", *figures, "cpu", "generator")
    print(f"\n{machine.describe(found['machine'])}\n{machine.warn(found['others_ratio'])}")
    decisions = "Headrace and uvicorn log decisions" if settings["log_decisions"] else "nobody logs decisions"
    print(
        f"median of {settings['rounds']} interleaved rounds of {settings['seconds_s']:g} s (open loop: twice that), "
        f"{N_CANDIDATES} candidates, version {found['model_version']} trained on {N_EVENTS:,} events; "
        f"{found['took_s']:.0f} s in all\n{decisions}; one scoring process each, alone on the machine but for store "
        f"and generator"
    )
    differences = ", ".join(f"{name} {value:.0e}" for name, value in found["score_differences"].items())
    print(f"largest difference of a score from the same ranking done elsewhere: {differences}")
    for name, reason in found["left_out"].items():
        print(f"left out: {name}: {reason}")
    print()
    print(machine.table(header, found["table"]))
    for theirs, by_load in found["ratios"].items():
        if by_load:
            table = [[what, *(f"{ratio[name]:.3g} x" for name in COMPARED)] for what, ratio in by_load.items()]
            print(f"\nHeadrace : {theirs}\n{machine.table(('load', 'rate', 'p50', 'p99'), table)}")
    print()
    for goal in found["goals"]:
        print(Goal(**{name: value for name, value in goal.items() if name != "verdict"}).line())


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw latency against rate, or say why not."""
    if reason := plotting.absence():
        print(reason)
        return
    caption = (
        f"{machine.describe(found['machine']).splitlines()[0]}\nrank of {N_CANDIDATES} candidates, one scoring process "
        f"each, {OPEN_CONNECTIONS} connections, store and load generator on the same cores; "
        f"median of {found['settings']['rounds']} rounds"
    )
    plotting.plot_latency(found["curves"], "Latency of a rank against arrival rate", caption, path)


def parse() -> tuple[Plan, argparse.Namespace]:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_serving", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="measured seconds of each closed-loop run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", default=",".join(KINDS), help="some of the default, separated by commas")
    parser.add_argument("--connections", default=",".join(map(str, CONNECTIONS)), help="of the closed loops")
    parser.add_argument("--no-decisions", action="store_true", help="nobody logs decisions")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    parser.add_argument("--plot", type=Path, help="write latency against rate as a PNG")
    options = parser.parse_args()
    systems = tuple(options.systems.split(","))
    if unknown := set(systems) - set(KINDS):
        parser.error(f"unknown system {min(unknown)!r}; expected some of {', '.join(KINDS)}")
    plan = Plan(
        seconds_s=options.seconds,
        rounds=options.rounds,
        systems=systems,
        connections=tuple(int(number) for number in options.connections.split(",")),
        log_decisions=not options.no_decisions,
    )
    return plan, options


def main() -> None:
    """Measure and report."""
    plan, options = parse()
    found = run(plan)
    report(found)
    machine.write_json(found, options.json)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
