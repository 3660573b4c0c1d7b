"""How many events does a learner take a second on one core, from log entries to the optimizer's step?

    python -m benchmarks.bench_learning [--events 30000] [--rounds 5] [--learners 2] [--json FILE]

No Ray, no store: entries of a small shop's log, ten thousand events a second, each with its user's packed state, read
by `OnlineLearner` under the default schema. Before what is timed everybody has done enough for a full history of 20
items; each event is a slate of itself and 24 negatives. A version is taken after a second of the log or 4,096 entries,
as when several learn. BLAS and torch have one thread, and freed memory is kept, as in production. Time is that of the
process on its core: what others take of the core is not counted. Rounds follow one another with a fresh learner in a
fresh process each, warmed up on as many events as a history takes; medians and extremes.

With `--learners` as many processes divide the same log, in rounds as they are configured by default; this process hands
their shares round, as the hub does. A round takes as long as the slowest of them. The time is that of the processes on
their cores, added up round by round; beside it that of the one that was busy longest in all, which is less where a
machine is slow now here, now there; and that of the wall, which is the first where nobody else is on the machine. As
many processes that learn the whole log each, knowing nothing of one another, show what the machine can give: cores
share memory. All take turns; they are compared with one in pairs.
"""

import argparse
import statistics
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import machine
from benchmarks.workloads import World, WorldConfig
from features.encoding import N_RECENT
from features.events import EVENT, Entry, LoggedEvent, StreamId, encode_body
from features.schema import Schema
from features.state import apply_update, unpack, update_for
from learners.memory import keep_memory
from learners.online import LearnerConfig, OnlineLearner
from learners.rounds import RoundClock, RoundConfig

START_MS: Final = 1_764_000_000_000
N_USERS: Final = 500
PER_S: Final = 10_000.0  # of log time


def log_of(world: World, schema: Schema, n_events: int) -> list[Entry]:
    """Events as fast as a core is asked to learn, in log order."""
    states: dict[str, bytes] = {}
    entries = []
    for number, row in enumerate(world.events(n_events, start_ms=START_MS, per_s=PER_S)):
        event = LoggedEvent(row["type"], row["user"], row["item"], row["ts_ms"], 1.0, row["context"], None, None)
        state = states.get(event.user, b"")
        entries.append(Entry(StreamId(event.ts_ms, number), number % 64, EVENT, encode_body(event), state))
        states[event.user] = apply_update(state, update_for(event, schema), schema)
    return entries


def learn_alone(n_events: int, barrier: Barrier, bench: Connection) -> None:
    """A learner that has nothing to do with any other; tells its rate.

    Runs in a process of its own. Waits at the barrier before what is timed.
    """
    schema, log, n_before = _log(n_events)
    config = LearnerConfig()
    learner, clock = OnlineLearner(schema, config), RoundClock(config.rounds)
    began_s = 0.0
    keep_memory()
    with threadpool_limits(1):
        for number, entry in enumerate(log):
            if number == n_before:
                barrier.wait()
                began_s = time.process_time()
            if clock.is_over(entry.id.ms) and learner.is_settled:
                learner.take_delta(1, 0)
                clock.start()
            learner.read(entry)
            clock.count(entry.id.ms)
    bench.send(n_events / (time.process_time() - began_s))


def learn_in_rounds(seat: int, n_learners: int, n_events: int, hub: Connection) -> None:
    """One of several: reads the log, meets the others at the end of each round; tells the seconds of every timed round.

    Runs in a process of its own. Waits for a word before what is timed.
    """
    schema, log, n_before = _log(n_events)
    config = LearnerConfig(rounds=RoundConfig(n_learners=n_learners))
    learner, clock = OnlineLearner(schema, config, seat), RoundClock(config.rounds)
    seconds: list[float] = []

    def meet() -> None:
        share = learner.end_round(clock.end_ms)
        hub.send(share)
        seconds.append(time.process_time())
        shares = hub.recv()  # of the others
        learner.lay([*shares[:seat], share, *shares[seat:]])
        learner.take_delta(1, 0) if not seat else learner.drop_delta()
        clock.start()

    keep_memory()
    with threadpool_limits(1):
        for number, entry in enumerate(log):
            if number == n_before:
                if clock.n_entries:
                    meet()
                hub.send("ready")
                hub.recv()
                seconds = [time.process_time()]
            if clock.is_over(entry.id.ms):
                meet()
            learner.read(entry)
            clock.count(entry.id.ms)
        meet()
    hub.send(np.diff(seconds))


def rate_apart(n_learners: int, n_events: int) -> float:
    """Events per second of as many learners, each on its own, at the same time; added up."""
    context = get_context("spawn")
    barrier, (ours, theirs) = context.Barrier(n_learners, timeout=300), context.Pipe(duplex=False)
    processes = [context.Process(target=learn_alone, args=(n_events, barrier, theirs)) for _ in range(n_learners)]
    for process in processes:
        process.start()
    theirs.close()
    total = sum(ours.recv() for _ in processes)
    for process in processes:
        process.join()
    return total


def rates_of(n_learners: int, n_events: int) -> tuple[float, float, float]:
    """Events per second of several learners, two or more: on their cores, by the busiest one's time, by the wall."""
    context = get_context("spawn")
    ends = [context.Pipe() for _ in range(n_learners)]
    processes = [
        context.Process(target=learn_in_rounds, args=(seat, n_learners, n_events, theirs))
        for seat, (_, theirs) in enumerate(ends)
    ]
    for process, (_, theirs) in zip(processes, ends, strict=True):
        process.start()
        theirs.close()  # so that the end of a process is noticed
    hubs = [ours for ours, _ in ends]
    began_s = ended_s = 0.0
    while True:
        said = [hub.recv() for hub in hubs]
        if isinstance(said[0], np.ndarray):
            break
        ended_s = time.perf_counter()
        if said[0] == "ready":
            began_s = ended_s
        for seat, hub in enumerate(hubs):
            hub.send(said[:seat] + said[seat + 1 :])  # its own is not copied; Ray's object store copies none
    for process in processes:
        process.join()
    on_cores_s, busiest_s = float(np.max(said, axis=0).sum()), float(np.sum(said, axis=1).max())
    return n_events / on_cores_s, n_events / busiest_s, n_events / (ended_s - began_s)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns everything that is reported."""
    schema, log, n_before = _log(options.events)
    some = log[n_before : n_before + 1000]
    n_recent = statistics.mean(min(len(unpack(entry.state, schema).history), N_RECENT) for entry in some)
    del log
    rates, together = [], []
    for _ in range(options.rounds):
        rates.append(rate_apart(1, options.events))
        if options.learners:
            apart = rate_apart(options.learners, options.events)
            together.append((*rates_of(options.learners, options.events), apart))
    return {
        "what": "learning speed",
        "machine": machine.facts(),
        "settings": {"events": options.events, "rounds": options.rounds, "users": N_USERS},
        "n_recent": n_recent,
        "n_negatives": LearnerConfig().sampling.n_negatives,
        "events_per_s": rates,
        "n_learners": options.learners,
        "together": together,
    }


def _log(n_events: int) -> tuple[Schema, list[Entry], int]:
    """A schema, a log, and how many of its entries are before what is timed."""
    schema, world = Schema(), World(WorldConfig(n_users=N_USERS))
    n_before = 2 * N_RECENT * N_USERS  # a person's share of these is hardly ever below half
    return schema, log_of(world, schema, n_before + n_events), n_before


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    rates = found["events_per_s"]
    print(f"\n{machine.describe(found['machine'])}\n")
    print(f"slates of 1 + {found['n_negatives']}, histories of {found['n_recent']:.1f} items\n")
    rows = [[f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}"]]
    print(machine.table(("events/s, median", "slowest round", "fastest"), rows))
    if found["together"]:
        rows = []
        names = "on their cores", "the busiest one", "by the wall", "each on its own"
        for name, column in zip(names, zip(*found["together"], strict=True), strict=True):
            ratios = [several / one for several, one in zip(column, rates, strict=True)]
            extremes = f"{min(ratios):.2f} to {max(ratios):.2f}"
            rows.append([name, f"{statistics.median(column):,.0f}", f"{statistics.median(ratios):.2f}", extremes])
        print()
        print(machine.table((f"{found['n_learners']} learners", "events/s, median", "of one", "pairs"), rows))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_learning", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=30_000, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--learners", type=int, default=0, metavar="N", help="compare N of them with one")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
