"""What is lost of what was acknowledged when a master of a Redis Cluster is killed, and how long its people wait.

    python -m benchmarks.bench_failover [--rounds 5] [--replicas 1] [--json [FILE]]

Three masters with replicas, eight writers that send events with ids, sixteen at a time, and a reader of states.
After two seconds a master is killed (SIGKILL). Once its replica has taken over, every acknowledged event is sent again
to a store that knows nothing of all this: whatever is no duplicate was lost.

`waited` is from the kill to the first event of the lost master's people that is acknowledged, `unread` to the first of
their states that is read. With a single replica nobody is left to confirm in mode `replica`, so the killed server is
started again as soon as it has been replaced.

NOT shown: masters on machines of their own, whose replicas lag by a network; a time-out of Redis Cluster other than a
second (its default is fifteen, and nobody is replaced sooner).
"""

import argparse
import asyncio
import time
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from redis.crc import key_slot

from benchmarks import machine
from features.durability import Durability
from features.embedded_cluster import EmbeddedCluster
from features.errors import FeatureError
from features.events import Event, check_event
from features.keys import Keys
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import Applied, Record, event_record

MODES: Final[tuple[Durability, ...]] = ("process", "disk", "replica")
N_WRITERS: Final = 8
BATCH: Final = 16
N_USERS: Final = 2000
BEFORE_S: Final = 2.0
AFTER_S: Final = 1.0
HEAL_S: Final = 30.0


@dataclass(slots=True)
class Round:
    """One master killed."""

    mode: Durability
    acknowledged_per_s: float = 0.0
    acknowledged: int = 0
    lost: int = 0
    refused: int = 0
    waited_s: float = 0.0
    unread_s: float = 0.0


@dataclass(slots=True)
class Outage:
    """From when on, by `time.monotonic`, something went well again after it had not."""

    is_on: bool = False
    ended_s: float = 0.0

    def note(self, went_well: bool) -> None:
        """Something was tried."""
        if self.is_on and went_well:
            self.ended_s = time.monotonic()
        self.is_on = not went_well


@dataclass(slots=True)
class Traffic:
    """Writers and a reader; `theirs` are the people of the master that is killed."""

    store: RedisStore
    theirs: frozenset[str]
    acknowledged: list[Record] = field(default_factory=list)
    n_refused: int = 0
    writes: Outage = field(default_factory=Outage)
    reads: Outage = field(default_factory=Outage)
    is_over: bool = False

    async def write(self, writer: int) -> None:
        """Send events until it is over."""
        number = 0
        while not self.is_over:
            records = [_record(self.store, f"{writer}-{n}", n * 8 + writer) for n in range(number, number + BATCH)]
            number += BATCH
            results = await self.store.apply(records)
            taken = [record for record, result in zip(records, results, strict=True) if isinstance(result, Applied)]
            self.acknowledged += taken
            self.n_refused += len(records) - len(taken)
            n_theirs = sum(record.user in self.theirs for record in records)
            if n_theirs:
                self.writes.note(went_well=sum(record.user in self.theirs for record in taken) == n_theirs)

    async def read(self) -> None:
        """Read a few of theirs until it is over."""
        users = sorted(self.theirs)[:BATCH]
        while not self.is_over:
            states, _ = await self.store.read(users, [])
            self.reads.note(went_well=not any(isinstance(state, FeatureError) for state in states))
            await asyncio.sleep(0.01)

    async def healed(self, since_s: float) -> None:
        """Wait until both go well again."""
        async with asyncio.timeout(HEAL_S):
            while any(outage.is_on or outage.ended_s < since_s for outage in (self.writes, self.reads)):
                await asyncio.sleep(0.01)


def _record(store: RedisStore, event_id: str, user: int) -> Record:
    event = Event(type="click", user=f"u{user % N_USERS}", item=f"i{user % 500}", id=event_id)
    return event_record(check_event(event, store.schema, time.time_ns() // 1_000_000), store.schema, store.keys)


async def kill_one(mode: Durability, n_replicas: int) -> Round:
    """One round.

    Raises:
        TimeoutError: If half a minute after the failover the lost master's people are still refused.
    """
    settings = () if mode == "process" else ("--appendfsync", "always")
    with EmbeddedCluster(settings, n_replicas=n_replicas) as cluster:
        keys = Keys()
        lost = cluster.masters()[0]
        theirs = frozenset(
            user
            for user in (f"u{n}" for n in range(N_USERS))
            if cluster.master_of(int(key_slot(keys.user(user).encode()))) is lost
        )
        store = RedisStore(cluster.url, Schema(), keys=keys, durability=mode, timeout_s=2.0)
        await store.open()
        await store.try_replicas()
        traffic = Traffic(store, theirs)
        running = [asyncio.create_task(traffic.write(n)) for n in range(N_WRITERS)] + [
            asyncio.create_task(traffic.read())
        ]
        await asyncio.sleep(BEFORE_S)
        before = len(traffic.acknowledged)
        await asyncio.to_thread(lost.kill)
        killed_s = time.monotonic()
        await asyncio.to_thread(cluster.wait_until_replaced, lost)
        if mode == "replica" and n_replicas == 1:
            await asyncio.to_thread(lost.start)
        await traffic.healed(killed_s)
        await asyncio.sleep(AFTER_S)
        waited_s, unread_s = traffic.writes.ended_s - killed_s, traffic.reads.ended_s - killed_s
        traffic.is_over = True
        await asyncio.gather(*running)
        await store.close()
        n_lost = await _lost(cluster.url, traffic.acknowledged)
    n = len(traffic.acknowledged)
    return Round(mode, before / BEFORE_S, n, n_lost, traffic.n_refused, waited_s, unread_s)


async def _lost(url: str, acknowledged: list[Record]) -> int:
    store = RedisStore(url, Schema(), timeout_s=10.0)
    results = await store.apply(acknowledged)
    await store.close()
    failed = [result for result in results if not isinstance(result, Applied)]
    if failed:
        raise failed[0]
    return sum(isinstance(result, Applied) and not result.is_duplicate for result in results)


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=1, help="of each master")
    parser.add_argument("--json", nargs="?", const="-")
    options = parser.parse_args()
    known = machine.facts()
    print(machine.describe(known))
    rounds = [asyncio.run(kill_one(mode, options.replicas)) for _ in range(options.rounds) for mode in MODES]
    header = (
        "durability",
        "rounds",
        "acknowledged/s",
        "acknowledged",
        "of them lost",
        "refused",
        "waited s",
        "unread s",
    )
    print(machine.table(header, [_row([each for each in rounds if each.mode == mode]) for mode in MODES]))
    machine.write_json({"machine": known, "rounds": [asdict(each) for each in rounds]}, options.json)


def _row(rounds: list[Round]) -> tuple[Any, ...]:
    """Sums of what is counted, medians of what is timed."""
    lost = [each.lost for each in rounds]
    return (
        *(rounds[0].mode, len(rounds), median(each.acknowledged_per_s for each in rounds)),
        *(sum(each.acknowledged for each in rounds), f"{sum(lost)} ({min(lost)} to {max(lost)})"),
        sum(each.refused for each in rounds),
        *(median(each.waited_s for each in rounds), median(each.unread_s for each in rounds)),
    )


if __name__ == "__main__":
    main()
