"""What is freshness worth: how much is lost when a part of what is known is refreshed only every so often?

    python -m benchmarks.bench_refresh EVENTS QUERIES [--config benchmarks/globo.toml] [--first 400000]
                                       [--json [FILE]] [--plot FILE.png]

The weights, the counters (item rows), and the person's own events (their state) are each refreshed every 1 s to 24 h
while the rest stays live: `benchmarks.refreshing`. One pass over the stream answers for all of them.

Shown: MRR@10 with 95 % intervals over people, and in pairs what is lost against everything live.
NOT shown: what a refresh costs; nor what changes suddenly and rarely, which a mean over days hides: that is
`benchmarks.bench_drift`. The live weights are themselves of the last full batch (128 examples, or `batch_span_s`).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine, plotting
from benchmarks.bench_quality import cut
from benchmarks.refreshing import LIVE, Every, Line, scores_of
from deployments.config import load_config
from deployments.replay import read_events
from learners.answers import true_columns
from learners.metrics import F64, People, reciprocal_ranks

PARTS: Final = ("weights", "counters", "person")
PERIODS: Final = {"1 s": 1, "10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600, "6 h": 21600, "24 h": 86400}
ALWAYS: Final = "always"


def lines_of() -> dict[str, Line]:
    """Everything live, and each part at each period."""
    lines = {ALWAYS: LIVE}
    for part in PARTS:
        lines |= {f"{part}, {name}": Line(**{part: Every(1000 * seconds)}) for name, seconds in PERIODS.items()}
    return lines


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Live through the stream once, and judge every line."""
    events, queries = cut(read_events(options.events), pq.read_table(options.queries), options.first)
    print(f"{events.num_rows:,} events, {queries.num_rows:,} queries")
    began_s = time.monotonic()

    def show(n_done: int, note: str = "") -> None:
        if sys.stderr.isatty():
            rate = n_done / max(time.monotonic() - began_s, 1e-9)
            print(f"\r{n_done:,} events, {rate:,.0f}/s, {note}   ", end="", file=sys.stderr, flush=True)

    scores = scores_of(lines_of(), events, queries, load_config(options.config), show)
    return {
        "what": "worth of freshness",
        "machine": machine.facts(),
        "settings": {"first": options.first, "config": str(options.config)},
        "n_events": events.num_rows,
        "n_queries": queries.num_rows,
        "took_s": time.monotonic() - began_s,
        **judged(scores, queries),
    }


def judged(scores: dict[str, F64], queries: pa.Table) -> dict[str, Any]:
    """MRR@10 by line, and its difference to everything live in pairs; each with its interval."""
    true, people = true_columns(queries), People(queries["user"].to_numpy())
    ranks = {name: reciprocal_ranks(found, true) for name, found in scores.items()}
    return {
        "mrr": {name: people.interval(found) for name, found in ranks.items()},
        "difference": {name: people.interval(found - ranks[ALWAYS]) for name, found in ranks.items()},
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found: a row a part, a column a period; then the differences with their intervals."""
    print(f"\n{machine.describe(found['machine'])}; {found['took_s']:.0f} s\n")
    mrr, difference = found["mrr"], found["difference"]
    always = f"{mrr[ALWAYS][0]:.4f}"
    rows = [[part, always, *(f"{mrr[f'{part}, {name}'][0]:.4f}" for name in PERIODS)] for part in PARTS]
    print(machine.table(("MRR@10, refreshed every", ALWAYS, *PERIODS), rows))
    print(f"\nalways: {machine.interval(mrr[ALWAYS])}; less that, in pairs [95 %]")
    rows = [[name, *(machine.interval(difference[f"{part}, {name}"], "+") for part in PARTS)] for name in PERIODS]
    print(machine.table(("every", *PARTS), rows))


def plot(found: dict[str, Any], path: Path) -> None:
    """One line a part, over the period."""
    curves = {
        part: [(seconds, *found["mrr"][f"{part}, {name}"]) for name, seconds in PERIODS.items()] for part in PARTS
    }
    caption = (
        f"The part named is refreshed at multiples of the period, the rest is live; shades: 95 % over people. "
        f"{found['n_events']:,} events, {found['n_queries']:,} queries.\n{machine.describe(found['machine'])}"
    )
    level = {"everything live": found["mrr"][ALWAYS][0]}
    plotting.plot_periods(curves, level, PERIODS, "What freshness is worth", caption, path)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_refresh", description=__doc__.partition("\n")[0])
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("queries", type=Path, help="Parquet: query_id, ts_ms, user, candidates, and the true item")
    parser.add_argument("--first", type=int, help="only so many events, and the queries up to there")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    parser.add_argument("--plot", type=Path, help="write MRR@10 against the period as a PNG")
    options = parser.parse_args()
    if options.plot and (reason := plotting.absence()):
        parser.error(reason)
    found = run(options)
    report(found)
    machine.write_json(found, options.json)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
