"""From files to states and rows in three stages of independent steps, each of which makes files out of files.

    check 0 … check n ─► fold people 0 … n ─► fold items 0 … n
    a row group each     a shard of users     a shard of items

A step may run anywhere and any number of times: it leaves the same files, and returns a report. How many shards there
are follows from the memory that a step may take (`Plan.budget_bytes`), which bounds all steps but for one thing: what a
single person did must fit.

Who runs the steps is told elsewhere (`learners.history`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from features.backfill.checking import BadRow, check
from features.backfill.distinct import Distinct
from features.backfill.items import fold_items, merged
from features.backfill.people import fold_people, in_order
from features.backfill.pieces import Folder
from features.errors import BadFile
from features.event_files import EventFile, Footer, slices
from features.item_table import ItemTable
from features.keys import Keys
from features.schema import Schema, hash64

LAYOUT: Final = 1  # of the files between steps
CHECK_BYTES: Final = 700  # that a step takes for each row it checks at once
PEOPLE_BYTES: Final = 1500  # for each event of a shard of people, sorted, with its shares
SHARE_BYTES: Final = 250  # for each share that waits to be merged
BAD_MAX: Final = 1000  # bad rows of a step that are described


class Unit(msgspec.Struct, frozen=True):
    """A row group to check."""

    file: EventFile
    row_group: int
    first_row: int
    """Counted over all files."""
    n_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be folded, and how."""

    units: tuple[Unit, ...]
    schema: Schema
    n_partitions: int
    folder: str
    """Where what lies between steps is kept."""
    budget_bytes: int = 512 * 2**20
    """Memory that a step may take for its data."""
    is_any_order: bool = False
    """Take files that are not in time order."""

    @property
    def keys(self) -> Keys:
        """Of the store that it is for."""
        return Keys(n_partitions=self.n_partitions)

    @property
    def name(self) -> str:
        """The same for the same work."""
        what = [LAYOUT, self.units, f"{self.schema.fingerprint:x}", self.n_partitions, self.budget_bytes]
        return str(xxhash.xxh3_64_hexdigest(msgspec.json.encode([*what, self.is_any_order])))

    @property
    def n_rows(self) -> int:
        """Of all files."""
        return sum(unit.n_rows for unit in self.units)

    @property
    def n_user_shards(self) -> int:
        """Shards of users: as many as keep each within the budget, and two for each of some cores."""
        return max(8, -(-self.n_rows * PEOPLE_BYTES // self.budget_bytes))

    def n_item_shards(self, n_items: int) -> int:
        """Shards of items, if there are about so many."""
        one = ItemTable(self.schema, 2)
        row_bytes = int(one.fixed.itemsize + one.successors[0].nbytes)
        return max(8, -(-n_items * row_bytes * 4 // self.budget_bytes))  # doubling copies half of them; then packed

    def where(self, row: int) -> Unit:
        """The row group of a row that is counted over all files."""
        return next(unit for unit in reversed(self.units) if unit.first_row <= row)

    def place(self, row: int) -> str:
        """The same in words, with the row counted in its row group."""
        unit = self.where(row)
        return f"{unit.file.url}, row group {unit.row_group}, row {row - unit.first_row}"


class CheckReport(msgspec.Struct):
    """What a row group turned out to hold."""

    n_rows: int
    n_bad: int
    bad: list[BadRow]
    first_ms: int
    last_ms: int
    pieces: list[str]
    timed: list[str]
    """Pieces of the same rows in time order."""
    distinct_items: bytes


class PeopleReport(msgspec.Struct):
    """What a shard of users came to."""

    n_users: int
    n_events: int
    duplicates: list[int]
    """Rows that say again what another one has said."""


class ItemsReport(msgspec.Struct):
    """What a shard of items came to."""

    n_items: int


def plan_of(footers: Sequence[Footer], schema: Schema, n_partitions: int, folder: str, **further: Any) -> Plan:
    """Plan the fold of these files."""
    units: list[Unit] = []
    first_row = 0
    for footer in footers:
        for row_group, n_rows in enumerate(footer.rows):
            units.append(Unit(footer.file, row_group, first_row, n_rows))
            first_row += n_rows
    return Plan(units=tuple(units), schema=schema, n_partitions=n_partitions, folder=folder, **further)


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
        if report.n_rows and not plan.is_any_order:
            if report.first_ms < last_ms.get(unit.file.url, 0):
                raise _disorder(unit, 0)
            last_ms[unit.file.url] = report.last_ms
    if not any(report.n_rows for report in checks):
        raise BadFile("0 rows: there is nothing to fold", plan.units[0].file.url)


def n_items_in(checks: Iterable[CheckReport]) -> int:
    """How many items there are in all row groups, about."""
    distinct = Distinct()
    for report in checks:
        distinct.merge(report.distinct_items)
    return distinct.count()


def check_unit(plan: Plan, number: int) -> CheckReport:
    """Judge a row group, and divide its good rows among the shards of users.

    Raises:
        BadFile: If it cannot be read, or is not in time order.
    """
    unit, folder = plan.units[number], Folder(plan.folder)
    distinct = Distinct()
    pieces: list[str] = []
    timed: list[str] = []
    bad: list[BadRow] = []
    n_rows = n_bad = 0
    first_ms = last_ms = 0
    for part in slices(unit.file, unit.row_group, max(1000, plan.budget_bytes // CHECK_BYTES)):
        checked = check(part.table, plan.schema, plan.keys, unit.first_row + part.first)
        n_bad += len(checked.bad)
        bad += checked.bad[: BAD_MAX - len(bad)]
        table = checked.table
        if not table.num_rows:
            continue
        last_ms = last_ms if plan.is_any_order else _in_order(unit, table, last_ms)
        first_ms = first_ms or table["ts_ms"][0].as_py()
        n_rows += table.num_rows
        distinct.add(_hashes(table["item"]))
        pieces.append(f"checked-{number:06d}-{len(pieces):04d}.arrow")
        shard_E = _hashes(table["user"]) % np.uint64(plan.n_user_shards)
        folder.write_piece(pieces[-1], table, shard_E, table.num_rows)
        timed.append(_write_timed(plan, f"timed-{number:06d}-{len(timed):04d}.arrow", table))
    return CheckReport(n_rows, n_bad, bad, first_ms, last_ms, pieces, timed, distinct.pack())


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


def fold_item_shard(plan: Plan, shard: int, pieces: Sequence[str]) -> ItemsReport:
    """Fold what the items of a shard took."""
    folder = Folder(plan.folder)
    parts = [part for piece in pieces for part in folder.parts(piece, shard)]
    table = fold_items(parts, plan.schema, plan.budget_bytes // SHARE_BYTES // 2)
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
