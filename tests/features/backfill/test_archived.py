"""An archived log is a history too: folded at once, it comes to what the log came to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.archive_erasing import ArchiveEraser
from features.backfill.pieces import Folder
from features.backfill.planning import Plan, plan_of
from features.backfill.stages import check_unit, fold_item_shard, fold_user_shard, judge, n_items_in
from features.errors import BadFile
from features.events import (
    START,
    Entry,
    LoggedAttributes,
    LoggedErasure,
    Positions,
    StreamId,
    check_event,
    event_from_row,
)
from features.item_table import ItemTable
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.people import Gone, Mark
from features.schema import Schema
from features.store import Record, all_of, decision_record, erasure_record, event_record, item_record, user_record
from tests.features.backfill.streams import SCHEMA, packed, rows, states_in, table_of
from tests.features.examples import KEYS, T0_MS, decision

Rows = list[dict[str, Any]]
others = st.one_of(
    st.builds(lambda user, age: ("user", user, age), st.sampled_from(["u1", "u2"]), st.integers(0, 9)),
    st.builds(lambda item, price: ("item", item, price), st.sampled_from(["a", "z"]), st.integers(0, 9)),
    st.builds(lambda user: ("erasure", user, 0), st.sampled_from(["u1", "ü"])),
    st.builds(lambda user: ("decision", user, 0), st.sampled_from(["u1", "u2"])),
)


def record_of(one: Any) -> Record:
    if isinstance(one, dict):
        return event_record(check_event(event_from_row(one), SCHEMA, 0, any_time=True), SCHEMA, KEYS)
    kind, name, value = one
    if kind == "user":
        return user_record(LoggedAttributes(name, {"age": value}, T0_MS), KEYS)
    if kind == "item":
        return item_record(LoggedAttributes(name, {"price": float(value)}, T0_MS), KEYS)
    if kind == "erasure":
        return erasure_record(LoggedErasure(name, T0_MS), KEYS)
    return decision_record(decision(name), b"", KEYS)


async def logged(some: Sequence[Any]) -> tuple[MemoryStore, list[Entry]]:
    """A store that has taken all of it, and its log."""
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    all_of(await store.apply([record_of(one) for one in some]))
    return store, sorted(await store.read_log({}, count=1 << 30))


def archived(folder: Path, entries: Sequence[Entry], n: int) -> str:
    """Segments of so many entries; each second one has an entry of the one before it."""
    files = LogFiles(str(folder / "archive"))
    for partition in range(KEYS.n_partitions):
        log = [entry for entry in entries if entry.partition == partition]
        for start in range(0, len(log), n):
            first = max(0, start - (start // n) % 2)
            files.write(log[first : start + n], log[first - 1].id if first else START, SCHEMA)
    return files.url


def run(plan: Plan) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """All steps; states by user and rows by item."""
    checks = [check_unit(plan, number) for number in range(len(plan.units))]
    judge(plan, checks)
    pieces, n_shards = [name for one in checks for name in one.pieces], plan.n_item_shards(n_items_in(checks))
    for shard in range(plan.n_user_shards):
        fold_user_shard(plan, shard, pieces, n_shards)
    stated = [name for one in checks for name in one.stated]
    for shard in range(n_shards):
        fold_item_shard(plan, shard, _pieces(plan, "shares"), stated, n_shards)
    return _found(plan, "states", "user", "state"), _found(plan, "rows", "item", "row")


def _pieces(plan: Plan, kind: str) -> list[str]:
    return sorted(name for name in Folder(plan.folder).names() if name.startswith(f"{kind}-"))


def _found(plan: Plan, kind: str, name: str, value: str) -> dict[str, bytes]:
    folder = Folder(plan.folder)
    pieces = [p for p in _pieces(plan, kind) if p.endswith(".arrow")]
    batches = [one for piece in pieces for p in range(KEYS.n_partitions) for one in folder.read_piece(piece, p)]
    return {
        key: held for one in batches for key, held in zip(one[name].to_pylist(), one[value].to_pylist(), strict=True)
    }


def rows_of(entries: Sequence[Entry]) -> dict[str, bytes]:
    table = ItemTable(SCHEMA)
    table.fold(entries)
    return packed(table)


@given(st.lists(st.one_of(rows, rows, others), min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=20)
async def test_an_archive_from_which_somebody_was_erased_comes_to_what_the_others_did(
    tmp_path_factory: pytest.TempPathFactory, some: list[Any], n: int
) -> None:
    _, entries = await logged(some)
    folder, at = tmp_path_factory.mktemp("law"), StreamId(1 << 61, 0)
    url, gone = archived(folder, entries, n), Gone({"u1": Mark(KEYS.user_partition("u1"), at)})
    kept = [entry for entry in entries if not gone.has(entry)]
    assert ArchiveEraser(LogFiles(url), gone).advance(0.0)
    if not kept:
        return
    before = plan_of([archived(folder / "others", kept, n)], SCHEMA, KEYS.n_partitions, str(folder / "expected"))
    plan = plan_of([url], SCHEMA, KEYS.n_partitions, str(folder / "run"))
    assert run(plan) == run(before)
    assert "u1" not in run(plan)[0]


@given(st.lists(st.one_of(rows, rows, others), min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=40)
async def test_what_the_log_came_to_is_what_its_archive_comes_to(
    tmp_path_factory: pytest.TempPathFactory, some: list[Any], n: int
) -> None:
    """Events late and in time, attributes, erasures and decisions; segments that overlap."""
    folder = tmp_path_factory.mktemp("archived")
    store, entries = await logged(some)
    plan = plan_of([archived(folder, entries, n)], SCHEMA, KEYS.n_partitions, str(folder / "work"))
    states, item_rows = run(plan)
    users = ["u1", "u2", "somebody else", "ü"]
    assert {user: states.get(user, b"") for user in users} == await states_in(store, users)
    assert item_rows == rows_of(entries)
    assert plan.cut == await store.heads()


async def test_older_files_come_before_an_archive(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    some: Rows = [
        {
            "ts_ms": T0_MS + 1000 * number,
            "type": "click",
            "user": f"u{rng.integers(5)}",
            "item": f"i{rng.integers(9)}",
            "id": None,
            "value": None,
            "device": None,
            "size": None,
        }
        for number in range(90)
    ]
    _, entries = await logged(some)
    older, newer = entries[:50], entries[50:]
    cut: Positions = {}
    for entry in older:
        cut[entry.partition] = entry.id
    files = LogFiles(str(tmp_path / "archive"))
    for partition in range(KEYS.n_partitions):
        log = [entry for entry in newer if entry.partition == partition]
        if log:
            files.write(log, cut.get(partition, START), SCHEMA)
    pq.write_table(table_of(some[:50]), tmp_path / "older.parquet")
    whole, _ = await logged(some)
    plan = plan_of([str(tmp_path / "older.parquet"), files.url], SCHEMA, KEYS.n_partitions, str(tmp_path / "work"))
    states, _ = run(plan)
    assert states == await states_in(whole, [f"u{n}" for n in range(5)])


async def test_a_type_that_the_schema_does_not_know_is_named(tmp_path: Path) -> None:
    _, entries = await logged([{"ts_ms": T0_MS, "type": "view", "user": "u1", "item": "a"}])
    url = archived(tmp_path, entries, 5)
    schema = Schema(event_types=("click",), counters=(), context=())
    plan = plan_of([url], schema, KEYS.n_partitions, str(tmp_path / "work"))
    with pytest.raises(BadFile, match=r"column 'type': entry .* is of type 'view', which is none of click"):
        check_unit(plan, 0)


async def test_an_entry_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    store, entries = await logged([{"ts_ms": T0_MS, "type": "view", "user": "u1", "item": "a"}])
    spoilt = entries[0]._replace(id=entries[0].id._replace(seq=7), body=b"\xc1")
    plan = plan_of([archived(tmp_path, [*entries, spoilt], 5)], SCHEMA, KEYS.n_partitions, str(tmp_path / "work"))
    states, _ = run(plan)
    assert states == await states_in(store, ["u1"])


def test_an_archive_without_a_segment_is_nothing_to_fold(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with pytest.raises(BadFile):
        plan_of([str(tmp_path / "archive")], SCHEMA, KEYS.n_partitions, str(tmp_path / "work"))
    pq.write_table(table_of([]), tmp_path / "none.parquet")
    with pytest.raises(BadFile, match="0 rows"):
        plan_of([str(tmp_path / "none.parquet")], SCHEMA, KEYS.n_partitions, str(tmp_path / "work"))
