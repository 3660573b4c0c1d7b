"""Does it rank well, and does the running system rank as `headrace evaluate` says it would?

    python -m benchmarks.bench_quality EVENTS QUERIES [--first 400000] [--config benchmarks/globo.toml] [--live]
                                       [--seeds 1] [--json [FILE]]

On the stream's first events and the queries up to then, test-then-train: at a query everything strictly before it is
known. Rivals are popularity at every half-life from 15 s to a day, of which the best *on these queries* is quoted: it
has the advantage of having been chosen afterwards. With --live the same files also go through the front door of a
system that is started for it (`headrace up --clock event`, `headrace replay`).

Shown: MRR@10 and HR@10 with 95 % intervals over people, and paired differences. With several --seeds, how much of a
difference is the luck of initial weights and negatives: no interval over people shows that.
NOT shown: whether anybody would have clicked on what was never shown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import machine
from benchmarks.popularity import popularity_scores
from benchmarks.scoring import F64, aligned, hits, interval, reciprocal_ranks, true_columns
from deployments.config import Config, load_config
from deployments.replay import read_events
from features.embedded import _free_port
from learners.evaluation import evaluate

HALF_LIVES_S: Final = (15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)


def cut(events: pa.Table, queries: pa.Table, first: int | None) -> tuple[pa.Table, pa.Table]:
    """The first events, and the queries that are not later than the last of them; both in time order."""
    events = events.slice(0, first)
    until_ms = events["ts_ms"][-1].as_py()
    return events, queries.filter(pc.less_equal(queries["ts_ms"], until_ms)).sort_by("ts_ms")


def offline(events: pa.Table, queries: pa.Table, config: Config, seed: int) -> pa.Table:
    """`headrace evaluate`, with other initial weights and negatives for every seed; 0 is the configuration's own."""
    learner = config.learner
    if seed:
        learner = replace(
            learner, seed=learner.seed + seed, model=replace(learner.model, seed=learner.model.seed + seed)
        )
    asked = queries.select([name for name in queries.column_names if name != "item"])
    return evaluate(events, asked, config.schema, learner)


def live(events: pa.Table, queries: pa.Table, config: Path | None) -> tuple[pa.Table, float]:
    """The same through the front door; returns predictions and seconds taken."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        paths = {name: str(Path(folder) / f"{name}.parquet") for name in ("events", "queries", "out")}
        pq.write_table(events, paths["events"])
        pq.write_table(queries, paths["queries"])
        with _running(config, folder) as url:
            began_s = time.monotonic()
            _headrace(
                folder, "replay", paths["events"], "--queries", paths["queries"], "--out", paths["out"], "--url", url
            )
            took_s = time.monotonic() - began_s
        return pq.read_table(paths["out"]), took_s


@contextmanager
def _running(config: Path | None, home: str) -> Iterator[str]:
    port = _free_port()
    settings = ("--config", str(config)) if config is not None else ()
    _headrace(home, "up", "--clock", "event", "--port", str(port), "--detach", *settings)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        _headrace(home, "down", "--port", str(port))


def _headrace(home: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "HEADRACE_HOME": home})


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Rank in every way, score, compare; returns everything that is reported."""
    events, queries = cut(read_events(options.events), pq.read_table(options.queries), options.first)
    config = load_config(options.config)
    print(f"{events.num_rows:,} events, {queries.num_rows:,} queries")
    ways: dict[str, F64] = {}
    for half_life_s in HALF_LIVES_S:
        ways[f"popularity, half-life {half_life_s:g} s"] = popularity_scores(events, queries, half_life_s)
    took_s: dict[str, float] = {}
    for seed in range(options.seeds):
        name = "evaluate" if seed == 0 else f"evaluate, seed {seed}"
        print(name)
        began_s = time.monotonic()
        ways[name] = aligned(offline(events, queries, config, seed), queries)
        took_s[name] = time.monotonic() - began_s
    if options.live:
        print("live")
        predictions, took_s["live"] = live(events, queries, options.config)
        ways["live"] = aligned(predictions, queries)
    return {
        "what": "ranking quality",
        "machine": machine.facts(),
        "settings": {"first": options.first, "config": str(options.config), "seeds": options.seeds},
        "n_events": events.num_rows,
        "n_queries": queries.num_rows,
        "took_s": took_s,
        **judged(ways, queries),
    }


def judged(ways: dict[str, F64], queries: pa.Table) -> dict[str, Any]:
    """Means with intervals by way, the best popularity alone of its kind, and differences to `evaluate` in pairs."""
    true, people = true_columns(queries), queries["user"].to_numpy()
    ranks = {name: reciprocal_ranks(scores, true) for name, scores in ways.items()}
    best = max((name for name in ways if name.startswith("popularity")), key=lambda name: ranks[name].mean())
    shown = [name for name in ways if name == best or not name.startswith("popularity")]
    return {
        "mrr": {name: interval(ranks[name], people) for name in shown},
        "hr": {name: interval(hits(ways[name], true), people) for name in shown},
        "difference": {name: interval(ranks[name] - ranks["evaluate"], people) for name in shown if name != "evaluate"},
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}\n")
    took = found["took_s"]
    rows = [
        [name, _text(found["mrr"][name]), _text(found["hr"][name]), f"{took[name]:.0f}" if name in took else ""]
        for name in found["mrr"]
    ]
    print(machine.table(("ranked by", "MRR@10 [95 %]", "HR@10 [95 %]", "seconds"), rows))
    print("\nMRR@10 less that of evaluate, in pairs")
    print(machine.table(("ranked by", "difference [95 %]"), [[n, _text(d)] for n, d in found["difference"].items()]))


def _text(figure: tuple[float, float, float]) -> str:
    mean, low, high = figure
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_quality", description=__doc__.partition("\n")[0])
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("queries", type=Path, help="Parquet: query_id, ts_ms, user, candidates, and the true item")
    parser.add_argument("--first", type=int, help="only so many events, and the queries up to there")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--live", action="store_true", help="also through the front door of a running system")
    parser.add_argument("--seeds", type=int, default=1, help="evaluate so often, each time with other luck")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
