"""A history put into a store that goes on living: nothing is lost, nothing counts twice."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.backfill.checking import check
from features.backfill.items import fold_items
from features.backfill.log_rows import log_rows
from features.backfill.people import fold_people
from features.backfill.pieces import Folder
from features.backfill.tail import Tail
from features.backfill.writing import (
    begin,
    drop_other_rows,
    items_in,
    write_people,
    write_rows,
)
from features.deep_log import DeepLog
from features.errors import FeatureError, ProjectionConflict, StoreRefused
from features.events import START, LoggedErasure, Positions, StreamId, check_event, event_from_row
from features.item_table import ItemTable
from features.log_files import LogFiles
from features.projection import Projection
from features.schema import Schema
from features.store import Record, all_of, erasure_record, event_record, item_record, user_record
from tests.features.backfill.streams import SCHEMA, lived, packed, rows_in, states_in, table_of
from tests.features.examples import KEYS, T0_MS, Both, Store, applied, archived, attributes

Rows = list[dict[str, Any]]
USERS = [f"u{n}" for n in range(40)]
PARTITIONS = range(KEYS.n_partitions)


@pytest.fixture
def schema() -> Schema:
    """That of the streams."""
    return SCHEMA


def stream(n: int, start_ms: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return [
        {
            "ts_ms": start_ms + 100 * number,
            "type": str(rng.choice(["click", "view", "cart"])),
            "user": f"u{rng.integers(len(USERS))}",
            "item": f"i{rng.integers(25)}",
            "id": None,
            "value": 2.0,
            "device": str(rng.choice(["phone", "desk"])),
            "size": int(rng.integers(5)),
        }
        for number in range(n)
    ]


HISTORY, LIVE = stream(600, T0_MS, 1), stream(300, T0_MS + 100_000, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """What the passes make of the history."""
    return passed(tmp_path, check(table_of(HISTORY), SCHEMA, KEYS).table)


def passed(path: Path, events: pa.Table) -> Folder:
    folder = Folder(str(path / "work"))
    folded = fold_people(events, SCHEMA, KEYS)
    folder.write_piece("states", folded.states, folded.states["partition"].to_numpy(), 7)
    folder.write_piece("shares", folded.shares, np.zeros(folded.shares.num_rows, dtype=int), 100)
    table = fold_items(folder.parts("shares", 0), SCHEMA)
    partition_N = np.array([KEYS.item_partition(item) for item in table.ids[1:]])
    rows = pa.table({"item": table.ids[1:], "row": pa.array(table.pack_all(range(1, len(table) + 1)), pa.binary())})
    folder.write_piece("rows", rows, partition_N, 7)
    return folder


def records(some: Sequence[dict[str, Any]]) -> list[Record]:
    events = [check_event(event_from_row(row), SCHEMA, 0, any_time=True) for row in some]
    return [event_record(event, SCHEMA, KEYS) for event in events]


async def send(store: Store, some: Sequence[dict[str, Any]]) -> None:
    for record in records(some):
        all_of(await store.apply([record]))
        await asyncio.sleep(0)


async def write_all(both: Both, folder: Folder, cut: Positions | None = None, name: str = "run") -> None:
    """What a run does, in its order."""
    cut = cut or {}
    await begin(*both, name, cut)
    await both.bulk.hold_rows(name)
    for partition in PARTITIONS:
        await write_people(*both, folder, ["states"], partition, cut)
    for partition in PARTITIONS:
        await write_rows(*both, folder, ["rows"], partition, name)
    await drop_other_rows(*both, items_in(folder, ["rows"]), name)
    await both.bulk.release_rows(cut, name)
    await both.bulk.forget_reader(f"backfill {name}")


async def project(store: Store) -> None:
    """A projector, until it is cancelled."""
    projection = Projection(store, SCHEMA)
    while True:
        try:
            await projection.load()
            while True:
                await projection.advance(block_s=0.01)
                await asyncio.sleep(0)
        except FeatureError:
            await asyncio.sleep(0)


async def projected_rows(store: Store) -> dict[str, bytes]:
    """Rows when all of the log is folded."""
    heads = await store.heads()
    await send(
        store, [{**LIVE[-1], "user": "last", "item": "last", "ts_ms": LIVE[-1]["ts_ms"] + 60_000}]
    )  # closes the tick before it
    projection = Projection(store, SCHEMA)
    await projection.load()
    async with asyncio.timeout(20):
        while any(projection.reached.get(partition, START) < head for partition, head in heads.items()):
            await projection.advance()
    names = sorted({row["item"] for row in HISTORY + LIVE})
    return dict(zip(names, all_of((await store.read([], names))[1]), strict=True))


async def expected_rows(store: Store) -> dict[str, bytes]:
    """What the log adds to the rows of the history.

    An entry carries the state that was known then; without their history, if a person came before it was written.
    """
    table = ItemTable(SCHEMA)
    table.fold(sorted(await (await lived(HISTORY)).read_log({}, count=1 << 30)))
    table.fold(sorted(await store.read_log({}, count=1 << 30)))
    return dict(sorted(packed(table).items()))


async def test_a_history_in_an_empty_store_is_what_was_lived(both: Both, folder: Folder) -> None:
    await write_all(both, folder)
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY), USERS)
    await send(both.store, LIVE)
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY + LIVE), USERS)
    expected = await expected_rows(both.store)
    assert await projected_rows(both.store) == expected


async def test_events_that_come_before_and_meanwhile_count_once(both: Both, folder: Folder) -> None:
    """Live events before, during and after, with a projector at work."""
    await send(both.store, LIVE[:100])
    projecting = asyncio.create_task(project(both.store))
    sending = asyncio.create_task(send(both.store, LIVE[100:250]))
    await write_all(both, folder)
    await sending
    await send(both.store, LIVE[250:])
    projecting.cancel()
    await asyncio.wait([projecting])
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY + LIVE), USERS)
    expected = await expected_rows(both.store)
    assert await projected_rows(both.store) == expected


async def test_a_history_that_ends_in_the_log_meets_it_there(both: Both, tmp_path: Path) -> None:
    """The beginning of the log is archived, and gone; what comes after it is not."""
    await send(both.store, LIVE[:100])
    cut, entries = await both.store.heads(), await both.store.read_log({}, count=1000)
    before = [log_rows([entry], SCHEMA, KEYS.n_partitions, "").people for entry in entries]
    folder = passed(tmp_path, pa.concat_tables([check(table_of(HISTORY), SCHEMA, KEYS).table, *before]))
    await send(both.store, LIVE[100:200])
    await both.store.trim(cut)
    sending = asyncio.create_task(send(both.store, LIVE[200:]))
    await write_all(both, folder, cut)
    await sending
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY + LIVE), USERS)
    assert await both.store.projected() == [cut] * KEYS.n_partitions


async def test_what_came_after_the_cut_and_is_gone_is_read_in_the_archive(both: Both, folder: Folder) -> None:
    await send(both.store, LIVE[:100])
    await archived(*both, files := LogFiles(f"{folder.url}/archive"))
    await both.store.trim(await both.store.heads())
    await send(both.store, LIVE[100:])
    with pytest.raises(StoreRefused):
        await begin(*both, "run", {})
    assert await begin(*both, "run", {}, is_deep=True) is False
    for partition in PARTITIONS:
        await write_people(*both, folder, ["states"], partition, {}, DeepLog(*both, files))
    files.close()
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY + LIVE), USERS)


async def test_whoever_is_interrupted_begins_again(both: Both, folder: Folder) -> None:
    rng = np.random.default_rng(3)
    for number in range(10):
        at_s = float(rng.random()) * 0.02
        run = asyncio.create_task(write_all(both, folder))
        await asyncio.wait([run], timeout=at_s)
        run.cancel()
        await asyncio.wait([run])
        await send(both.store, LIVE[10 * number : 10 * number + 10])
    await write_all(both, folder)
    await send(both.store, LIVE[100:])
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY + LIVE), USERS)
    expected = await expected_rows(both.store)
    assert await projected_rows(both.store) == expected


async def test_attributes_and_erasures_meanwhile_are_kept(both: Both, folder: Folder) -> None:
    one, other, third = USERS[:3]
    later = [
        user_record(attributes(one, segment="a"), KEYS),
        erasure_record(LoggedErasure(other, T0_MS + 99_000), KEYS),
        erasure_record(LoggedErasure(third, T0_MS + 99_000), KEYS),
        *records([{**LIVE[0], "user": third}]),
    ]
    all_of(await both.store.apply(later))
    await write_all(both, folder)
    reference = await lived(HISTORY)
    all_of(await reference.apply(later))
    assert await states_in(both.store, USERS) == await states_in(reference, USERS)
    assert (await states_in(both.store, [other]))[other] == b""


async def test_attributes_outlive_their_entries_in_the_log(both: Both, folder: Folder) -> None:
    """A catalogue that was loaded, people that were described and decisions that were made long ago are no obstacle."""
    stated = [
        *(item_record(attributes(item, brand="x"), KEYS) for item in ("i3", "i999")),
        *(user_record(attributes(user, segment="a"), KEYS) for user in ("u3", "u999")),
        *records([{**LIVE[0], "user": "last", "item": "last", "ts_ms": T0_MS + 1}]),
    ]
    all_of(await both.store.apply(stated[:-1]))
    heads = await both.store.heads()
    all_of(await both.store.apply(stated[-1:]))  # closes the tick before it
    projection = Projection(both.store, SCHEMA)
    await projection.load()
    async with asyncio.timeout(20):
        while any(projection.reached.get(partition, START) < head for partition, head in heads.items()):
            await projection.advance()
    await both.store.trim(heads)
    await write_all(both, folder)
    reference = await lived(HISTORY)
    all_of(await reference.apply(stated))
    everybody = [*USERS, "u999", "last"]
    assert await states_in(both.store, everybody) == await states_in(reference, everybody)
    table = ItemTable(SCHEMA)
    table.load(["i3", "i999", "i4"], all_of((await both.store.read([], ["i3", "i999", "i4"]))[1]))
    assert [table.attributes.get(row) for row in (1, 2, 3)] == [{"brand": "x"}, {"brand": "x"}, None]
    assert (table.first_ms[1] > 0, table.first_ms[2]) == (True, 0)


async def test_an_entry_that_cannot_be_read_is_passed_over(both: Both, folder: Folder) -> None:
    bad = Record(kind=b"e", partition=KEYS.user_partition(USERS[0]), body=b"?", ts_ms=T0_MS)
    all_of(await both.store.apply([bad]))
    await write_all(both, folder)
    assert await states_in(both.store, USERS) == await states_in(await lived(HISTORY), USERS)


async def test_a_log_that_has_lost_entries_is_refused_and_left_alone(both: Both, folder: Folder) -> None:
    await send(both.store, LIVE[:50])
    heads = await both.store.heads()
    await both.store.trim({1: heads[1]})
    before = await states_in(both.store, USERS)
    with pytest.raises(StoreRefused, match=r"log partition 1: entries up to .* are gone"):
        await write_all(both, folder)
    assert await states_in(both.store, USERS) == before
    assert await both.bulk.readers() == {}
    assert await begin(*both, "run", heads) is False  # a history that reaches so far
    assert await begin(*both, "run", heads) is True


async def test_what_was_made_of_an_archive_before_somebody_was_erased_is_refused(both: Both) -> None:
    (made,) = await applied(both.store, erasure_record(LoggedErasure("u1", T0_MS), KEYS, "e1"))
    home = KEYS.user_partition("u1")
    earlier = {home: StreamId(made.id.ms - 1, 0)}
    await begin(both.store, both.bulk, "one", earlier)
    await both.bulk.note_erased(home, made.id)
    await begin(both.store, both.bulk, "two", {home: made.id})
    await begin(both.store, both.bulk, "three", {})
    with pytest.raises(StoreRefused, match="somebody was erased"):
        await begin(both.store, both.bulk, "four", earlier)
    assert list(await both.bulk.readers()) == ["backfill three"]


async def test_entries_that_go_while_states_are_written_are_missed(both: Both) -> None:
    await send(both.store, LIVE[:50])
    tail = Tail(*both, KEYS.user_partition(USERS[0]))
    await both.store.trim(await both.store.heads())
    with pytest.raises(StoreRefused, match="gone from the log"):
        await tail.put({USERS[0]: b""})


async def test_a_run_that_takes_the_place_of_another_stops_it(both: Both, folder: Folder) -> None:
    await begin(*both, "one", {})
    await both.bulk.hold_rows("one")
    await begin(*both, "two", {})
    await both.bulk.hold_rows("two")
    assert await both.bulk.readers() == {"backfill two": {}}
    with pytest.raises(ProjectionConflict):
        for partition in PARTITIONS:
            await write_rows(*both, folder, ["rows"], partition, "one")
    await write_all(both, folder, name="two")
    expected = await rows_in(await lived(HISTORY))
    assert dict(zip(expected, all_of((await both.store.read([], list(expected)))[1]), strict=True)) == expected
