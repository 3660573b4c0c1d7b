"""From files to states and rows in three stages of independent steps, each of which makes files out of files.

    check 0 … check n ─► fold people 0 … n ─► fold items 0 … n
    a row group each     a shard of users     a shard of items

A step may run anywhere and any number of times: it leaves the same files, and returns a report. How many shards there
are follows from the memory that a step may take (`Plan.budget_bytes`), which bounds all steps but for one thing: what a
single person did must fit.

Who runs the steps is told elsewhere (`learners.history`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.backfill.checking import BadRow, check
from features.backfill.distinct import Distinct
from features.backfill.items import fold_items, merged
from features.backfill.log_rows import log_rows
from features.backfill.people import fold_people, in_order
from features.backfill.pieces import Folder
from features.backfill.planning import Plan, Unit
from features.errors import BadFile
from features.event_files import slices
from features.log_files import LogFiles, segment_at
from features.schema import hash64

CHECK_BYTES: Final = 700  # that a step takes for each row it checks at once
SHARE_BYTES: Final = 250  # for each share that waits to be merged
BAD_MAX: Final = 1000  # bad rows of a step that are described


class CheckReport(msgspec.Struct):
    """What a row group turned out to hold."""

    n_rows: int
    n_bad: int
    bad: list[BadRow]
    first_ms: int
    last_ms: int
    pieces: list[str]
    timed: list[str]
    """Pieces of the same rows in time order; none of an archived log, which is in order itself."""
    stated: list[str]
    """Pieces of what is said of items."""
    distinct_items: bytes
    left_out: dict[str, int] = {}
    """Events that do not count, by source."""
    counted_in: dict[str, int] = {}
    """Events that count though they were in quarantine, by source."""
    touched: list[str] = []
    """Pieces of the users of rows that do not count; none of an archived log, which tells them itself."""


class PeopleReport(msgspec.Struct):
    """What a shard of users came to."""

    n_users: int
    n_events: int
    duplicates: list[int]
    """Rows that say again what another one has said."""


class ItemsReport(msgspec.Struct):
    """What a shard of items came to."""

    n_items: int


def judge(plan: Plan, checks: Sequence[CheckReport]) -> None:
    """Refuse a history with rows that are no events, or with row groups that are not in time order.

    Raises:
        BadFile: Naming the first of them.
    """
    n_bad = sum(report.n_bad for report in checks)
    for report in checks:
        for bad in report.bad:
            unit = plan.where(bad.row)
            message = f"row {bad.row - unit.first_row}: {bad.reason}"
            more = f" (and {n_bad - 1} more rows are no events)" if n_bad > 1 else ""
            raise BadFile(message + more, unit.file.url, row_group=unit.row_group, column=bad.column)
    last_ms: dict[str, int] = {}
    for unit, report in zip(plan.units, checks, strict=True):
        if report.n_rows and not plan.is_any_order and not unit.archive:
            if report.first_ms < last_ms.get(unit.file.url, 0):
                raise _disorder(unit, 0)
            last_ms[unit.file.url] = report.last_ms


def n_items_in(checks: Iterable[CheckReport]) -> int:
    """How many items there are in all row groups, about."""
    distinct = Distinct()
    for report in checks:
        distinct.merge(report.distinct_items)
    return distinct.count()


def check_unit(plan: Plan, number: int) -> CheckReport:
    """Judge a row group or a segment, and divide its good rows among the shards of users.

    Raises:
        BadFile: If it cannot be read, or is not in time order.
    """
    return (_check_segment if plan.units[number].archive else _check_events)(plan, number)


def _check_events(plan: Plan, number: int) -> CheckReport:
    unit = plan.units[number]
    report = CheckReport(0, 0, [], 0, 0, [], [], [], b"")
    distinct = Distinct()
    for part in slices(unit.file, unit.row_group, max(1000, plan.budget_bytes // CHECK_BYTES)):
        without = plan.choice.without
        checked = check(part.table, plan.schema, plan.keys, unit.first_row + part.first, without)
        report.n_bad += len(checked.bad)
        report.bad += checked.bad[: BAD_MAX - len(report.bad)]
        if checked.left_out.num_rows:
            _leave_out(plan, number, checked.left_out, report)
        table = checked.table
        if table.num_rows:
            last_ms = report.last_ms if plan.is_any_order else _in_order(unit, table, report.last_ms)
            _divide(plan, number, table, report, distinct)
            report.last_ms = max(last_ms, report.last_ms)
            report.timed.append(_write_timed(plan, f"timed-{number:06d}-{len(report.timed):04d}.arrow", table))
    report.distinct_items = distinct.pack()
    return report


def _check_segment(plan: Plan, number: int) -> CheckReport:
    unit = plan.units[number]
    segment = segment_at(unit.file.url)
    assert segment is not None
    report, distinct = CheckReport(0, 0, [], 0, 0, [], [], [], b""), Distinct()
    reader = LogFiles(unit.archive).open(segment)
    try:
        for group in reader.entries():
            entries = [entry for entry in group if entry.id > unit.after]
            people, items, left_out, counted_in = log_rows(
                entries, plan.schema, plan.n_partitions, unit.file.url, plan.choice
            )
            report.left_out = dict(left_out + Counter(report.left_out))
            report.counted_in = dict(counted_in + Counter(report.counted_in))
            if people.num_rows:
                _divide(plan, number, people, report, distinct)
            if items.num_rows:
                distinct.add(_hashes(items["item"]))
                report.stated.append(f"stated-{number:06d}-{len(report.stated):04d}.arrow")
                zeros = np.zeros(items.num_rows, dtype=np.int8)
                Folder(plan.folder).write_piece(report.stated[-1], items, zeros, items.num_rows)
    finally:
        reader.close()
    report.distinct_items = distinct.pack()
    return report


def _leave_out(plan: Plan, number: int, table: pa.Table, report: CheckReport) -> None:
    """Count rows that are left out, and note whose they were."""
    report.left_out = dict(Counter(table["source"].to_pylist()) + Counter(report.left_out))
    users = pa.table({"user": table["user"].unique()})
    report.touched.append(f"touched-{number:06d}-{len(report.touched):04d}.arrow")
    zeros = np.zeros(users.num_rows, dtype=np.int8)
    Folder(plan.folder).write_piece(report.touched[-1], users, zeros, users.num_rows)


def _divide(plan: Plan, number: int, table: pa.Table, report: CheckReport, distinct: Distinct) -> None:
    """Write rows for the shards of users."""
    report.first_ms = report.first_ms or table["ts_ms"][0].as_py()
    report.last_ms = pa.compute.max(table["ts_ms"]).as_py()
    report.n_rows += table.num_rows
    distinct.add(_hashes(table["item"]))
    report.pieces.append(f"checked-{number:06d}-{len(report.pieces):04d}.arrow")
    shard_E = _hashes(table["user"]) % np.uint64(plan.n_user_shards)
    Folder(plan.folder).write_piece(report.pieces[-1], table, shard_E, table.num_rows)


def fold_user_shard(plan: Plan, shard: int, pieces: Sequence[str], n_item_shards: int) -> PeopleReport:
    """Fold what the users of a shard did."""
    folder = Folder(plan.folder)
    batches = [batch for piece in pieces for batch in folder.read_piece(piece, shard)]
    report = PeopleReport(0, 0, [])
    if batches:
        folded = fold_people(pa.Table.from_batches(batches), plan.schema, plan.keys)
        del batches
        report = PeopleReport(folded.states.num_rows, folded.n_events, folded.duplicates)
        states, shares = folded.states, folded.shares
        folder.write_piece(f"states-{shard:06d}.arrow", states, states["partition"].to_numpy(), 4096)
        shard_S = _hashes(shares["item"]) % np.uint64(n_item_shards)
        n_rows = max(256, plan.budget_bytes // (2 * SHARE_BYTES * plan.n_user_shards))
        folder.write_piece(f"shares-{shard:06d}.arrow", shares, shard_S, n_rows)
    return report


def fold_item_shard(
    plan: Plan, shard: int, pieces: Sequence[str], stated: Sequence[str], n_item_shards: int
) -> ItemsReport:
    """Fold what the items of a shard took, and what is said of them."""
    folder = Folder(plan.folder)
    parts = [part for piece in pieces for part in folder.parts(piece, shard)]
    table = fold_items(parts, plan.schema, plan.budget_bytes // SHARE_BYTES // 2)
    for rows in merged([part for piece in stated for part in folder.parts(piece, 0)]):
        mine = rows.filter(pa.array(_hashes(rows["item"]) % np.uint64(n_item_shards) == shard))
        for item, packed in zip(mine["item"].to_pylist(), mine["attributes"].to_pylist(), strict=True):
            table.set_attributes(item, msgspec.msgpack.decode(packed))
    n = len(table)
    if n:
        ids = table.ids[1:]
        partition_N = np.array([plan.keys.item_partition(item) for item in ids], dtype=np.int16)
        packed = pa.array(table.pack_all(range(1, n + 1)), pa.binary())
        rows = pa.table({"item": pa.array(ids, pa.string()), "partition": pa.array(partition_N), "row": packed})
        folder.write_piece(f"rows-{shard:06d}.arrow", rows, partition_N, 1024)
    return ItemsReport(n)


def in_time_order(plan: Plan, timed: Iterable[str]) -> Iterator[pa.Table]:
    """All good rows in time order, those of one instant as they stand in the files, some at a time."""
    folder = Folder(plan.folder)
    return merged([part for name in timed for part in folder.parts(name, 0)], plan.budget_bytes // CHECK_BYTES // 2)


def _write_timed(plan: Plan, name: str, table: pa.Table) -> str:
    """The same rows in time order, in batches of which one for each piece fits into memory."""
    if plan.is_any_order:
        table = in_order(table)
    n_pieces = len(plan.units) + plan.n_rows * CHECK_BYTES // plan.budget_bytes
    n_rows = max(256, plan.budget_bytes // (2 * CHECK_BYTES * n_pieces))
    Folder(plan.folder).write_piece(name, table, np.zeros(table.num_rows, dtype=np.int8), n_rows)
    return name


def _in_order(unit: Unit, table: pa.Table, last_ms: int) -> int:
    ts_E = table["ts_ms"].to_numpy()
    back = np.flatnonzero(np.diff(ts_E, prepend=last_ms) < 0)
    if len(back):
        row = table["row"][int(back[0])].as_py() - unit.first_row
        raise _disorder(unit, row)
    return int(ts_E[-1])


def _disorder(unit: Unit, row: int) -> BadFile:
    message = f"row {row} is earlier than the one before it: sort the file, or say --any-order"
    return BadFile(message, unit.file.url, row_group=unit.row_group, column="ts_ms")


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """hash64 of each string."""
    encoded = column.combine_chunks().dictionary_encode()
    hashes = np.fromiter(map(hash64, encoded.dictionary.to_pylist()), np.uint64, len(encoded.dictionary))
    found: NDArray[np.uint64] = hashes[encoded.indices.to_numpy()]
    return found
