"""What a history is worth on the day after: backfilled, lived through, or not there at all.

    python -m benchmarks.bench_warm_start EVENTS QUERIES --config benchmarks/globo.toml --day 6

Three systems of their own, through the front door. *Backfilled*: `headrace backfill` with the days before, then the day
itself live. *Lived through*: all days live, one event after the other; the day begins when the learner has caught up.
*Cold*: the day alone. Each answers the day's queries as the day is replayed as fast as it goes; weights are not waited
for in any of them. A fourth one gets states and rows of the history, and no weights.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import machine, plotting
from benchmarks.bench_quality import headrace, running, true_answers
from benchmarks.rankers.stream import as_stream
from benchmarks.scoring import Way, judged
from deployments.client import Headrace
from deployments.replay import read_events
from learners.answers import aligned

DAY_MS: Final = 86_400_000
CATCH_UP_S: Final = 600.0
LOOK_S: Final = 5.0  # a version comes every second while there is something to learn


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("queries", type=Path, help="Parquet: query_id, ts_ms, user, candidates, and the true item")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--day", type=int, default=6, help="of the stream, from 1: the one to be asked about")
    parser.add_argument("--plot", type=Path, help="write MRR@10 over the day as a PNG")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    if options.plot and (reason := plotting.absence()):
        parser.error(reason)
    found = run(options)
    for name, figures in found["metrics"].items():
        mrr = figures["MRR@10"]
        print(f"{name:32} MRR@10 {mrr.mean:.4f} [{mrr.low:.4f}, {mrr.high:.4f}]  {found['took_s'][name]:.0f} s before")
    for name, figures in found["difference"].items():
        less = figures["MRR@10"]
        print(f"{name} less {next(iter(found['metrics']))}: {less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]")
    if options.plot:
        days = [hours / 24.0 for hours in found["hours"]]
        caption = f"{machine.facts()['cpu']}, {found['n_queries']:,} queries of day {options.day}"
        plotting.plot_quality(days, found["over_time"], "The day after a history", caption, options.plot)
    machine.write_json(found, options.json)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Have every system answer the day's queries; returns everything that is reported."""
    events, queries = read_events(options.events), pq.read_table(options.queries).sort_by("ts_ms")
    start_ms = pc.min(events["ts_ms"]).as_py() + (options.day - 1) * DAY_MS
    before, day = (events.filter(where(events, start_ms)) for where in (_before, _on))
    asked = queries.filter(_on(queries, start_ms))
    print(
        f"{before.num_rows:,} events before, {day.num_rows:,} of the day, {asked.num_rows:,} queries", file=sys.stderr
    )
    systems: dict[str, Callable[[str, str, Path], None]] = {
        "backfilled": lambda home, url, path: _backfill(home, url, path, options.config),
        "lived through": _live_through,
        "backfilled, without weights": lambda home, url, path: _backfill(
            home, url, path, options.config, "--no-training"
        ),
        "cold": lambda *_: None,
    }
    ways = []
    for name, prepare in systems.items():
        predictions, took_s = _answers(before, day, asked, options.config, prepare)
        scores_QK = aligned(predictions, asked)
        ways.append(Way(name=name, scores_QK=scores_QK, has_probabilities=True, took_s=took_s))
    truth = true_answers(as_stream(events.filter(pc.less(events["ts_ms"], start_ms + DAY_MS)), asked), asked)
    return {
        "what": "a history on the day after",
        "machine": machine.facts("numba"),
        "settings": {"config": str(options.config), "day": options.day},
        "n_queries": asked.num_rows,
        "took_s": {way.name: way.took_s for way in ways},
        **judged(ways, truth),
    }


def _before(table: pa.Table, start_ms: int) -> pa.Array:
    return pc.less(table["ts_ms"], start_ms)


def _on(table: pa.Table, start_ms: int) -> pa.Array:
    return pc.and_(pc.greater_equal(table["ts_ms"], start_ms), pc.less(table["ts_ms"], start_ms + DAY_MS))


def _answers(
    before: pa.Table,
    day: pa.Table,
    asked: pa.Table,
    config: Path | None,
    prepare: Callable[[str, str, Path], None],
) -> tuple[pa.Table, float]:
    """Predictions, and how long it took to have the history."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as home:
        paths = {name: Path(home) / f"{name}.parquet" for name in ("before", "day", "asked", "out")}
        for name, table in (("before", before), ("day", day), ("asked", asked)):
            pq.write_table(table, paths[name])
        with running(config, home) as url:
            began_s = time.monotonic()
            prepare(home, url, paths["before"])
            took_s = time.monotonic() - began_s
            further = ("--queries", str(paths["asked"]), "--out", str(paths["out"]), "--url", url)
            headrace(home, "replay", str(paths["day"]), *further)
        return pq.read_table(paths["out"]), took_s


def _backfill(home: str, url: str, path: Path, config: Path | None, *further: str) -> None:
    settings = ("--config", str(config)) if config is not None else ()
    headrace(home, "backfill", str(path), "--port", url.rpartition(":")[2], *settings, *further)


def _live_through(home: str, url: str, path: Path) -> None:
    """Until nothing more is learned: what is left is a batch that is not full, and waits for time to pass."""
    headrace(home, "replay", str(path), "--url", url)
    before, deadline_s = -1, time.monotonic() + CATCH_UP_S
    with Headrace(url) as client:
        while (n_events := client.get("/v1/model")["events"]) != before or not n_events:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the learner has not caught up")
            before = n_events
            time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
