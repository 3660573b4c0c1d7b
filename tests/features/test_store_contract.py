"""One list of laws for every store and both clocks."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Literal

import pytest

from features.clock import FakeClock
from features.errors import (
    CorruptState,
    FeatureError,
    ProjectionConflict,
    SchemaMismatch,
)
from features.events import DECISION, ERASURE, EVENT, ITEM, START, USER, StreamId
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.state import empty_state, unpack
from features.store import Applied, all_of, decision_record, erasure_record, item_record, user_record
from tests.features.examples import (
    KEYS,
    OTHER_SCHEMA,
    SCHEMA,
    T0_MS,
    Store,
    applied,
    attributes,
    body_of,
    click,
    contents,
    decision,
    erasure,
    log_of,
    plant,
    state_of,
)

ClockMode = Literal["wall", "event"]
EVENT_CLOCK = ["memory-event", "redis-event", "cluster-event"]


@pytest.fixture(params=["memory-wall", "memory-event", "redis-wall", "redis-event", "cluster-wall", "cluster-event"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Every store on every clock, empty."""
    kind, clock = request.param.split("-")
    made: Store
    if kind == "memory":
        made = MemoryStore(SCHEMA, keys=KEYS, clock=clock)
    else:
        servers = request.getfixturevalue({"redis": "empty_server", "cluster": "empty_cluster"}[kind])
        made = RedisStore(servers.url, SCHEMA, keys=KEYS, clock=clock)
        await made.open()
    yield made
    await made.close()


def users_of_one_partition(n: int) -> list[str]:
    users = (f"u{number}" for number in range(1000))
    return [user for user in users if KEYS.user_partition(user) == 2][:n]


async def test_an_acknowledged_event_is_in_the_next_read(store: Store) -> None:
    for number in range(6):
        await applied(store, click(item=f"i{number}", ts_ms=T0_MS + number))
        assert (await state_of(store, "u1")).recent[0] == (f"i{number}", 1, T0_MS + number)


async def test_a_stranger_and_an_unknown_item_read_as_empty_bytes(store: Store) -> None:
    assert await store.read(["nobody"], ["nothing"]) == ([b""], [b""])
    assert await store.read([], []) == ([], [])


async def test_a_duplicate_changes_nothing_and_answers_with_the_newest_id(store: Store) -> None:
    await applied(store, click(id="e1"))
    (newest,) = await applied(store, click(item="b", id="e2"))
    before = await contents(store)
    (again,) = await applied(store, click(id="e1"))
    assert again == Applied(newest.id, True)
    assert await contents(store) == before


async def test_a_duplicate_within_one_call_is_one(store: Store) -> None:
    results = await applied(store, click(id="e1"), click(id="e1"))
    assert [result.is_duplicate for result in results] == [False, True]


async def test_the_same_id_of_another_user_is_no_duplicate(store: Store) -> None:
    first, second = users_of_one_partition(2)
    results = await applied(store, click(first, id="e1"), click(second, id="e1"))
    assert [result.is_duplicate for result in results] == [False, False]


async def test_events_without_an_id_are_always_new(store: Store) -> None:
    results = await applied(store, click(), click())
    assert [result.is_duplicate for result in results] == [False, False]
    assert len((await state_of(store, "u1")).recent) == 2


async def test_a_partition_keeps_the_order_and_its_ids_rise(store: Store) -> None:
    users = users_of_one_partition(3)
    records = [click(users[n % 3], f"i{n}", ts_ms=T0_MS + n * 7 % 50) for n in range(100)]
    results = await applied(store, *records)
    log = await log_of(store)
    assert [entry.body for entry in log] == [record.body for record in records]
    assert [entry.id for entry in log] == [result.id for result in results]
    assert all(one.id < other.id for one, other in pairwise(log))


@pytest.mark.parametrize("store", EVENT_CLOCK, indirect=True)
async def test_on_the_event_clock_log_time_is_event_time_and_never_runs_backwards(store: Store) -> None:
    times = [T0_MS, T0_MS + 5, T0_MS + 3, T0_MS + 5, T0_MS + 9]
    results = await applied(store, *(click(ts_ms=ts_ms) for ts_ms in times))
    assert [tuple(result.id) for result in results] == [
        (T0_MS, 0),
        (T0_MS + 5, 0),
        (T0_MS + 5, 1),
        (T0_MS + 5, 2),
        (T0_MS + 9, 0),
    ]


@pytest.mark.parametrize("store", EVENT_CLOCK, indirect=True)
async def test_on_the_event_clock_trimming_does_not_turn_log_time_back(store: Store) -> None:
    (last,) = await applied(store, click(ts_ms=T0_MS + 100))
    await store.trim({KEYS.user_partition("u1"): last.id})
    (late,) = await applied(store, click(ts_ms=T0_MS))
    assert late.id == StreamId(T0_MS + 100, 1)


async def test_no_entry_gets_an_id_before_a_time_read_earlier(store: Store) -> None:
    await applied(store, click())
    now_ms = await store.now_ms()
    (after,) = await applied(store, click(ts_ms=T0_MS + 60_000))
    assert after.id.ms >= now_ms >= T0_MS


async def test_an_entry_carries_the_state_from_just_before_it(store: Store) -> None:
    before = []
    for number in range(6):
        before += (await store.read(["u1"], []))[0]
        await applied(store, click(item=f"i{number}", ts_ms=T0_MS + number))
    assert [entry.state for entry in await log_of(store)] == before


async def test_attributes_replace_attributes_and_leave_the_rest(store: Store) -> None:
    await applied(store, click(), user_record(attributes("u1", segment="a"), KEYS))
    await applied(store, user_record(attributes("u1", segment="b"), KEYS), click(item="b"))
    state = await state_of(store, "u1")
    assert state.attributes == {"segment": "b"}
    assert [item for item, _, _ in state.recent] == ["b", "a"]
    assert [entry.kind for entry in await log_of(store)] == [EVENT, USER, USER, EVENT]
    assert unpack((await log_of(store))[2].state, SCHEMA).attributes == {"segment": "a"}


async def test_a_stranger_can_have_attributes(store: Store) -> None:
    await applied(store, user_record(attributes("u1", segment="a"), KEYS))
    state = await state_of(store, "u1")
    assert (state.recent, state.attributes) == ([], {"segment": "a"})


async def test_an_erased_person_is_a_stranger_and_the_log_knows(store: Store) -> None:
    await applied(store, click(), erasure_record(erasure("u1"), KEYS))
    assert await store.read(["u1"], []) == ([b""], [])
    last = (await log_of(store))[-1]
    assert (last.kind, last.body, last.state) == (ERASURE, body_of(erasure("u1")), b"")


async def test_even_a_corrupt_state_can_be_erased(store: Store) -> None:
    plant(store, "u1", b"?")
    await applied(store, erasure_record(erasure("u1"), KEYS))
    assert await store.read(["u1"], []) == ([b""], [])


async def test_items_and_decisions_are_logged_and_touch_no_state(store: Store) -> None:
    await applied(store, click())
    (state,) = all_of((await store.read(["u1"], []))[0])
    shown, item = decision_record(decision("u1"), state, KEYS), item_record(attributes("a", brand="x"), KEYS)
    await applied(store, shown, item)
    assert await store.read(["u1"], []) == ([state], [])
    logged = {entry.kind: entry for entry in await log_of(store)}
    assert (logged[DECISION].state, logged[DECISION].body) == (state, shown.body)
    assert (logged[ITEM].state, logged[ITEM].body) == (b"", item.body)


async def test_heads_are_the_newest_ids_and_outlive_trimming(store: Store) -> None:
    assert await store.heads() == {}
    results = await applied(store, *(click(f"u{n}") for n in range(20)))
    heads = {KEYS.user_partition(f"u{n}"): result.id for n, result in enumerate(results)}
    assert await store.heads() == heads
    await store.trim(heads)
    assert await store.heads() == heads
    assert await log_of(store) == []


async def test_trim_drops_up_to_and_including_the_position(store: Store) -> None:
    results = await applied(store, *(click(item=f"i{n}") for n in range(5)))
    await store.trim({KEYS.user_partition("u1"): results[2].id})
    assert [entry.id for entry in await log_of(store)] == [result.id for result in results[3:]]


async def test_the_log_is_read_after_a_position_and_at_most_count_per_partition(store: Store) -> None:
    users = [users_of_one_partition(1)[0], next(f"u{n}" for n in range(99) if KEYS.user_partition(f"u{n}") == 0)]
    results = await applied(store, *(click(users[n % 2], f"i{n}") for n in range(10)))
    ids = {2: [r.id for r in results[::2]], 0: [r.id for r in results[1::2]]}
    read = await store.read_log({2: ids[2][1]}, count=2)
    assert {p: [e.id for e in read if e.partition == p] for p in (0, 2)} == {0: ids[0][:2], 2: ids[2][2:4]}
    assert await store.read_log({0: ids[0][-1], 2: ids[2][-1]}, count=2) == []


async def test_a_blocking_read_ends_in_time_and_wakes_for_an_entry(store: Store) -> None:
    started_s = time.monotonic()
    assert await store.read_log({}, count=1, block_s=0.1) == []
    assert 0.05 < time.monotonic() - started_s < 5
    waiting = asyncio.create_task(store.read_log({}, count=1, block_s=10))
    await store.read(["u1"], [])
    await applied(store, click())
    assert len(await asyncio.wait_for(waiting, 5)) == 1


async def test_rows_and_positions_move_together_and_once(store: Store) -> None:
    rows = {"a": b"row a", "b": b"row b"}
    item_partition, at = KEYS.item_partition("a"), StreamId(T0_MS, 3)
    await store.commit_rows(item_partition, rows, expected={1: START}, reached={1: at, 2: StreamId(5, 0)})
    assert await store.read([], ["b", "a", "c"]) == ([], [b"row b", b"row a", b""])
    assert (await store.projected())[item_partition] == {1: at, 2: StreamId(5, 0)}
    before = await contents(store)
    with pytest.raises(ProjectionConflict, match=f"log partition 1 is at {at}, expected 0-0"):
        await store.commit_rows(item_partition, {"a": b"other"}, expected={1: START}, reached={1: StreamId(9, 9)})
    assert await contents(store) == before
    await store.commit_rows(item_partition, {"a": b"new"}, expected={1: at}, reached={1: StreamId(T0_MS + 1, 0)})
    assert (await store.projected())[item_partition] == {1: StreamId(T0_MS + 1, 0), 2: StreamId(5, 0)}


async def test_of_many_projectors_one_wins(store: Store) -> None:
    tries = (store.commit_rows(0, {}, expected={1: START}, reached={1: StreamId(n, 0)}) for n in range(1, 9))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results.count(None) == 1
    assert sum(isinstance(result, ProjectionConflict) for result in results) == 7


BAD_STATES: dict[str, tuple[bytes, type[FeatureError]]] = {
    "other schema": (empty_state(OTHER_SCHEMA) + bytes(500), SchemaMismatch),
    "other format": (b"\x07" + empty_state(SCHEMA)[1:], SchemaMismatch),
    "too short": (empty_state(SCHEMA)[:-1], CorruptState),
    "entries cut off": (empty_state(SCHEMA)[:-6] + b"\x02\x00\xff\x00\x00\x00" + bytes(20), CorruptState),
}


@pytest.mark.parametrize("name", BAD_STATES)
async def test_a_state_that_cannot_be_read_is_refused_and_nothing_is_written(store: Store, name: str) -> None:
    await applied(store, click(item="before"))
    state, kind = BAD_STATES[name]
    plant(store, "u1", state)
    before = await contents(store)
    records = [click(id="e1"), user_record(attributes("u1", segment="a"), KEYS)]
    results = await store.apply(records)
    assert [type(result) for result in results] == [kind, kind]
    assert await contents(store) == before


async def test_a_record_that_fails_does_not_hold_up_the_others(store: Store) -> None:
    good, bad = users_of_one_partition(2)
    plant(store, bad, b"?")
    results = await store.apply([click(good), click(bad), click(good, "b")])
    assert [isinstance(result, Applied) for result in results] == [True, False, True]


async def test_an_id_is_remembered_for_a_window_at_least_and_two_at_most() -> None:
    """On the memory store, whose clock can be set; the rotating sets of the server do the same."""
    start_ms = T0_MS - T0_MS % 60_000
    for sent_ms, again_ms, is_duplicate in (
        (start_ms, start_ms + 59_999, True),
        (start_ms + 59_999, start_ms + 60_000, True),
        (start_ms + 59_999, start_ms + 119_999, True),
        (start_ms, start_ms + 119_999, True),
        (start_ms + 59_999, start_ms + 120_000, False),
    ):
        clock = FakeClock(sent_ms)
        store = MemoryStore(SCHEMA, keys=KEYS, dedupe_window_s=60, time=clock)
        await applied(store, click(id="e1"))
        clock.set_ms(again_ms)
        assert (await applied(store, click(id="e1")))[0].is_duplicate == is_duplicate


class Listening:
    """Remembers what is told about rows."""

    def __init__(self) -> None:
        self.n_began, self.heard_s = 0, 0.0
        self.items: list[str] = []

    def began(self) -> None:
        """Listening begins."""
        self.n_began += 1

    def changed(self, items: Sequence[str]) -> None:
        """Rows were written."""
        self.items += items

    def heard(self, until_s: float) -> None:
        """All is told until then."""
        self.heard_s = until_s


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition, at most ten seconds."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


async def test_written_rows_are_told_before_their_instant_is_heard_of(store: Store) -> None:
    listening = Listening()
    following = asyncio.create_task(store.follow_rows(listening))
    await until(lambda: listening.heard_s > 0)
    for number in range(5):
        item = f"ä{number}"
        await store.commit_rows(KEYS.item_partition(item), {item: b"row"}, expected={}, reached={})
        written_s = time.monotonic()
        await until(lambda at_s=written_s: listening.heard_s > at_s)  # type: ignore[misc]
        assert listening.items[-1] == item and len(listening.items) == number + 1
    await applied(store, click(item="x"))  # no row
    assert listening.n_began == 1 and len(listening.items) == 5
    following.cancel()
    await asyncio.wait([following])
