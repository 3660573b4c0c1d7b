"""The runs behind `benchmarks.bench_tail`: each takes its options, measures, and returns plain values to report.

Arrival rates are half of saturation unless told: what the closed loop reaches at 64 connections, measured first.
"""

import argparse
import math
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from benchmarks.comparing import errors, medians, refused_ms
from benchmarks.latency import LoadResult, Trace
from benchmarks.loadgen import Running, run_load
from benchmarks.stage import WARMUP_S, Stage, Watch, stage
from benchmarks.systems import System
from benchmarks.tails import median_ratio, recovery_s, slope
from deployments.client import Headrace

LEVELS: Final = (0.0, 1_000.0, 10_000.0)  # events per second
STEADY_PER_S: Final = 1_000.0  # events per second of the other runs
MANY_CONNECTIONS: Final = 1024
PROBES_PER_S: Final = 50.0
SETTLE_S: Final = 2.0  # after publishing was toggled
WINDOW_S: Final = 10.0
CONNECTIONS: Final = (64, 256)
PHASES: Final = (("half", 1.0), ("overload", 4.0), ("half again", 1.0), ("83 %", 1.66), ("90 %", 1.8))  # times half
N_PROBED: Final = 3  # the first of them

Options = argparse.Namespace


def rate_of(options: Options, on: Stage) -> float:
    """Half of saturation, or what was asked for."""
    if options.rate:
        on.ask(n_connections=16, duration_s=2.0)
        return float(options.rate)
    rate_per_s = max(10.0, round(on.saturation_per_s(5.0) / 2, -1))
    print(f"half of saturation: {rate_per_s:.0f}/s", flush=True)
    return rate_per_s


def tell(what: str, result: LoadResult) -> LoadResult:
    """Print progress."""
    figures = f"{result.rate_per_s:6.0f}/s  p50 {result.p50_ms:7.2f}  p99 {result.p99_ms:8.2f} ms"
    print(f"  {what:28} {figures}  {result.errors or ''}", flush=True)
    return result


def events(options: Options) -> dict[str, Any]:
    """A steady load of ranks with no, some and many events flowing in; then the floor at the same rate."""
    runs: dict[float, list[LoadResult]] = {}
    flows: dict[float, list[dict[str, float]]] = {}
    with stage() as on:
        rate_per_s = rate_of(options, on)
        for number in range(options.rounds):
            for level in LEVELS[:: 1 if number % 2 == 0 else -1]:
                result, flow = _with_events(on, level, rate_per_s, options.seconds)
                runs.setdefault(level, []).append(tell(f"{level:.0f} events/s", result))
                flows.setdefault(level, []).append(flow)
        others_ratio = on.neighbours.ratio()
        floors = _floor(rate_per_s, options, on)
    rows = []
    for level in LEVELS:
        flow = {name: statistics.median(one[name] for one in flows[level]) for name in flows[level][0]}
        rows.append({"events_per_s": level, **medians(runs[level]), "errors": errors(runs[level]), **flow})
    floor = medians(floors)
    limit_ms = max(5.0, floor["p99_ms"] + 2.0)
    return {
        "rate_per_s": rate_per_s,
        "others_ratio": others_ratio,
        "rows": rows,
        "floor": floor,
        "limit_ms": limit_ms,
        "runs": {f"{level:.0f}": [asdict(run) for run in found] for level, found in runs.items()},
    }


def _with_events(on: Stage, level: float, rate_per_s: float, seconds: float) -> tuple[LoadResult, dict[str, float]]:
    before, began_s = on.cpu_s(), time.monotonic()
    flow = on.events(level, seconds + WARMUP_S) if level else None
    result = on.start(rate_per_s=rate_per_s, duration_s=seconds).result().summary()
    wall_s = time.monotonic() - began_s
    after = on.cpu_s()
    sent = flow.result().summary() if flow else None
    told = {
        "sent_per_s": sent.rate_per_s * level / 10.0 if sent else 0.0,
        "post_p99_ms": sent.p99_ms if sent else math.nan,
        "sender_cpu": sent.cpu_ratio if sent else 0.0,
        "caught_up_s": on.settle(),
    }
    return result, told | {f"{role} cpu": (after[role] - before.get(role, 0.0)) / wall_s for role in sorted(after)}


def _floor(rate_per_s: float, options: Options, on: Stage) -> list[LoadResult]:
    """The fixed answer through Serve at the same rate, alone but for the idle Headrace beside it."""
    with (
        TemporaryDirectory(prefix="headrace-bench-") as folder,
        System("floor", redis_url=on.store.url, folder=Path(folder)) as system,
    ):
        load = on.load(port=system.port, rate_per_s=rate_per_s, duration_s=options.seconds)
        return [tell("floor", run_load(load)) for _ in range(options.rounds)]


def overload(options: Options) -> dict[str, Any]:
    """Half of saturation, twice, and half again without a gap, with a probe every 20 ms; then short of it."""
    with stage() as on:
        half_per_s = rate_of(options, on)
        seconds = options.seconds
        before = {role: on.pids(role) for role in ("Ranker", "HAProxy")}
        probe = on.start(
            n_connections=8, rate_per_s=PROBES_PER_S, duration_s=N_PROBED * seconds + 1.0, warmup_s=WARMUP_S
        )
        load = on.start(
            n_connections=MANY_CONNECTIONS,
            rate_per_s=half_per_s,
            duration_s=seconds,
            then=tuple((times * half_per_s, seconds) for _, times in PHASES[1:]),
        )
        found, probed = load.result(), probe.result()
        after = {role: on.pids(role) for role in before}
        others_ratio = on.neighbours.ratio()
    offset_s = found.from_s - probed.from_s
    phases = [found.summary(index * seconds, (index + 1) * seconds) for index in range(len(PHASES))]
    return {
        "half_per_s": half_per_s,
        "others_ratio": others_ratio,
        "phases": [asdict(phase) for phase in phases],
        "admitted_ratio": phases[1].p99_ms / phases[0].p99_ms,
        "recovery_s": recovery_s(probed, offset_s + seconds, offset_s + 2 * seconds),
        "probe": [
            asdict(probed.summary(max(0.0, offset_s + index * seconds), offset_s + (index + 1) * seconds))
            for index in range(N_PROBED)
        ],
        "same_pids": before == after,
        "pids": {"before": before, "after": after},
        "series": series(found, 0.5),
    }


def series(trace: Trace, width_s: float) -> dict[str, list[float]]:
    """Windows of a trace, for a picture."""
    windows = trace.windows(width_s)
    return {
        "times_s": [(index + 0.5) * width_s for index in range(len(windows))],
        "p50_ms": [window.p50_ms for window in windows],
        "p99_ms": [window.p99_ms for window in windows],
        "answered_per_s": [window.rate_per_s for window in windows],
        "refused_per_s": [window.errors.get(429, 0) / width_s for window in windows],
    }


def swaps(options: Options) -> dict[str, Any]:
    """Pairs of runs with the same ingestion and training, with and without publishing."""
    sides: dict[str, list[LoadResult]] = {"held": [], "published": []}
    seen: dict[str, list[float]] = {"held": [], "published": []}
    with stage() as on, Headrace(on.system.url, timeout_s=60.0) as client:
        rate_per_s = rate_of(options, on)
        for number in range(options.rounds):
            for side in ("held", "published")[:: 1 if number % 2 == 0 else -1]:
                client.rollback() if side == "held" else client.resume()
                flow = on.events(STEADY_PER_S, options.seconds + WARMUP_S + SETTLE_S)
                time.sleep(SETTLE_S)
                with Watch(on.system.url) as watch:
                    result = on.start(rate_per_s=rate_per_s, duration_s=options.seconds).result().summary()
                flow.result()
                seen[side].append(watch.swaps_per_s())
                sides[side].append(tell(f"pair {number + 1}, {side}", result))
        client.resume()
        others_ratio = on.neighbours.ratio()
    pairs = {side: [run.p99_ms for run in runs] for side, runs in sides.items()}
    return {
        "rate_per_s": rate_per_s,
        "others_ratio": others_ratio,
        "sides": {side: medians(runs) for side, runs in sides.items()},
        "errors": {side: errors(runs) for side, runs in sides.items()},
        "swaps_per_s": {side: statistics.median(rates) for side, rates in seen.items()},
        "p99_ms": pairs,
        "ratio": asdict(median_ratio(pairs["published"], pairs["held"])),
    }


def soak(options: Options) -> dict[str, Any]:
    """Half of saturation and a steady flow of events for minutes: does latency or memory drift?"""
    seconds = options.minutes * 60.0
    with stage() as on:
        rate_per_s = rate_of(options, on)
        flow = on.events(STEADY_PER_S, seconds + 2 * WARMUP_S)
        load = on.start(rate_per_s=rate_per_s, duration_s=seconds)
        memory = _memory(on, load, seconds)
        trace, sent = load.result(), flow.result().summary()
        others_ratio = on.neighbours.ratio()
    windows = series(trace, WINDOW_S)
    minutes = [at_s / 60.0 for at_s in windows["times_s"]]
    return {
        "rate_per_s": rate_per_s,
        "others_ratio": others_ratio,
        "minutes": options.minutes,
        "whole": asdict(trace.summary()),
        "sent_per_s": sent.rate_per_s * STEADY_PER_S / 10.0,
        "windows": windows,
        "memory": {"times_s": [at_s for at_s, _ in memory], "mib": [mib for _, mib in memory]},
        "slopes": {
            "p50_ms": asdict(slope(minutes, windows["p50_ms"])),
            "p99_ms": asdict(slope(minutes, windows["p99_ms"])),
            "mib": asdict(slope([at_s / 60.0 for at_s, _ in memory], [mib for _, mib in memory])),
        },
    }


def _memory(on: Stage, load: Running, seconds: float) -> list[tuple[float, float]]:
    """Resident memory of the Ranker in MiB, every ten seconds."""
    (pid,) = on.pids("Ranker")
    replica, began_s = psutil.Process(pid), time.monotonic()
    found = []
    while (at_s := time.monotonic() - began_s) < seconds and load.is_running():
        found.append((at_s, replica.memory_info().rss / 2**20))
        time.sleep(min(WINDOW_S, max(0.1, seconds - at_s)))
    return found


def replicas(options: Options) -> dict[str, Any]:
    """Closed loops on one and on two Ranker replicas: rate, and processor time of an answer by process."""
    runs: dict[tuple[int, int], list[LoadResult]] = {}
    costs: dict[tuple[int, int], list[dict[str, float]]] = {}
    others: list[float] = []
    for number in range(options.rounds):
        for n_rankers in (1, 2)[:: 1 if number % 2 == 0 else -1]:
            with stage(n_rankers) as on:
                on.ask(n_connections=16, duration_s=2.0)
                for n_connections in CONNECTIONS:
                    result, cost = _costs(on, n_connections, options.seconds)
                    key = (n_rankers, n_connections)
                    runs.setdefault(key, []).append(tell(f"{n_rankers} replica(s), {n_connections} conn.", result))
                    costs.setdefault(key, []).append(cost)
                others.append(on.neighbours.ratio())
    rows = []
    for (n_rankers, n_connections), found in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        key = (n_rankers, n_connections)
        roles = sorted({role for cost in costs[key] for role in cost})
        cost = {role: statistics.median(one.get(role, 0.0) for one in costs[key]) for role in roles}
        row = {"n_rankers": n_rankers, "n_connections": n_connections, **medians(found), "errors": errors(found)}
        rows.append({**row, "refused_p99_ms": refused_ms(found), "cpu_ms": cost})
    return {"rows": rows, "others_ratio": statistics.median(others)}


def _costs(on: Stage, n_connections: int, seconds: float) -> tuple[LoadResult, dict[str, float]]:
    """A closed loop without warm-up, and milliseconds of processor time per answer by role."""
    before = on.cpu_s()
    result = on.ask(n_connections=n_connections, duration_s=seconds, warmup_s=0.0)
    after = on.cpu_s()
    n = max(1.0, result.rate_per_s * seconds)
    cost = {role: 1000.0 * (after[role] - before.get(role, 0.0)) / n for role in after}
    return result, cost | {"generator": 1000.0 * result.cpu_ratio * seconds / n}
