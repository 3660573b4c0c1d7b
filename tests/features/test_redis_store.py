"""What only a server can do wrong, and that it leaves nothing half written."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal, cast

import pytest
import redis

from features.embedded import EmbeddedServer
from features.errors import CorruptState, ProjectionConflict, StoreRefused, StoreUnavailable
from features.events import START, StreamId
from features.keys import Keys
from features.memory_store import MemoryStore
from features.redis_node import CODE, LIBRARY, PIPELINE_MAX, RedisNode
from features.redis_store import RedisStore
from features.state import empty_state
from features.store import Applied, Record, decision_record, erasure_record, user_record
from tests.features.examples import (
    KEYS,
    OTHER_SCHEMA,
    SCHEMA,
    T0_MS,
    applied,
    attributes,
    click,
    client_of,
    decision,
    dump,
    erasure,
    log_of,
    plant,
)

ClockMode = Literal["wall", "event"]


@pytest.fixture(params=["wall", "event"])
async def on_redis(request: pytest.FixtureRequest, empty_server: EmbeddedServer) -> AsyncIterator[RedisStore]:
    """The Redis store on both clocks, empty."""
    made = RedisStore(empty_server.url, SCHEMA, keys=KEYS, clock=request.param)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that a test may kill."""
    with EmbeddedServer() as server:
        yield server


async def test_both_stores_name_a_foreign_schema_alike(empty_server: EmbeddedServer) -> None:
    memory, on_redis = MemoryStore(SCHEMA, keys=KEYS), RedisStore(empty_server.url, SCHEMA, keys=KEYS)
    messages = []
    for store in (memory, on_redis):
        plant(store, "u1", empty_state(OTHER_SCHEMA) + bytes(500))
        (result,) = await store.apply([click()])
        messages.append(str(result))
    await on_redis.close()
    assert messages[0] == messages[1]


def seen_keys(store: RedisStore) -> list[str]:
    with client_of(store) as client:
        number = int(cast(tuple[int, int], client.time())[0] // 3600)
    return [f"{KEYS.seen(KEYS.user_partition('u1'))}{n}" for n in (number, number - 1)]


WRONG_KEYS: dict[str, Callable[[RedisStore], str]] = {
    "log": lambda _: KEYS.log(KEYS.user_partition("u1")),
    "user": lambda _: KEYS.user("u1"),
    "seen now": lambda store: seen_keys(store)[0],
    "seen before": lambda store: seen_keys(store)[1],
}


@pytest.mark.parametrize("name", WRONG_KEYS)
async def test_a_key_of_the_wrong_type_leaves_nothing_written(on_redis: RedisStore, name: str) -> None:
    with client_of(on_redis) as client:
        client.hset(WRONG_KEYS[name](on_redis), "not", "expected")
    before = dump(on_redis)
    (result,) = await on_redis.apply([click(id="e1")])
    assert isinstance(result, CorruptState)
    assert dump(on_redis) == before


async def test_a_log_of_the_wrong_type_keeps_a_person_from_being_half_erased(on_redis: RedisStore) -> None:
    plant(on_redis, "u1", empty_state(SCHEMA))
    with client_of(on_redis) as client:
        client.set(KEYS.log(KEYS.user_partition("u1")), "not a stream")
    before = dump(on_redis)
    (result,) = await on_redis.apply([erasure_record(erasure("u1"), KEYS)])
    assert isinstance(result, CorruptState)
    assert dump(on_redis) == before


async def test_positions_of_the_wrong_type_leave_no_row_written(on_redis: RedisStore) -> None:
    with client_of(on_redis) as client:
        client.set(KEYS.positions(0), "not a hash")
    before = dump(on_redis)
    for expected in ({1: START}, {}):
        with pytest.raises(CorruptState):
            await on_redis.commit_rows(0, {"a": b"row"}, expected=expected, reached={1: StreamId(1, 0)})
    assert dump(on_redis) == before


async def test_a_commit_moves_the_positions_of_the_most_partitions_there_can_be(on_redis: RedisStore) -> None:
    every = {partition: StreamId(1, partition) for partition in range(4096)}
    await on_redis.commit_rows(0, {}, expected=dict.fromkeys(every, START), reached=every)
    assert (await on_redis.projected())[0] == every
    with pytest.raises(ProjectionConflict):
        await on_redis.commit_rows(0, {}, expected=every | {4095: START}, reached=every)


async def test_without_memory_nothing_is_written_and_reading_goes_on(on_redis: RedisStore) -> None:
    await applied(on_redis, click())
    before, log = dump(on_redis), await log_of(on_redis)
    everything: list[Record] = [
        click(id="e1"),
        user_record(attributes("u1", segment="a"), KEYS),
        decision_record(decision("u1"), b"", KEYS),
        erasure_record(erasure("u1"), KEYS),
    ]
    with client_of(on_redis) as client:
        client.config_set("maxmemory", 1)
        results = await on_redis.apply(everything)
        with pytest.raises(StoreUnavailable):
            await on_redis.commit_rows(0, {"a": b"row"}, expected={}, reached={1: StreamId(1, 0)})
        assert (await log_of(on_redis), len(await on_redis.heads())) == (log, 1)
        client.config_set("maxmemory", 0)
    assert [type(result) for result in results] == [StoreUnavailable] * 4
    assert dump(on_redis) == before
    await applied(on_redis, *everything)


async def test_an_id_is_forgotten_after_two_windows_at_the_latest(empty_server: EmbeddedServer) -> None:
    store = RedisStore(empty_server.url, SCHEMA, keys=KEYS, dedupe_window_s=0.05)
    await store.open()
    await applied(store, click(id="e1"))
    async with asyncio.timeout(5):
        while (await applied(store, click(id="e1")))[0].is_duplicate:
            await asyncio.sleep(0.01)
    with client_of(store) as client:
        left_ms = [cast(int, client.pttl(key)) for key in client.keys("*seen*")]
        assert -1 not in left_ms and all(ms <= 100 for ms in left_ms)  # -1: without end; -2: gone meanwhile
    await store.close()


async def test_a_connection_is_used_again_and_one_that_the_server_closed_is_not(own_server: EmbeddedServer) -> None:
    node = RedisNode(own_server.url, timeout_s=5.0)
    ids = [await node.call("CLIENT", "ID") for _ in range(3)]
    assert len(set(ids)) == 1
    with redis.Redis.from_url(own_server.url) as client:
        client.client_kill_filter(_id=ids[0])
        while any(int(found["id"]) == ids[0] for found in client.client_list()):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)  # the loop takes note
    assert await node.call("CLIENT", "ID") != ids[0]
    await node.close()


async def test_a_killed_server_loses_nothing_confirmed_and_is_found_again(own_server: EmbeddedServer) -> None:
    store = RedisStore(own_server.url, SCHEMA, keys=KEYS, timeout_s=1.0)
    await store.open()
    records = [click(f"u{n % 50}", f"i{n}", id=f"e{n}") for n in range(6_000)]
    under_way = asyncio.create_task(store.apply(records))
    async with asyncio.timeout(10):
        # One entry more than a pipeline holds: the replies to the first pipeline have been read.
        while len(await store.read_log({}, count=PIPELINE_MAX)) <= PIPELINE_MAX:
            await asyncio.sleep(0)
    own_server.kill()
    results = await under_way
    confirmed = [result for result in results if isinstance(result, Applied)]
    assert 0 < len(confirmed) < len(records)
    assert results[: len(confirmed)] == confirmed
    assert all(isinstance(result, StoreUnavailable) for result in results[len(confirmed) :])
    (state,), (row,) = await store.read(["u1"], ["i1"])
    assert isinstance(state, StoreUnavailable) and isinstance(row, StoreUnavailable)

    own_server.start()
    again = await applied(store, *records)
    assert all(result.is_duplicate for result in again[: len(confirmed)])
    assert len(await store.read_log({}, count=len(records))) == len(records)
    await store.close()


async def test_a_server_that_comes_back_empty_gets_the_library_again(own_server: EmbeddedServer) -> None:
    store = RedisStore(own_server.url, SCHEMA, keys=KEYS)
    await store.open()
    with client_of(store) as client:
        client.flushall()
        client.function_flush()
    await applied(store, *(click(item=f"i{n}") for n in range(40)))
    assert [entry.body for entry in await log_of(store)] == [click(item=f"i{n}").body for n in range(40)]
    await store.close()


async def test_a_server_that_hangs_is_unavailable_after_the_timeout(own_server: EmbeddedServer) -> None:
    store = RedisStore(own_server.url, SCHEMA, keys=KEYS, timeout_s=0.2)
    await store.open()
    with client_of(store) as client:
        client.execute_command("CLIENT", "PAUSE", 600)
        (result,) = await store.apply([click(id="e1")])
        assert isinstance(result, StoreUnavailable)
        client.execute_command("CLIENT", "UNPAUSE")
    await applied(store, click(id="e1"))
    assert len(await log_of(store)) == 1
    await store.close()


async def test_a_cancelled_call_leaves_no_reply_for_the_next(on_redis: RedisStore) -> None:
    for _ in range(20):
        call = asyncio.create_task(on_redis.apply([click()] * 32))
        await asyncio.sleep(0.0005)
        call.cancel()
        await asyncio.wait([call])
        assert await on_redis.read([], ["nothing"]) == ([], [b""])


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru"), ("appendonly", "no", "appendonly is off")],
)
async def test_a_server_that_forgets_is_refused(
    own_server: EmbeddedServer, setting: str, value: str, says: str
) -> None:
    store = RedisStore(own_server.url, SCHEMA, keys=KEYS)
    with client_of(store) as client:
        client.config_set(setting, value)
    with pytest.raises(StoreRefused, match=says):
        await store.open()
    await store.close()


async def test_an_ephemeral_store_needs_no_file_and_disk_needs_every_write_synced(own_server: EmbeddedServer) -> None:
    disk = RedisStore(own_server.url, SCHEMA, keys=KEYS, durability="disk")
    with pytest.raises(StoreRefused, match="needs appendfsync always, it is no"):
        await disk.open()
    with client_of(disk) as client:
        client.config_set("appendfsync", "always")
        await disk.open()
        client.config_set("appendonly", "no")
    ephemeral = RedisStore(own_server.url, SCHEMA, keys=KEYS, ephemeral=True)
    await ephemeral.open()
    await disk.close()
    await ephemeral.close()


@pytest.mark.parametrize(
    ("keys", "clock", "says"),
    [(Keys(n_partitions=8), "wall", "n_partitions 4, expected 8"), (KEYS, "event", "clock wall, expected event")],
)
async def test_a_store_created_otherwise_is_refused(
    empty_server: EmbeddedServer, keys: Keys, clock: ClockMode, says: str
) -> None:
    first, other = (
        RedisStore(empty_server.url, SCHEMA, keys=KEYS),
        RedisStore(empty_server.url, SCHEMA, keys=keys, clock=clock),
    )
    await first.open()
    with pytest.raises(StoreRefused, match=says):
        await other.open()
    await first.close()
    await other.close()


async def test_many_that_open_at_once_agree(empty_server: EmbeddedServer) -> None:
    stores = [RedisStore(empty_server.url, SCHEMA, keys=KEYS) for _ in range(8)]
    with client_of(stores[0]) as client:
        client.function_flush()
        await asyncio.gather(*(store.open() for store in stores))
        ((_, name, *_, code),) = cast(list[list[bytes]], client.execute_command("FUNCTION", "LIST", "WITHCODE"))
    assert (name, code) == (LIBRARY.encode(), CODE.encode())
    for store in stores:
        await store.close()


async def test_memory_and_redis_end_in_the_same_bytes(empty_server: EmbeddedServer) -> None:
    on_redis = RedisStore(empty_server.url, SCHEMA, keys=KEYS, clock="event")
    memory = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    records = [click(f"u{n % 7}", f"i{n % 11}", ts_ms=T0_MS + n * 7919 % 100_000, id=f"e{n % 150}") for n in range(300)]
    assert await memory.apply(records) == await on_redis.apply(records)
    assert sorted(await log_of(memory)) == sorted(await log_of(on_redis))
    await on_redis.close()
