"""What do replicas lose by what is sent to them: rows as bytes, and only so many of them at once?

    python -m benchmarks.bench_editions EVENTS QUERIES [--config benchmarks/globo.toml] [--first 400000] [--json [FILE]]

The stream is lived through once, as `headrace evaluate` does. Beside the learner's own weights stand replicas that
follow them by editions, one every second of log time with something to tell, limited to so many bytes of rows. All
answer the same queries.

Shown: MRR@10 with 95 % intervals over people, and in pairs what is lost against the learner's own weights; bytes of an
edition; how many rows wait for a later one. NOT shown: the time between two editions (`benchmarks.bench_refresh`).
"""

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from benchmarks import machine
from benchmarks.bench_quality import cut
from deployments.config import load_config
from deployments.replay import read_events
from learners.answers import true_columns
from learners.editions import heads, parts
from learners.evaluation import Evaluation, in_time_order, one_thread
from learners.metrics import F64, People, reciprocal_ranks
from learners.publisher import Publisher
from learners.scorer import Scorer
from learners.snapshots import Delta, Progress, Rows

OWN: Final = "the learner's own"
LIMITS: Final = {"no limit": 1 << 40, "1 MiB": 1 << 20, "64 KiB": 1 << 16, "16 KiB": 1 << 14, "4 KiB": 1 << 12}
EVERY_MS: Final = 1000


@dataclass
class Replica:
    """One that follows by editions, and what it took."""

    publisher: Publisher
    scorer: Scorer
    sizes: list[int] = field(default_factory=list)
    n_left: list[int] = field(default_factory=list)

    def follow(self, full: Delta, touched: Delta) -> None:
        """Become this version, as far as the limit lets it."""
        self.publisher.note(touched)
        draft = self.publisher.draft(full)
        packed = [heads.pack(draft.head), *map(parts.pack, draft.parts)]
        for _ in self.scorer.apply(heads.unpack(packed[0]), map(parts.unpack, packed[1:])):
            pass
        self.publisher.settle(draft)
        self.sizes.append(sum(map(len, packed)))
        self.n_left.append(draft.n_left)


class Hub:
    """Makes versions of the live model, without what only a learner needs."""

    def __init__(self, live: Evaluation) -> None:
        self._live = live
        self._version = 0

    def version(self) -> tuple[Delta, Delta]:
        """All of it, by the learner's memory, and the rows that were touched since the last one."""
        model = self._live.model
        self._version += 1
        tables = dict(model.tables.items())
        whole = {name: _rows(table, np.arange(len(table))) for name, table in tables.items()}
        touched = {name: _rows(table, table.take_touched()) for name, table in tables.items()}
        return self._delta(whole), self._delta(touched)

    def _delta(self, tables: dict[str, Rows]) -> Delta:
        config = {name: getattr(self._live.model.config, name) for name in ("n_embedding", "n_hidden", "seed")}
        weights = self._live.model.flat.numpy().copy()
        progress = Progress({}, 0, 0, 0, {})
        return Delta(self._version, None, self._live.schema.fingerprint, config, weights, tables, progress, None)


def _rows(table: Any, at: Any) -> Rows:
    if len(at) == len(table):
        return Rows(at.astype(np.uint32), table.key[: len(at)], table.weight[: len(at)], table.max_rows, None)
    return Rows(at.astype(np.uint32), table.key[at], table.weight[at], table.max_rows, None)


async def scores_of(live: Evaluation, queries: Any, replicas: dict[str, Replica]) -> dict[str, F64]:
    """Scores [Q, K] by the learner's own weights and by every replica's."""
    hub, sent_ms = Hub(live), 0
    scores: dict[str, list[Any]] = {name: [] for name in (OWN, *replicas)}
    for query in in_time_order(queries):
        await live.advance(query["ts_ms"])
        if query["ts_ms"] >= sent_ms + EVERY_MS:
            sent_ms = query["ts_ms"]
            full, touched = hub.version()
            for replica in replicas.values():
                replica.follow(full, touched)
        inputs = live.encoder.encode(live.rows, [await live.request(query)])
        scores[OWN].append(live.model.score(inputs)[0])
        for name, replica in replicas.items():
            scores[name].append(replica.scorer.score(inputs)[0])
    return {name: np.array(found, dtype=np.float64) for name, found in scores.items()}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Live through the stream once, and judge every replica."""
    events, queries = cut(read_events(options.events), pq.read_table(options.queries), options.first)
    config = load_config(options.config)
    began_s = time.monotonic()

    def show(n_done: int, note: str = "") -> None:
        if sys.stderr.isatty():
            print(f"\r{n_done:,} events, {note}   ", end="", file=sys.stderr, flush=True)

    live = Evaluation(events, config.schema, config.learner, show)
    replicas = {name: Replica(Publisher(name, limit), Scorer(config.schema)) for name, limit in LIMITS.items()}
    with one_thread():
        scores = asyncio.run(scores_of(live, queries, replicas))
    queries = queries.take(np.argsort(queries["ts_ms"].to_numpy(), kind="stable"))
    true, people = true_columns(queries), People(queries["user"].to_numpy())
    ranks = {name: reciprocal_ranks(found, true) for name, found in scores.items()}
    return {
        "what": "what replicas lose by what is sent",
        "machine": machine.facts(),
        "settings": {"first": options.first, "config": str(options.config)},
        "n_events": events.num_rows,
        "n_queries": queries.num_rows,
        "took_s": time.monotonic() - began_s,
        "mrr": {name: people.interval(found) for name, found in ranks.items()},
        "difference": {name: people.interval(found - ranks[OWN]) for name, found in ranks.items()},
        "bytes": {name: [statistics.median(one.sizes[1:]), max(one.sizes[1:])] for name, one in replicas.items()},
        "n_left": {name: statistics.mean(one.n_left) for name, one in replicas.items()},
        "n_editions": len(next(iter(replicas.values())).sizes),
        "whole_bytes": sum(len(parts.pack(part)) for part in replicas["no limit"].publisher.whole()[1]),
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}; {found['took_s']:.0f} s")
    print(f"{found['n_editions']:,} editions; all rows as bytes: {found['whole_bytes']:,} bytes at the end\n")
    rows = [
        [
            name,
            machine.interval(found["mrr"][name]),
            "" if name == OWN else machine.interval(found["difference"][name], "+"),
            *(["", "", ""] if name == OWN else [*found["bytes"][name], found["n_left"][name]]),
        ]
        for name in found["mrr"]
    ]
    header = ("rows of an edition", "MRR@10", "less the learner's own", "median bytes", "largest", "rows left, mean")
    print(machine.table(header, rows))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_editions", description=__doc__.partition("\n")[0])
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("queries", type=Path, help="Parquet: query_id, ts_ms, user, candidates, and the true item")
    parser.add_argument("--first", type=int, help="only so many events, and the queries up to there")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
