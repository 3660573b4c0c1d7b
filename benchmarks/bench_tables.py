"""What does a step's work on an embedding table cost, as the table grows to ten million rows, and what does a row cost?

    python -m benchmarks.bench_tables [--rows 10000 100000 1000000 10000000] [--steps 1500] [--json FILE]

One table of embeddings of 32, filled to so many rows; then steps like the learner's: batches of 128 slates of 25
candidates, each beside 20 recent items, are gathered, trained by row-wise Adagrad with a gradient of ones, and the
positives and the recent items are met. By which keys are drawn:

    skewed    a key's share falls with its rank as rank^-1.05; each is known
    uniform   every row is as likely: nearly every row is a cache miss
    growing   as skewed, and one key in twenty is new; the table has room
    full      the same, but all rows are taken: every new key takes the row of the least useful

Ranks are spread over the rows at random. Time is that of the process on its core, on one thread. A step is timed part
by part: *gather* (find the rows and copy them), *adagrad*, *meet* (with growing, eviction and the sweep). *Whole* is a
step of the default network on such a table, from its inputs to changed weights: the same and the arithmetic. Bytes a
row are what the process holds more of memory after filling, and by arithmetic. Each size runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import machine
from features.encoding import Encoder, Request
from features.item_table import ItemTable
from features.schema import Schema
from features.state import unpack
from learners.embeddings import META, EmbeddingTable, TableConfig
from learners.losses import ListwiseLoss
from learners.model import TABLES, ModelConfig, RankingModel, collected
from learners.optimizer import Adam, AdamConfig

U64 = NDArray[np.uint64]
N_EMBEDDING: Final = 32
N_REQUESTS, N_CANDIDATES, N_RECENT = 128, 25, 20
EXPONENT: Final = 1.05
NEW: Final = 0.05  # share of new keys among those that are met
FILLING: Final = 100_000  # keys met at once before what is timed
NOW_S: Final = 1_764_000_000
PARTS: Final = ("gather", "adagrad", "meet")


class Draws:
    """Keys of batches, by rank or evenly, and new ones."""

    def __init__(self, n_keys: int, seed: int = 3) -> None:
        self._rng = np.random.default_rng(seed)
        self._keys = self._rng.permutation(np.arange(1, n_keys + 1, dtype=np.uint64))
        self._n_keys = n_keys
        self._next = n_keys + 1

    def batch(self, is_skewed: bool, share_new: float) -> tuple[U64, U64]:
        """Candidates [B, K], the first ones positive, and recent items [B, R]."""
        candidates = self._draw((N_REQUESTS, N_CANDIDATES), is_skewed)
        recent = self._draw((N_REQUESTS, N_RECENT), is_skewed)
        for part in (candidates[:, :1], recent):
            is_new = self._rng.random(part.shape) < share_new
            n_new = int(is_new.sum())
            part[is_new] = np.arange(self._next, self._next + n_new, dtype=np.uint64)
            self._next += n_new
        return candidates, recent

    def _draw(self, shape: tuple[int, int], is_skewed: bool) -> U64:
        if not is_skewed:
            return self._keys[self._rng.integers(self._n_keys, size=shape)]
        # The inverse of the share's integral over ranks.
        power = 1.0 - EXPONENT
        uniform = self._rng.random(shape)
        ranks = (1.0 + uniform * ((self._n_keys + 1.0) ** power - 1.0)) ** (1.0 / power)
        return self._keys[np.minimum(ranks.astype(np.int64) - 1, self._n_keys - 1)]


def filled(n_rows: int, max_rows: int) -> EmbeddingTable:
    """A table that has met keys 1 to `n_rows` - 1."""
    table = EmbeddingTable(N_EMBEDDING, TableConfig(max_rows=max_rows))
    for start in range(1, n_rows, FILLING):
        table.meet(np.arange(start, min(start + FILLING, n_rows), dtype=np.uint64), NOW_S)
    table.take_touched()
    return table


def step(table: EmbeddingTable, candidates: U64, recent: U64, now_s: int) -> tuple[list[float], int]:
    """Seconds of each of a step's parts, and the number of rows it trained."""
    moments = [time.process_time()]
    batch = collected(table, [candidates, recent])
    moments.append(time.process_time())
    batch.gradient[:] = 1.0
    table.adagrad(batch.rows, batch.gradient, 0.01)
    moments.append(time.process_time())
    table.meet(np.concatenate((recent.ravel(), candidates[:, 0])), now_s)
    moments.append(time.process_time())
    return np.diff(moments).tolist(), len(batch.rows)


class WholeSteps:
    """Steps of the default network, whose items are in this table; everything else about the inputs is noise."""

    def __init__(self, table: EmbeddingTable, seed: int = 5) -> None:
        schema, rng = Schema(), np.random.default_rng(seed)
        tables = {name: EmbeddingTable(N_EMBEDDING) for name in TABLES}
        self._model = RankingModel(schema, ModelConfig(n_embedding=N_EMBEDDING), {**tables, "item": table})
        self._adam = Adam(self._model.flat[: self._model.n_trained], AdamConfig())
        encoder = Encoder(schema)
        asked = [Request(unpack(b"", schema), {}, 0, ())] * N_REQUESTS
        self._inputs = encoder.encode(ItemTable(schema), asked)
        self._inputs.mask = np.ones((N_REQUESTS, N_CANDIDATES), dtype=bool)
        dense = rng.normal(size=(N_REQUESTS, N_CANDIDATES, len(encoder.dense_names)))
        self._inputs.dense = dense.astype(np.float32)
        n_attributes = self._inputs.attribute_key.shape[2]
        self._inputs.attribute_key = np.zeros((N_REQUESTS, N_CANDIDATES, n_attributes), dtype=np.uint64)
        self._inputs.recent_type = np.ones((N_REQUESTS, N_RECENT), dtype=np.int64)
        self._inputs.recent_age = rng.random((N_REQUESTS, N_RECENT), dtype=np.float32)

    def step(self, candidates: U64, recent: U64, now_s: int) -> float:
        """Seconds of one step."""
        inputs, model = self._inputs, self._model
        inputs.item_key, inputs.recent_key = candidates, recent
        is_known = np.zeros(candidates.shape, dtype=bool)
        is_known[:, 0] = True
        started = time.process_time()
        model.flat_gradient.zero_()
        named = model.look_up(inputs)
        model.learn_from(inputs, named, ListwiseLoss(1.0 / N_REQUESTS))
        self._adam.step(model.flat_gradient)
        for name, found in named.items():
            model.tables[name].adagrad(found.rows, found.gradient, 0.1)
        for name, keys in model.met([(inputs, is_known)]).items():
            model.tables[name].meet(keys, now_s)
        return time.process_time() - started


def timed_whole(table: EmbeddingTable, draws: Draws, n_steps: int, is_skewed: bool) -> float:
    """Median milliseconds of whole steps; the first tenth is not counted."""
    whole, spans = WholeSteps(table), []
    for number in range(n_steps + n_steps // 10):
        spans.append(whole.step(*draws.batch(is_skewed, 0.0), NOW_S + 3600 + number // 5))
        if number % 25 == 0:
            table.take_touched()
    return 1000.0 * float(np.median(spans[n_steps // 10 :]))


def timed(table: EmbeddingTable, draws: Draws, n_steps: int, is_skewed: bool, share_new: float) -> dict[str, Any]:
    """Percentiles of a step's milliseconds, and medians of its parts; the first tenth is not counted."""
    spans, rows = [], []
    for number in range(n_steps + n_steps // 10):
        found, n_rows = step(table, *draws.batch(is_skewed, share_new), NOW_S + 60 + number // 5)
        if number % 25 == 0:
            table.take_touched()
        spans.append(found)
        rows.append(n_rows)
    spans_ms = 1000.0 * np.array(spans[n_steps // 10 :])
    total_ms = spans_ms.sum(axis=1)
    medians_ms = dict(zip(PARTS, np.median(spans_ms, axis=0).tolist(), strict=True))
    p50, p99 = np.percentile(total_ms, (50, 99)).tolist()
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": float(total_ms.max()),
        "parts_ms": medians_ms,
        "rows": np.mean(rows),
    }


def measure(n_rows: int, n_steps: int) -> dict[str, Any]:
    """Every kind of draw on tables of one size, in this process."""
    filled(10, 100)  # compiles
    with threadpool_limits(1):
        before = psutil.Process().memory_info().rss
        table = filled(n_rows, TableConfig().max_rows + n_rows)
        resident = psutil.Process().memory_info().rss - before
        index_bytes = table.arrays[0].nbytes + table.arrays[1].nbytes
        found: dict[str, Any] = {
            "resident_bytes": resident / n_rows,
            "arithmetic_bytes": 4 * N_EMBEDDING + META.itemsize + 4 + index_bytes / n_rows,
        }
        found["skewed"] = timed(table, Draws(n_rows - 1), n_steps, is_skewed=True, share_new=0.0)
        found["uniform"] = timed(table, Draws(n_rows - 1), n_steps, is_skewed=False, share_new=0.0)
        for kind in ("skewed", "uniform"):
            found[kind]["whole_ms"] = timed_whole(table, Draws(n_rows - 1), n_steps // 3, kind == "skewed")
        found["growing"] = timed(table, Draws(n_rows - 1), n_steps, is_skewed=True, share_new=NEW)
        del table
        full = filled(n_rows, n_rows)
        found["full"] = timed(full, Draws(n_rows - 1), n_steps, is_skewed=True, share_new=NEW)
    return found


def apart(n_rows: int, n_steps: int) -> dict[str, Any]:
    """The same in a process of its own: memory given back by one size is not taken again by the next."""
    command = [sys.executable, "-m", "benchmarks.bench_tables", "--steps", str(n_steps), "--only", str(n_rows)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns everything that is reported."""
    return {
        "what": "embedding tables",
        "machine": machine.facts(),
        "settings": {"steps": options.steps, "embedding": N_EMBEDDING, "new": NEW, "exponent": EXPONENT},
        "by_rows": {n_rows: apart(n_rows, options.steps) for n_rows in options.rows},
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}\n")
    rows = []
    for n_rows, sized in found["by_rows"].items():
        for kind in ("skewed", "uniform", "growing", "full"):
            this = sized[kind]
            times = (this["p50_ms"], this["p99_ms"], this["max_ms"], *(this["parts_ms"][part] for part in PARTS))
            whole = f"{this['whole_ms']:.2f}" if "whole_ms" in this else ""
            rows.append([f"{n_rows:,}", kind, f"{this['rows']:,.0f}", *(f"{ms:.2f}" for ms in times), whole])
    print(machine.table(("rows", "keys", "trained", "p50 ms", "p99", "max", *PARTS, "whole"), rows))
    sizes = [
        [f"{n_rows:,}", f"{sized['resident_bytes']:,.0f}", f"{sized['arithmetic_bytes']:.0f}"]
        for n_rows, sized in found["by_rows"].items()
    ]
    print(machine.table(("rows", "bytes a row, resident", "by arithmetic"), sizes))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_tables", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=1500, help="timed for each kind of keys")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.steps)))
        return
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
