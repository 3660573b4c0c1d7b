"""How many events does a learner take a second on one core, from log entries to the optimizer's step?

    python -m benchmarks.bench_learning [--events 30000] [--rounds 5] [--json FILE]

One process, no Ray, no store: entries of a small shop's log, each with its user's packed state, read by `OnlineLearner`
under the default schema. Before what is timed everybody has done enough for a full history of 20 items; each event is a
slate of itself and 24 negatives. BLAS and torch have one thread. Time is that of the process on its
core: what others take of the core is not counted. Rounds follow one another with a fresh learner each,
warmed up on as many events as a history takes; medians and extremes.
"""

import argparse
import statistics
import time
from typing import Any, Final

from threadpoolctl import threadpool_limits

from benchmarks import machine
from benchmarks.workloads import World, WorldConfig
from features.encoding import N_RECENT
from features.events import EVENT, Entry, LoggedEvent, StreamId, encode_body
from features.schema import Schema
from features.state import apply_update, unpack, update_for
from learners.online import LearnerConfig, OnlineLearner

START_MS: Final = 1_764_000_000_000
N_USERS: Final = 500


def log_of(world: World, schema: Schema, n_events: int) -> list[Entry]:
    """A thousand events a second, in log order."""
    states: dict[str, bytes] = {}
    entries = []
    for number, row in enumerate(world.events(n_events, start_ms=START_MS)):
        event = LoggedEvent(row["type"], row["user"], row["item"], row["ts_ms"], 1.0, row["context"], None, None)
        state = states.get(event.user, b"")
        entries.append(Entry(StreamId(event.ts_ms, number), number % 64, EVENT, encode_body(event), state))
        states[event.user] = apply_update(state, update_for(event, schema), schema)
    return entries


def events_per_s(schema: Schema, warm_up: list[Entry], entries: list[Entry]) -> float:
    """Rate at which a fresh learner reads the entries, after the warm-up."""
    learner = OnlineLearner(schema, LearnerConfig())
    for entry in warm_up:
        learner.read(entry)
    began_s = time.process_time()
    for entry in entries:
        learner.read(entry)
    return len(entries) / (time.process_time() - began_s)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns everything that is reported."""
    schema, world = Schema(), World(WorldConfig(n_users=N_USERS))
    n_before = 2 * N_RECENT * N_USERS  # a person's share of these is hardly ever below half
    log = log_of(world, schema, n_before + options.events)
    entries = log[n_before:]
    n_recent = statistics.mean(min(len(unpack(entry.state, schema).recent), N_RECENT) for entry in entries[:1000])
    with threadpool_limits(1):
        rates = [events_per_s(schema, log[:n_before], entries) for _ in range(options.rounds)]
    return {
        "what": "learning speed",
        "machine": machine.facts(),
        "settings": {"events": options.events, "rounds": options.rounds, "users": N_USERS},
        "n_recent": n_recent,
        "n_negatives": LearnerConfig().sampling.n_negatives,
        "events_per_s": rates,
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    rates = sorted(found["events_per_s"])
    print(f"\n{machine.describe(found['machine'])}\n")
    print(f"slates of 1 + {found['n_negatives']}, histories of {found['n_recent']:.1f} items\n")
    rows = [[f"{statistics.median(rates):,.0f}", f"{rates[0]:,.0f}", f"{rates[-1]:,.0f}"]]
    print(machine.table(("events/s, median", "slowest round", "fastest"), rows))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_learning", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=30_000, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
