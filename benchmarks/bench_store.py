"""What does the store cost, operation by operation: processor time of the server and of who asks, and memory?

    python -m benchmarks.bench_store [--seconds 1] [--json FILE]

A private server as `headrace up` runs it, its append-only file on, and a `RedisStore` that asks in the lots in which
production asks. People and items are full (see `benchmarks.sizes`), decisions hold 50 items. Time is that of the two
processes, so what others take of the cores is not counted; each operation goes on until the seconds are over. Memory is
the growth of what the server says it uses, without the bytes that were handed to it: what a thing costs beside itself.

*Hear of item row* is what a written row costs for each listener more, and every Ranker is one; *cache item row* is what
comes there after the reading of a row. *Project event* is what the projector does between reading the log and writing
rows, which are packed, a quarter of a second of 10,000 events/s at once; *commit* is the writing of a single row.

Not shown: latency (see `bench_tail`), rewrites of the append-only file (a process of its own), the network.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import psutil
import redis
import uvloop

from benchmarks import machine
from benchmarks.sizes import START_MS, example_decision, example_event, full_row, full_state, identifier
from deployments.row_cache import RowCache
from features.embedded import EmbeddedServer
from features.events import Positions
from features.memory_store import MemoryStore
from features.projection import Projection
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import Record, decision_record, event_record

N_PEOPLE: Final = 2_000
N_ITEMS: Final = 6_400
N_KEPT: Final = 16_000  # records whose memory is looked at; Redis packs sets of up to 128 ids a partition
N_LISTENERS: Final = 8
N_PROJECTED: Final = 2_560  # at once: a quarter of a second of 10,000 events/s
READS_AT_ONCE: Final = 16  # by as many connections: a server that many ask does several in one turn of its loop
EVENTS_AT_ONCE: Final = 32
DECISIONS_AT_ONCE: Final = 8
ROWS_AT_ONCE: Final = 100
READ_COUNT: Final = 64  # of each partition, as the projector and learners read


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time of one operation, in microseconds."""

    what: str
    server_us: float
    client_us: float
    n: int
    """How many of them were measured."""


class Meter:
    """Processor time of the server and of this process, from construction on."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._server_s, self._client_s = self._look()

    def cost(self, what: str, n: int) -> Cost:
        """What has been used since, divided among `n`."""
        server_s, client_s = self._look()
        return Cost(what, 1e6 * (server_s - self._server_s) / n, 1e6 * (client_s - self._client_s) / n, n)

    def _look(self) -> tuple[float, float]:
        used = self._server.cpu_times()
        return used.user + used.system, time.process_time()


class Bench:
    """One server, one store, and what they are asked."""

    def __init__(self, server: EmbeddedServer, store: RedisStore, seconds: float) -> None:
        self._store, self._schema = store, store.schema
        self._process = psutil.Process(server.pid)
        self._redis = redis.Redis.from_url(server.url)
        self._seconds = seconds
        self._state, self._row = full_state(self._schema), full_row(self._schema)
        self._ids = itertools.count()
        self._items = [identifier(number) for number in range(N_ITEMS)]
        self._people = [identifier(number) for number in range(N_PEOPLE)]

    async def overhead_bytes(self) -> dict[str, float]:
        """What a thing costs the server's memory beside its own bytes."""
        keys = self._store.keys
        found = {
            "person": self._beside_keys(list(map(keys.user, self._people)), self._state),
            "item": self._beside_keys(list(map(keys.item, self._items)), self._row),
            "event": await self._beside_records(self._events(has_id=False)),
            "decision": await self._beside_records(self._decisions()),
        }
        return {**found, "id of an event": await self._beside_records(self._events()) - found["event"]}

    async def costs(self) -> list[Cost]:
        """Every operation, one after the other."""
        people, items = itertools.cycle(self._people), itertools.cycle(self._items)
        found = [
            await self._timed("read person, alone", lambda: self._read([next(people)], [])),
            await self._timed("read person", lambda: self._read_beside(people)),
            await self._timed("read item row", lambda: self._read([], list(itertools.islice(items, ROWS_AT_ONCE)))),
        ]
        writes = ("event", self._events(), EVENTS_AT_ONCE), ("decision", self._decisions(), DECISIONS_AT_ONCE)
        for kind, records, at_once in writes:
            await self._store.trim(await self._store.heads())
            found.append(await self._timed(f"write {kind}", self._writing(records, at_once)))
            found.append(await self._timed(f"read {kind} in the log", self._reading()))
        return [*found, await self._caching(), await self._projecting(), *await self._rows()]

    def _events(self, *, has_id: bool = True) -> Iterator[Record]:
        """People act on items, each time with an id that was not seen before."""
        for number in self._ids:
            event_id = identifier(number) if has_id else None
            event = example_event(self._schema, number % N_PEOPLE, number % N_ITEMS, START_MS + number, event_id)
            yield event_record(event, self._schema, self._store.keys)

    def _decisions(self) -> Iterator[Record]:
        """Rankings that were shown."""
        shown = [example_decision(self._schema, user) for user in range(64)]
        for decision in itertools.cycle(shown):
            yield decision_record(decision, self._state, self._store.keys)

    async def _timed(self, what: str, call: Callable[[], Awaitable[int]]) -> Cost:
        """Cost of one of those that a call says it did; the first call is not counted."""
        await call()
        meter, n, end_s = Meter(self._process), 0, time.monotonic() + self._seconds
        while time.monotonic() < end_s:
            n += await call()
        return meter.cost(what, n)

    async def _read(self, users: list[str], items: list[str]) -> int:
        return sum(map(len, await self._store.read(users, items)))

    async def _read_beside(self, people: Iterator[str]) -> int:
        some = itertools.islice(people, READS_AT_ONCE)
        return sum(await asyncio.gather(*(self._read([person], []) for person in some)))

    def _writing(self, records: Iterator[Record], at_once: int) -> Callable[[], Awaitable[int]]:
        async def write() -> int:
            return len(await self._store.apply(list(itertools.islice(records, at_once))))

        return write

    def _reading(self) -> Callable[[], Awaitable[int]]:
        """Reads the log in turns, from the beginning again when there is no more."""
        positions: Positions = {}

        async def read() -> int:
            entries = await self._store.read_log(positions, count=READ_COUNT)
            positions.update({entry.partition: entry.id for entry in entries})
            if not entries:
                positions.clear()
            return len(entries)

        return read

    async def _projecting(self) -> Cost:
        """The projector beside a store that costs next to nothing."""
        store = MemoryStore(self._schema)
        projection = Projection(store, self._schema, count=N_PROJECTED // store.keys.n_partitions)
        await projection.load()
        events, n = self._events(has_id=False), round(N_PROJECTED * (2 + 20 * self._seconds))
        await store.apply(list(itertools.islice(events, n)))
        await projection.advance()  # compiles
        n_before, meter = projection.n_entries, Meter(self._process)
        while await projection.advance():
            pass
        return meter.cost("project event", projection.n_entries - n_before)

    async def _caching(self) -> Cost:
        cache, some = RowCache(self._schema), self._items[:ROWS_AT_ONCE]
        written = itertools.cycle([self._row, full_row(self._schema, 1)])

        async def take() -> int:
            cache.asking()
            cache.load(some, [next(written)] * len(some))
            return len(some)

        return await self._timed("cache item row", take)

    async def _rows(self) -> list[Cost]:
        """Writing item rows while nobody listens, and what each listener adds."""
        of_partition: dict[int, list[str]] = {}
        for item in self._items:
            of_partition.setdefault(self._store.keys.item_partition(item), []).append(item)
        partitions = itertools.cycle(of_partition.items())

        async def write(n_most: int = N_ITEMS) -> int:
            partition, items = next(partitions)
            rows = dict.fromkeys(items[:n_most], self._row)
            await self._store.commit_rows(partition, rows, expected={}, reached={})
            return len(rows)

        single, alone = await self._timed("commit", lambda: write(1)), await self._timed("write item row", write)
        caches = [RowCache(self._schema) for _ in range(N_LISTENERS)]
        tasks = [asyncio.create_task(self._store.follow_rows(cache)) for cache in caches]
        loud = await self._timed("", write)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server_us, client_us = loud.server_us - alone.server_us, loud.client_us - alone.client_us
        return [single, alone, Cost("hear of item row", server_us / N_LISTENERS, client_us / N_LISTENERS, loud.n)]

    def _beside_keys(self, keys: Sequence[str], value: bytes) -> float:
        before = self._used_bytes()
        self._redis.mset(dict.fromkeys(keys, value))
        return (self._used_bytes() - before) / len(keys) - len(value)

    async def _beside_records(self, records: Iterator[Record]) -> float:
        some = list(itertools.islice(records, N_KEPT))
        before = self._used_bytes()
        await self._store.apply(some)
        return (self._used_bytes() - before) / len(some) - statistics.mean(len(r.body) for r in some) - len(self._state)

    def _used_bytes(self) -> int:
        return int(self._redis.info("memory")["used_memory"])


async def measure(server: EmbeddedServer, seconds: float) -> dict[str, Any]:
    """Everything that is reported; memory first, while the server holds little."""
    store = RedisStore(server.url, Schema())
    await store.open()
    bench = Bench(server, store, seconds)
    overhead_bytes = await bench.overhead_bytes()
    costs = await bench.costs()
    await store.close()
    return {
        "what": "the store",
        "machine": machine.facts(),
        "settings": {"seconds": seconds},
        "costs": [asdict(cost) for cost in costs],
        "overhead_bytes": overhead_bytes,
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}\n")
    rows = [[cost["what"], cost["server_us"], cost["client_us"], f"{cost['n']:,}"] for cost in found["costs"]]
    print(machine.table(("one of", "server us", "client us", "measured"), rows), end="\n\n")
    print(machine.table(("of each", "bytes beside its own; keys count here"), list(found["overhead_bytes"].items())))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_store", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each operation")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    with EmbeddedServer() as server:
        found = uvloop.run(measure(server, options.seconds))
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
