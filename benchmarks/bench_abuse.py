"""What others notice of a key that floods, and of slow clients.

    python -m benchmarks.bench_abuse [--rounds 7] [--seconds 10] [--rate 200] [--slow 1000] [--json [FILE]]

Headrace as `headrace up` runs it, with keys. One key ranks 100 candidates at a steady rate, open loop, latency from the
intended send time. In turn beside it: nobody; another key whose rate is 20 a second and which asks for 1,000; a
thousand clients that send a byte of a head each second. Rounds alternate, ratios are of pairs within a round.

NOT shown: those who do so from machines of their own. Here they run while nobody else wants a processor; slow clients
are there until after what is measured.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks import machine
from benchmarks.comparing import Goal, errors, medians
from benchmarks.feeding import feed
from benchmarks.latency import LoadResult
from benchmarks.load import Load
from benchmarks.loadgen import Running
from benchmarks.systems import System
from benchmarks.tails import median_ratio
from benchmarks.workloads import World
from features.embedded import EmbeddedServer

N_EVENTS: Final = 5000
N_BODIES: Final = 256
N_CANDIDATES: Final = 100
WARMUP_S: Final = 1.0
BEYOND_S: Final = 3.0  # a thousand connections that end at once are another thing than slow clients
FLOOD_RATE: Final = 20.0
TIMES: Final = 50.0
LIMIT: Final = 1.2
BESIDE: Final = ("nobody", "a flood", "slow clients")
FIGURES: Final = ("rate_per_s", "p50_ms", "p95_ms", "p99_ms", "max_ms")


class Abused:
    """A Headrace with keys, and what is done to it."""

    def __init__(self, system: System, options: argparse.Namespace) -> None:
        world = World()
        feed(system.url, world, N_EVENTS, api_key=system.api_key)
        self._system = system
        self._options = options
        self._bodies = tuple(world.rank_bodies(N_BODIES, n_candidates=N_CANDIDATES))
        self._others = system.new_key("others", "--scope", "rank")
        self._flood = system.new_key("flood", "--scope", "rank", "--per-s", str(FLOOD_RATE))

    def measure(self, beside: str) -> tuple[LoadResult, dict[str, float]]:
        """What the others meet beside somebody; and what became of that one."""
        seconds = self._options.seconds
        disturbing: list[Any] = []
        if beside == "a flood":
            disturbing.append(self._load(self._flood, TIMES * FLOOD_RATE, gives_way=True))
        crawling = self._crawl(WARMUP_S + seconds + BEYOND_S) if beside == "slow clients" else None
        result = self._load(self._others, self._options.rate).result().summary()
        told = {}
        for running in disturbing:
            flood = running.result().summary()
            told = {"admitted_per_s": flood.rate_per_s, "refused": flood.errors.get(429, 0), "cpu": flood.cpu_ratio}
        if crawling is not None:
            told = {"cut_off": msgspec.json.decode(crawling.communicate()[0])}
        return result, told

    def _load(self, api_key: str, rate_per_s: float, **options: bool) -> Running:
        return Running(
            Load(
                port=self._system.port,
                bodies=self._bodies,
                headers=(("authorization", f"Bearer {api_key}"),),
                rate_per_s=rate_per_s,
                n_connections=64,
                duration_s=self._options.seconds,
                warmup_s=WARMUP_S,
                **options,
            )
        )

    def _crawl(self, seconds: float) -> subprocess.Popen[bytes]:
        arguments = map(str, (self._system.port, self._options.slow, seconds))
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.slow_clients", *arguments],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    runs: dict[str, list[LoadResult]] = {name: [] for name in BESIDE}
    told: dict[str, list[dict[str, float]]] = {name: [] for name in BESIDE}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        store = stack.enter_context(EmbeddedServer())
        system = stack.enter_context(System("headrace", redis_url=store.url, folder=folder, has_keys=True))
        abused = Abused(system, options)
        abused.measure("nobody")  # to warm up
        for number in range(options.rounds):
            for name in BESIDE[:: 1 if number % 2 == 0 else -1]:
                result, found = abused.measure(name)
                runs[name].append(result)
                told[name].append(found)
                print(f"  beside {name:14} p50 {result.p50_ms:6.2f}  p99 {result.p99_ms:7.2f} ms  {found}", flush=True)
    return {"runs": {name: [asdict(run) for run in found] for name, found in runs.items()}, "told": told}


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what was found."""
    runs = {name: [LoadResult(**run) for run in rows] for name, rows in found["runs"].items()}
    rows = [
        [name, *(medians(runs[name])[figure] for figure in FIGURES), errors(runs[name]) or "none"] for name in BESIDE
    ]
    print(f"\nothers: {options.rate:g} ranks/s; medians of {options.rounds} rounds of {options.seconds:g} s\n")
    print(machine.table(("beside", "answered/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"), rows))
    for name in BESIDE[1:]:
        told = {what: float(np.median([one[what] for one in found["told"][name]])) for what in found["told"][name][0]}
        print(f"\n{name}: {', '.join(f'{what} {value:,.1f}' for what, value in told.items())}")
        p99 = [[run.p99_ms for run in runs[which]] for which in (name, "nobody")]
        ratio = median_ratio(*p99)
        print(f"p99 beside {name} / beside nobody: {ratio.text()}")
        print(Goal(text=f"p99 beside {name}", value=ratio.value, unit=" times", limit=LIMIT, is_at_least=False).line())


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_abuse", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0, help="of the others, ranks per second")
    parser.add_argument("--slow", type=int, default=1000, help="slow clients")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    options = parser.parse_args()
    found = {**measure(options), "machine": machine.facts()}
    report(found, options)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
