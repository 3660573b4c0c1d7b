"""A history in bulk beside the same events one after the other: whether it comes to the same, how fast, in what memory.

    python -m benchmarks.bench_backfill EVENTS --compare               # states byte for byte, rows within 1e-4
    python -m benchmarks.bench_backfill EVENTS --compare --interruptions 10
    python -m benchmarks.bench_backfill EVENTS --copies 10 --memory 64 # a history ten times as long, in little memory

`headrace backfill` runs as an operator would run it, Ray and all, into a private store. The other way is the front
door's own (`features.intake`), 500 events at a time, waited for, with a projector behind it. An interruption is SIGINT
or SIGKILL, in turn, after a random time that is shorter than what a whole run takes.

Memory is what a worker has for itself (USS), the largest at any time; and the same for a hundred events.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.machine import facts
from deployments.config import REDIS_URL, load_config
from deployments.processes import HOME_VARIABLE
from features.embedded import EmbeddedServer
from features.errors import FeatureError
from features.events import START
from features.intake import Intake
from features.item_table import ItemTable
from features.projection import Projection
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import all_of

BATCH: Final = 500
TIMEOUT_S: Final = 60.0  # others may be on the cores
TOLERANCE: Final = 1e-4
ROW_GROUP: Final = 262_144


class Memory:
    """The memory of a process's workers, looked at five times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._is_over = threading.Event()
        self.peak_bytes = self.total_bytes = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.2):
            with suppress(psutil.Error):
                used = [_own_bytes(child) for child in psutil.Process(self._pid).children(recursive=True)]
                self.peak_bytes = max([self.peak_bytes, *used])
                self.total_bytes = max(self.total_bytes, sum(used))


def _own_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        if process.name().startswith("ray::"):
            return int(process.memory_full_info().uss)
    return 0


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("--config", type=Path, default=Path("benchmarks/globo.toml"))
    parser.add_argument("--copies", type=int, default=1, help="how many times the history is as long as the file")
    parser.add_argument("--memory", type=float, default=512.0, help="MB that a worker may take for its data")
    parser.add_argument("--interruptions", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="send the same events live, and compare what is stored")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    schema = load_config(options.config).schema
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(is_ephemeral=True) as server:
        history = Path(folder) / "history.parquet"
        n_events = repeat(options.events, options.copies, history)
        told = {"events": n_events, "memory_mb": options.memory}
        told["worker_without_data_mb"] = without_data(options, Path(folder))
        told |= backfill(history, options, Path(folder), server.url)
        if options.compare:
            with EmbeddedServer(is_ephemeral=True) as other:
                told |= asyncio.run(compare(history, schema, server.url, other.url))
    print(json.dumps({**told, **facts()}, indent=1))


def without_data(options: argparse.Namespace, folder: Path) -> int:
    """The largest worker of a run with a hundred events, MB."""
    few = folder / "few.parquet"
    pq.write_table(pq.read_table(options.events).slice(0, 100), few)
    with EmbeddedServer(is_ephemeral=True) as server:
        told: int = backfill(few, argparse.Namespace(**{**vars(options), "interruptions": 0}), folder, server.url)[
            "largest_worker_mb"
        ]
    return told


def repeat(path: Path, n_copies: int, out: Path) -> int:
    """Write the history, again and again, each time later; returns how many events that are."""
    table = pq.read_table(path)
    times = table["ts_ms"]
    span_ms = pc.max(times).as_py() - pc.min(times).as_py() + 1
    with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
        for copy in range(n_copies):
            later = pc.add(times, pa.scalar(copy * span_ms, pa.int64()))
            writer.write_table(table.set_column(0, "ts_ms", later), row_group_size=ROW_GROUP)
    return int(table.num_rows) * n_copies


def backfill(history: Path, options: argparse.Namespace, folder: Path, url: str) -> dict[str, Any]:
    """Run the command, interrupted as often as is asked; the last run is timed."""
    rng = np.random.default_rng(options.seed)
    n_interrupted = 0
    while n_interrupted < options.interruptions:
        with _running(history, options, folder, url) as run:
            with suppress(subprocess.TimeoutExpired):
                run.wait(float(rng.uniform(4.0, 12.0)))
            run.send_signal(signal.SIGKILL if n_interrupted % 2 else signal.SIGINT)
            told = run.communicate()[0]
        n_interrupted += run.returncode != 0  # else it was done before
        print(f"exit status {run.returncode}, interrupted {n_interrupted} times", told[-300:], file=sys.stderr)
    began_s = time.monotonic()
    with _running(history, options, folder, url) as run:
        memory = Memory(run.pid)
        told, _ = run.communicate()
        memory.close()
    took_s = time.monotonic() - began_s
    print(told, file=sys.stderr)
    assert run.returncode == 0
    return {
        "took_s": round(took_s, 1),
        "said": told.strip().splitlines()[-1],
        "largest_worker_mb": round(memory.peak_bytes / 2**20),
        "all_workers_mb": round(memory.total_bytes / 2**20),
    }


@contextmanager
def _running(history: Path, options: argparse.Namespace, folder: Path, url: str) -> Iterator["subprocess.Popen[str]"]:
    command = ["backfill", str(history), "--config", str(options.config), "--no-training", "--memory", options.memory]
    with subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, REDIS_URL: url, HOME_VARIABLE: str(folder / "home")},
    ) as run:
        yield run


async def compare(history: Path, schema: Schema, url: str, other_url: str) -> dict[str, Any]:
    """Send the same live into another store, and compare."""
    live, bulk = RedisStore(other_url, schema, clock="event", ephemeral=True, timeout_s=TIMEOUT_S), RedisBulk(other_url)
    filled, filled_bulk = RedisStore(url, schema, timeout_s=TIMEOUT_S), RedisBulk(url)
    await live.open()
    try:
        began_s = time.monotonic()
        await _send(live, history)
        sent_s = time.monotonic() - began_s
        await _project(live)
        told = {"sent_s": round(sent_s, 1), **await _states(filled, live, bulk)}
        return told | await _rows(filled, filled_bulk, live, bulk)
    finally:
        for store in (live, bulk, filled, filled_bulk):
            await store.close()


async def _send(store: RedisStore, history: Path) -> None:
    intake = Intake(store, None)
    for batch in pq.ParquetFile(history).iter_batches(BATCH):
        receipt = await intake.accept(batch.to_pylist())
        assert receipt.accepted == batch.num_rows, receipt.rejected[:1]


async def _project(store: RedisStore) -> None:
    projection, heads = Projection(store, store.schema, count=1000), await store.heads()
    await projection.load()
    while any(projection.reached.get(partition, START) < head for partition, head in heads.items()):
        await projection.advance()


async def _states(one: RedisStore, other: RedisStore, bulk: RedisBulk) -> dict[str, int]:
    n_users = n_different = 0
    async for users in bulk.users():
        left, right = [all_of((await store.read(users, []))[0]) for store in (one, other)]
        n_users += len(users)
        n_different += sum(a != b for a, b in zip(left, right, strict=True))
    return {"users": n_users, "states_that_differ": n_different}


async def _rows(one: RedisStore, its: RedisBulk, other: RedisStore, bulk: RedisBulk) -> dict[str, Any]:
    told = {"items": 0, "rows_that_differ": 0, "rows_beyond_tolerance": 0, "rows_of_nobody": 0, "largest": 0.0}
    seen: set[str] = set()
    async for items in bulk.items():
        left, right = [all_of((await store.read([], items))[1]) for store in (one, other)]
        seen.update(items)
        for a, b in zip(left, right, strict=True):
            told["items"] += 1
            if a != b:
                told["rows_that_differ"] += 1
                largest = difference(a, b, one.schema)
                told["largest"] = max(told["largest"], largest)
                told["rows_beyond_tolerance"] += largest > TOLERANCE
    async for items in its.items():
        told["rows_of_nobody"] += len(set(items) - seen)
    return told


def difference(one: bytes, other: bytes, schema: Schema) -> float:
    """The largest relative difference of two rows; infinite if they are of another kind."""
    tables = [ItemTable(schema, 2), ItemTable(schema, 2)]
    try:
        for table, row in zip(tables, (one, other), strict=True):
            table.load(["it"], [row])
    except FeatureError:
        return float("inf")
    a, b = tables
    if not (a.first_ms[1] == b.first_ms[1] and a.last_ms[1] == b.last_ms[1] and (a.ms[1] == b.ms[1]).all()):
        return float("inf")
    followers = [dict(zip(t.successor_key[1].tolist(), t.successor_value[1].tolist(), strict=True)) for t in tables]
    if len(one) != len(other) or set(followers[0]) != set(followers[1]):
        return float("inf")
    pairs = [(a.value[1], b.value[1]), *((np.array(followers[0][k]), np.array(followers[1][k])) for k in followers[0])]
    return max(float(np.max(np.abs(x - y) / np.maximum(np.abs(y), 1e-30), initial=0.0)) for x, y in pairs)


if __name__ == "__main__":
    main()
