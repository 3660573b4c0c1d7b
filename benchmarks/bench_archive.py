"""What does an entry of the log cost in the store and in its archive, and how fast does it get from one to the other?

    python -m benchmarks.bench_archive EVENTS [--first 200000] [--config benchmarks/globo.toml] [--json FILE]

A private server as `headrace up` runs it, on the event clock, takes the events. Then its log is archived as `headrace
archive --once` does it, trimmed, and read to its end through `DeepLog`, as a learner does that is far behind; before
the trim it is read from the store for comparison. Memory is what the server says that its streams take, every entry
looked at. The folder is a temporary one on the disk of this machine.

Not shown: buckets, decisions (their inputs are most of their bytes), others at work on the same server.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec
import redis

from benchmarks import machine
from deployments.config import load_config
from deployments.replay import read_events
from features.archived_events import with_context
from features.archiving import Archiver
from features.deep_log import DeepLog
from features.embedded import EmbeddedServer
from features.events import Positions, check_event, event_from_row
from features.log_files import LogFiles
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import Record, event_record
from features.ticks import Log

AT_ONCE: Final = 1000
READ_COUNT: Final = 64  # of each partition, as learners read


@dataclass(frozen=True, slots=True)
class Costs:
    """Of all entries."""

    n_entries: int
    n_files: int
    raw_bytes: float
    """Body and state, for each entry."""
    store_bytes: float
    archive_bytes: float
    archived_per_s: float
    archived_cpu_us: float
    """Processor time of who archives, for each entry."""
    store_read_per_s: float
    archive_read_per_s: float


async def measured(server: EmbeddedServer, schema: Schema, path: Path, first: int, folder: str) -> Costs:
    """Take, archive, trim, read."""
    store, bulk = RedisStore(server.url, schema, clock="event"), RedisBulk(server.url)
    await store.open()
    await _fill(store, path, first)
    n_entries, raw_bytes, store_read_s = await _read_through(store)
    with redis.Redis.from_url(server.url) as client:
        keys = [store.keys.log(partition) for partition in range(store.keys.n_partitions)]
        store_bytes = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
    files = LogFiles(folder)
    archiver, cpu_s, began_s = Archiver(store, bulk, files), time.process_time(), time.monotonic()
    await archiver.open()
    for partition, head in (await store.heads()).items():
        while archiver.read_to(partition) < head:
            await archiver.read_on(partition, 0.0)
        await archiver.close(partition)
    archived_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    await store.trim(archiver.reached)
    n_deep, _, deep_read_s = await _read_through(DeepLog(store, bulk, files))
    assert n_deep == n_entries == archiver.n_entries
    await store.close()
    await bulk.close()
    archive_bytes = sum(found.stat().st_size for found in Path(folder).rglob("*.parquet"))
    return Costs(
        n_entries=n_entries,
        n_files=archiver.n_segments,
        raw_bytes=raw_bytes / n_entries,
        store_bytes=store_bytes / n_entries,
        archive_bytes=archive_bytes / n_entries,
        archived_per_s=n_entries / archived_s,
        archived_cpu_us=1e6 * cpu_s / n_entries,
        store_read_per_s=n_entries / store_read_s,
        archive_read_per_s=n_entries / deep_read_s,
    )


async def _fill(store: RedisStore, path: Path, first: int) -> None:
    events = read_events(path).slice(0, first)
    for start in range(0, events.num_rows, AT_ONCE):
        rows = map(with_context, events.slice(start, AT_ONCE).to_pylist())
        records: list[Record] = []
        for row in rows:
            event = check_event(event_from_row(row), store.schema, row["ts_ms"], any_time=True)
            records.append(event_record(event, store.schema, store.keys))
        await store.apply(records)


async def _read_through(log: Log) -> tuple[int, int, float]:
    """Number of entries, bytes of bodies and states, seconds."""
    at: Positions = {}
    n_entries = n_bytes = 0
    began_s = time.monotonic()
    while entries := await log.read_log(at, count=READ_COUNT):
        at.update({entry.partition: entry.id for entry in entries})
        n_entries += len(entries)
        n_bytes += sum(len(entry.body) + len(entry.state) for entry in entries)
    return n_entries, n_bytes, time.monotonic() - began_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("--first", type=int, default=200_000, help="so many events")
    parser.add_argument("--config", type=Path, help="whose schema it is")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    schema = load_config(options.config).schema
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        costs = asyncio.run(measured(server, schema, options.events, options.first, folder))
    known = machine.facts("pyarrow")
    print(machine.describe(known))
    for name, value in asdict(costs).items():
        print(f"{name:20} {value:12,.1f}")
    if options.json:
        options.json.write_bytes(msgspec.json.encode({"machine": known, **asdict(costs)}))


if __name__ == "__main__":
    main()
