"""What only a cluster can do: lose a master, move slots, be partly there. Nothing acknowledged is lost or doubled."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import redis
from redis.crc import key_slot

from features.durability import Durability
from features.embedded_cluster import EmbeddedCluster
from features.errors import FeatureError, StoreRefused, StoreUnavailable
from features.memory_store import MemoryStore
from features.redis_servers import RedisServers
from features.redis_store import RedisStore
from features.store import Applied, Record
from tests.features.examples import KEYS, SCHEMA, T0_MS, applied, click, log_of, masters_of, state_of
from tests.features.test_store_contract import Listening, until

SYNCED = ("--appendfsync", "always")


@pytest.fixture
async def store(empty_cluster: EmbeddedCluster) -> AsyncIterator[RedisStore]:
    """A store on the session's cluster, empty."""
    async with opened(empty_cluster) as made:
        yield made


@pytest.fixture
def own_cluster() -> Iterator[EmbeddedCluster]:
    """A cluster that a test may break."""
    with EmbeddedCluster(SYNCED) as cluster:
        yield cluster


@asynccontextmanager
async def opened(cluster: EmbeddedCluster, durability: Durability = "process") -> AsyncIterator[RedisStore]:
    """A store on a cluster, open."""
    made = RedisStore(cluster.url, SCHEMA, keys=KEYS, timeout_s=1.0, durability=durability)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


def slot_of(user: str) -> int:
    return int(key_slot(KEYS.user(user).encode()))


def users_of(slots: set[int], n: int) -> list[str]:
    """People whose partitions are in these slots."""
    users = (f"u{number}" for number in range(10_000))
    return [user for user in users if slot_of(user) in slots][:n]


def slots_of(cluster: EmbeddedCluster, master: object) -> set[int]:
    """Slots of log partitions that a server has."""
    slots = {int(key_slot(KEYS.log(p).encode())) for p in range(KEYS.n_partitions)}
    return {slot for slot in slots if cluster.master_of(slot) is master}


async def lost_of(cluster: EmbeddedCluster, acknowledged: Sequence[Record]) -> int:
    """How many acknowledged records a cluster does not know any more; it does afterwards."""
    async with opened(cluster) as fresh:
        return sum(not result.is_duplicate for result in await applied(fresh, *acknowledged))


class Writer:
    """Sends events with ids until it is told to stop; knows what became of each."""

    def __init__(self, store: RedisStore, users: Sequence[str]) -> None:
        self._store, self._users = store, users
        self._task = asyncio.create_task(self._write())
        self.acknowledged: list[Record] = []
        self.errors: list[FeatureError] = []

    async def stop(self) -> None:
        """Send what was refused until it is taken."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _write(self) -> None:
        number = 0
        while True:
            records = [
                click(self._users[n % len(self._users)], f"i{n}", id=f"w{n}") for n in range(number, number + 16)
            ]
            number += len(records)
            for record, result in zip(records, await self._store.apply(records), strict=True):
                if isinstance(result, Applied):
                    self.acknowledged.append(record)
                else:
                    self.errors.append(result)


async def test_the_same_events_leave_the_same_features_log_and_rows_as_one_server(
    empty_cluster: EmbeddedCluster,
) -> None:
    memory = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    spread = RedisStore(empty_cluster.url, SCHEMA, keys=KEYS, clock="event")
    await spread.open()
    records = [click(f"u{n % 7}", f"i{n % 11}", ts_ms=T0_MS + n * 7919 % 100_000, id=f"e{n % 150}") for n in range(300)]
    assert await memory.apply(records) == await spread.apply(records)
    assert sorted(await log_of(memory)) == sorted(await log_of(spread))
    users = [f"u{n}" for n in range(7)]
    assert await memory.read(users, []) == await spread.read(users, [])
    assert len(masters_of(spread)) == 3
    await spread.close()


async def test_any_server_of_a_cluster_leads_to_all_and_one_that_is_gone_to_the_next(
    empty_cluster: EmbeddedCluster,
) -> None:
    """Also a replica; and the first of two addresses has nobody."""
    for seeds in (f"127.0.0.1:{empty_cluster.servers[4].port}", f"127.0.0.1:1,{empty_cluster.url[8:-2]}"):
        made = RedisStore(f"redis://{seeds}/0", SCHEMA, keys=KEYS)
        await applied(made, *(click(f"u{n}") for n in range(20)))
        await made.close()


async def test_without_a_server_every_call_says_so() -> None:
    made = RedisStore("redis://127.0.0.1:1,127.0.0.1:2/0", SCHEMA, keys=KEYS)
    (result,) = await made.apply([click()])
    (state,), _ = await made.read(["u1"], [])
    assert isinstance(result, StoreUnavailable) and isinstance(state, StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await made.now_ms()
    await made.close()


async def test_while_a_master_is_away_its_people_alone_are_unknown_and_its_replica_takes_over(
    own_cluster: EmbeddedCluster,
) -> None:
    async with opened(own_cluster) as store:
        lost = own_cluster.master_of(slot_of("u1"))
        theirs = users_of(slots_of(own_cluster, lost), 3)
        others = [user for n in range(99) if own_cluster.master_of(slot_of(user := f"u{n}")) is not lost][:3]
        await applied(store, *(click(user, id=user) for user in (*theirs, *others)))
        own_cluster.say(lost, "WAIT", 1, 5000)
        lost.kill()
        states, _ = await store.read([*theirs, *others], [])
        assert [isinstance(state, StoreUnavailable) for state in states] == [True] * 3 + [False] * 3
        results = await store.apply([click(user) for user in (theirs[0], others[0])])
        assert [type(result) for result in results] == [StoreUnavailable, Applied] or isinstance(
            results[0], FeatureError
        )
        own_cluster.wait_until_replaced(lost)
        async with asyncio.timeout(10):
            while any(isinstance(state, FeatureError) for state in (await store.read(theirs, []))[0]):
                await asyncio.sleep(0.01)
        assert [(await state_of(store, user)).recent[0][0] for user in theirs] == ["a"] * 3
        assert await lost_of(own_cluster, [click(user, id=user) for user in (*theirs, *others)]) == 0


@pytest.mark.parametrize("durability", ["process", "disk", "replica"])
async def test_what_is_acknowledged_without_its_replica_is_lost_with_the_master_unless_that_is_ruled_out(
    own_cluster: EmbeddedCluster, durability: Durability
) -> None:
    """The replica loses its link while events are sent, then the master is killed and the replica takes its place."""
    async with opened(own_cluster, durability) as store:
        lost = own_cluster.master_of(slot_of("u1"))
        before = [click("u1", f"i{n}", id=f"before{n}") for n in range(20)]
        await applied(store, *before)
        own_cluster.say(lost, "WAIT", 1, 5000)
        with redis.Redis.from_url(lost.url) as client:
            client.config_set("requirepass", "secret")  # whoever is connected stays so
            client.client_kill_filter(_type="replica")
        without = [click("u1", f"i{n}", id=f"without{n}") for n in range(20)]
        results = await store.apply(without)
        again = await store.apply(without)  # a duplicate promises as much as what it repeats
        lost.kill()
        acknowledged = [
            record
            for record, *both in zip(without, results, again, strict=True)
            if any(isinstance(result, Applied) for result in both)
        ]
        own_cluster.wait_until_replaced(lost)
        assert len(acknowledged) == (0 if durability == "replica" else len(without))
        assert await lost_of(own_cluster, before) == 0
        assert await lost_of(own_cluster, acknowledged) == len(acknowledged)


async def test_a_master_killed_under_load_loses_nothing_that_its_replica_confirmed(
    own_cluster: EmbeddedCluster,
) -> None:
    async with opened(own_cluster, "replica") as store:
        writer = Writer(store, [f"u{n}" for n in range(50)])
        await until(lambda: len(writer.acknowledged) > 500)
        lost = own_cluster.master_of(slot_of("u1"))
        lost.kill()
        n_before = len(writer.acknowledged)
        await asyncio.to_thread(own_cluster.wait_until_replaced, lost)
        theirs = set(users_of(slots_of(own_cluster, own_cluster.replica_of(lost)), 99))
        await asyncio.to_thread(lost.start)  # now it confirms what its replica writes
        await until(lambda: any(record.user in theirs for record in writer.acknowledged[n_before:]))
        await writer.stop()
        assert writer.errors and all(isinstance(error, StoreUnavailable) for error in writer.errors)
        assert await lost_of(own_cluster, writer.acknowledged) == 0
        bodies = [entry.body for entry in await log_of(store)]
        assert len(bodies) == len(set(bodies))


async def test_a_cluster_whose_masters_have_no_replica_to_confirm_is_refused_by_name(
    own_cluster: EmbeddedCluster,
) -> None:
    async with opened(own_cluster, "replica") as store:
        await store.try_replicas()
        own_cluster.servers[4].kill()
        with pytest.raises(StoreRefused, match="confirmed by 0 replicas of 1; every master needs a replica"):
            await store.try_replicas()


async def test_a_lost_master_is_not_asked_for_its_time_for_ever(own_cluster: EmbeddedCluster) -> None:
    """Who only reads the log asks every master, and is told by none that another has taken over."""
    async with opened(own_cluster) as store:
        lost = own_cluster.masters()[0]
        lost.kill()
        with pytest.raises(StoreUnavailable):
            await store.now_ms()
        own_cluster.wait_until_replaced(lost)
        async with asyncio.timeout(10):
            while True:
                with suppress(StoreUnavailable):
                    await store.now_ms()
                    break
                await asyncio.sleep(0.01)


def move_by_hand(cluster: EmbeddedCluster, slot: int, n_keys: int) -> Iterator[None]:
    """Move a slot to the next master, some keys at a time; what is done in between is up to the caller."""
    source = cluster.master_of(slot)
    masters = cluster.masters()
    target = masters[(masters.index(source) + 1) % len(masters)]
    cluster.say(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(target))
    while keys := cluster.say(source, "CLUSTER", "GETKEYSINSLOT", slot, n_keys):
        yield
        cluster.say(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    yield
    for server in (target, source):
        cluster.say(server, "CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(target))


async def test_while_a_slot_is_moved_by_hand_reads_follow_writes_wait_and_nothing_is_lost(
    store: RedisStore, empty_cluster: EmbeddedCluster
) -> None:
    slot = slot_of("u1")
    users = users_of({slot}, 4)
    writer = Writer(store, [*users, *(f"v{n}" for n in range(20))])
    await until(lambda: {record.user for record in writer.acknowledged} >= set(users))
    own_state = (await state_of(store, users[0])).recent[0]
    for _ in move_by_hand(empty_cluster, slot, n_keys=2):
        n_before = len(writer.acknowledged)
        await until(lambda n=n_before: len(writer.acknowledged) > n + 50)  # type: ignore[misc]
        assert (await state_of(store, users[0])).recent[0][2] >= own_state[2]
        assert len(await store.heads()) == KEYS.n_partitions
    n_before = len(writer.acknowledged)
    await until(lambda: {record.user for record in writer.acknowledged[n_before:]} >= set(users))
    await writer.stop()
    assert all(isinstance(error, StoreUnavailable) for error in writer.errors)
    assert await lost_of(empty_cluster, writer.acknowledged) == 0
    bodies = [entry.body for entry in await log_of(store)]
    assert len(bodies) == len(set(bodies))


async def test_while_slots_are_moved_by_the_servers_nothing_is_refused(own_cluster: EmbeddedCluster) -> None:
    async with opened(own_cluster) as store:
        slot = slot_of("u1")
        source, target = own_cluster.master_of(slot), own_cluster.add_master()
        users = users_of({slot}, 4)
        writer = Writer(store, [*users, *(f"v{n}" for n in range(20))])
        await until(lambda: len(writer.acknowledged) > 200)
        own_cluster.say(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", own_cluster.id_of(target))
        await until(lambda: own_cluster.master_of(slot) is target)
        n_before = len(writer.acknowledged)
        await until(lambda: {record.user for record in writer.acknowledged[n_before:]} >= set(users))
        await writer.stop()
        assert writer.errors == []
        assert await lost_of(own_cluster, writer.acknowledged) == 0
        assert len(masters_of(store)) == 4


async def test_rows_written_on_another_server_than_before_are_told(own_cluster: EmbeddedCluster) -> None:
    """A slot of item rows moves to a server that nobody listened to: listening ends, and begins anew with all."""
    async with opened(own_cluster) as store:
        listening = Listening()
        following = asyncio.create_task(store.follow_rows(listening))
        await until(lambda: listening.heard_s > 0)
        item_partition = KEYS.item_partition("a")
        slot = int(key_slot(KEYS.positions(item_partition).encode()))
        target = own_cluster.add_master()
        source = own_cluster.master_of(slot)
        own_cluster.say(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", own_cluster.id_of(target))
        await until(following.done)
        with pytest.raises(StoreUnavailable, match="slots have moved"):
            following.result()
        following = asyncio.create_task(store.follow_rows(listening))
        await until(lambda: listening.n_began == 2)
        await store.commit_rows(item_partition, {"a": b"row"}, expected={}, reached={})
        await until(lambda: listening.items == ["a"])
        following.cancel()
        await asyncio.wait([following])


async def test_a_server_that_is_known_to_be_away_is_not_waited_for(own_cluster: EmbeddedCluster) -> None:
    """It hangs, so that whoever asks it waits for a second; who only reads asks it once."""
    async with opened(own_cluster) as store:
        hung = own_cluster.master_of(slot_of("u1"))
        assert hung.pid is not None
        await applied(store, click())
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            loop = asyncio.get_running_loop()
            n_quick = 0
            for _ in range(20):
                began_s = loop.time()
                (state,), _ = await store.read(["u1"], [])
                n_quick += isinstance(state, StoreUnavailable) and loop.time() - began_s < 0.5
            assert n_quick >= 18  # the first waits, and one whom the failover sends to the replica reads
        finally:
            os.kill(hung.pid, signal.SIGCONT)


async def test_a_command_without_leave_names_what_is_lacking(empty_cluster: EmbeddedCluster) -> None:
    for server in empty_cluster.servers:
        empty_cluster.say(server, "ACL", "SETUSER", "reader", "on", ">secret", "~*", "+get", "+cluster|slots")
    try:
        servers = RedisServers(empty_cluster.url.replace("://", "://reader:secret@"), timeout_s=2.0)
        with pytest.raises(StoreRefused, match="set"):
            await servers.call(slot_of("u1"), "SET", KEYS.user("u1"), "x")
        await servers.close()
    finally:
        for server in empty_cluster.servers:
            empty_cluster.say(server, "ACL", "DELUSER", "reader")
