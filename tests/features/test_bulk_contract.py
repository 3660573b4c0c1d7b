"""One list of laws for everything that replaces states and rows beside a store that goes on living."""

import pytest

from features.errors import LogMoved, ProjectionConflict, ReaderMoved, RowsHeld
from features.events import START, StreamId
from features.projection import Projection
from features.sources import Quarantine
from features.store import BulkStore, all_of
from tests.features.examples import KEYS, SCHEMA, T0_MS, Both, Store, applied, click, log_of, state_of

HOME = KEYS.user_partition("u1")
NEXT = (HOME + 1) % KEYS.n_partitions


async def rows_of(store: Store, *items: str) -> list[bytes]:
    return all_of((await store.read([], items))[1])


async def items_of(bulk: BulkStore) -> set[str]:
    return {item async for items in bulk.items() for item in items}


async def test_what_is_gone_from_the_log_is_the_last_entry_that_went(both: Both) -> None:
    store, bulk = both
    results = await applied(store, *(click(ts_ms=T0_MS + 10 * n) for n in range(4)))
    assert await bulk.trimmed() == {}
    await store.trim({HOME: StreamId(results[0].id.ms - 1, 0)})
    assert await bulk.trimmed() == {}
    await store.trim({HOME: StreamId(results[1].id.ms + 5, 7)})
    assert await bulk.trimmed() == {HOME: results[1].id}
    await store.trim({HOME: StreamId(results[1].id.ms + 6, 0)})
    assert await bulk.trimmed() == {HOME: results[1].id}
    assert [entry.id for entry in await log_of(store)] == [result.id for result in results[2:]]


async def test_states_are_put_where_the_log_has_not_moved(both: Both) -> None:
    store, bulk = both
    (first,) = await applied(store, click("u1"))
    (state,) = all_of((await store.read(["u1"], []))[0])
    other = next(f"v{n}" for n in range(99) if KEYS.user_partition(f"v{n}") == HOME)
    await bulk.put_users(HOME, {"u1": state, other: state}, first.id)
    assert (await state_of(store, other)).recent == (await state_of(store, "u1")).recent
    await applied(store, click("u1", "b"))
    with pytest.raises(LogMoved, match=f"expected {first.id}"):
        await bulk.put_users(HOME, {"u1": state}, first.id)
    assert [item for item, _, _ in (await state_of(store, "u1")).recent] == ["b", "a"]


async def test_an_empty_state_is_none(both: Both) -> None:
    store, bulk = both
    (first,) = await applied(store, click("u1"))
    await bulk.put_users(HOME, {"u1": b""}, first.id)
    assert await store.read(["u1"], []) == ([b""], [])
    await bulk.put_users(HOME, {"u1": b""}, first.id)


async def test_states_are_put_into_a_log_without_entries_and_outlive_trimming(both: Both) -> None:
    store, bulk = both
    await bulk.put_users(HOME, {"u1": b""}, START)
    with pytest.raises(LogMoved):
        await bulk.put_users(HOME, {"u1": b""}, StreamId(1, 0))
    (only,) = await applied(store, click("u1"))
    await store.trim({HOME: only.id})
    await bulk.put_users(HOME, {}, only.id)


async def test_held_rows_are_written_by_the_holder_alone(both: Both) -> None:
    store, bulk = both
    partition = KEYS.item_partition("a")
    await store.commit_rows(partition, {"a": b"before"}, expected={}, reached={1: StreamId(5, 0)})
    await bulk.hold_rows("one")
    with pytest.raises(ProjectionConflict, match="held by"):
        await store.commit_rows(partition, {"a": b"meanwhile"}, expected={1: StreamId(5, 0)}, reached={})
    with pytest.raises(ProjectionConflict, match="held by"):
        await bulk.put_rows(partition, {"a": b"other"}, "other")
    with pytest.raises(RowsHeld, match="'one'"):
        await store.projected()
    await bulk.put_rows(partition, {"a": b"new"}, "one")
    assert await rows_of(store, "a") == [b"new"]


async def test_who_holds_rows_last_holds_them(both: Both) -> None:
    store, bulk = both
    assert await bulk.holder() == ""
    await bulk.hold_rows("one")
    await bulk.hold_rows("two")
    assert await bulk.holder() == "two"
    with pytest.raises(ProjectionConflict):
        await bulk.put_rows(0, {}, "one")
    with pytest.raises(ProjectionConflict):
        await bulk.release_rows({}, "one")
    await bulk.release_rows({3: StreamId(7, 1)}, "two")
    assert await store.projected() == [{3: StreamId(7, 1)}] * KEYS.n_partitions
    assert await bulk.holder() == ""
    with pytest.raises(ProjectionConflict):
        await bulk.put_rows(0, {}, "two")


async def test_released_rows_are_folded_on_from_where_one_says(both: Both) -> None:
    store, bulk = both
    await applied(store, click("u1", "a", type="view"))
    projection = Projection(store, SCHEMA)
    await projection.load()
    while not await rows_of(store, "a") > [b""]:
        await applied(store, click("u2", "z", ts_ms=T0_MS + 5, type="view"))
        await projection.advance()
    once = await rows_of(store, "a")
    await bulk.hold_rows("one")
    with pytest.raises(ProjectionConflict):
        while True:
            await applied(store, click("u2", "y", ts_ms=T0_MS + 9, type="view"))
            await projection.advance()
    await bulk.put_rows(KEYS.item_partition("a"), {"a": b""}, "one")
    await bulk.release_rows({}, "one")
    await projection.load()
    while not await rows_of(store, "a") > [b""]:
        await applied(store, click("u2", "y", ts_ms=T0_MS + 9, type="view"))
        await projection.advance()
    assert await rows_of(store, "a") == once


async def test_an_empty_row_is_none(both: Both) -> None:
    store, bulk = both
    names = [f"ä{n}" for n in range(300)]
    for name in names:
        await store.commit_rows(KEYS.item_partition(name), {name: b"row"}, expected={}, reached={})
    await applied(store, click())
    assert await items_of(bulk) == set(names)
    await bulk.hold_rows("one")
    for name in names[1:]:
        await bulk.put_rows(KEYS.item_partition(name), {name: b""}, "one")
    assert await items_of(bulk) == {names[0]}
    assert await rows_of(store, *names[:2]) == [b"row", b""]


async def test_readers_are_remembered_until_they_are_forgotten(both: Both) -> None:
    _, bulk = both
    assert await bulk.readers() == {}
    await bulk.note_reader("archive", {0: StreamId(5, 1), 63: StreamId(9, 0)})
    await bulk.note_reader("backfill", {})
    await bulk.note_reader("archive", {0: StreamId(6, 0)})
    assert await bulk.readers() == {"archive": {0: StreamId(6, 0)}, "backfill": {}}
    await bulk.forget_reader("archive")
    await bulk.forget_reader("nobody")
    assert await bulk.readers() == {"backfill": {}}


async def test_a_source_is_in_quarantine_until_it_is_released(both: Both) -> None:
    bulk, first = both.bulk, Quarantine("ann", "its clock", 5)
    assert await bulk.quarantined() == {}
    assert await bulk.quarantine("läden", first)
    assert not await bulk.quarantine("läden", Quarantine("bob", "another reason", 6))
    assert await bulk.quarantine("web", Quarantine("bob", "", 7))
    assert await bulk.quarantined() == {"läden": first, "web": Quarantine("bob", "", 7)}
    assert await bulk.release("web")
    assert not await bulk.release("web")
    assert await bulk.quarantined() == {"läden": first}


async def test_a_reader_goes_on_from_where_it_is_thought_to_be(both: Both) -> None:
    _, bulk = both
    far = StreamId(4_102_444_800_000, 9_007_199_254_740_991)
    await bulk.note_reader("archive", {})
    await bulk.advance_reader("archive", {0: START, 3: START}, {0: StreamId(5, 1), 3: far})
    await bulk.advance_reader("archive", {3: far}, {3: far})
    await bulk.advance_reader("archive", {0: StreamId(5, 1)}, {0: StreamId(5, 2)})
    assert await bulk.readers() == {"archive": {0: StreamId(5, 2), 3: far}}


async def test_a_reader_that_somebody_moved_is_left_alone(both: Both) -> None:
    _, bulk = both
    await bulk.note_reader("archive", {0: StreamId(5, 1)})
    with pytest.raises(ReaderMoved, match="partition 0 is at 5-1, expected 4-0"):
        await bulk.advance_reader("archive", {1: START, 0: StreamId(4, 0)}, {0: StreamId(9, 0), 1: StreamId(9, 0)})
    with pytest.raises(ReaderMoved, match="partition 0 is at 5-1, expected 0-0"):
        await bulk.advance_reader("archive", {0: START}, {0: StreamId(9, 0)})
    assert await bulk.readers() == {"archive": {0: StreamId(5, 1)}}
    await bulk.forget_reader("archive")
    with pytest.raises(ReaderMoved, match="there is no reader"):
        await bulk.advance_reader("archive", {1: START}, {1: StreamId(9, 0)})
    assert await bulk.readers() == {}


async def test_what_may_be_gone_is_told_and_never_taken_back(both: Both) -> None:
    store, bulk = both
    results = await applied(store, *(click(ts_ms=T0_MS + 10 * n) for n in range(4)))
    assert await bulk.trimming() == {}
    await store.trim({})
    await store.trim({HOME: results[2].id, NEXT: StreamId(5, 1)})
    await store.trim({HOME: results[1].id, NEXT: StreamId(5, 2)})
    assert await bulk.trimming() == {HOME: results[2].id, NEXT: StreamId(5, 2)}
    assert await bulk.trimmed() == {HOME: results[2].id}
