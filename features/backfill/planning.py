"""What is to be folded, and how: the files of a history, row group by row group, and the archives of a log, segment by
segment.

How many shards there are follows from the memory that a step may take. The same work has the same name, whoever plans
it; so what an earlier run has made is found again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import xxhash

from features.backfill.leaving_out import ALL, Choice
from features.errors import BadFile
from features.event_files import EventFile, list_files, read_footer
from features.events import START, Positions, StreamId
from features.item_table import ItemTable
from features.keys import Keys
from features.log_files import LogFiles, segment_at
from features.schema import Schema

LAYOUT: Final = 1  # of the files between steps
PEOPLE_BYTES: Final = 1500  # for each event of a shard of people, sorted, with its shares


class Unit(msgspec.Struct, frozen=True):
    """What one step checks: a row group of events, or a segment of an archived log."""

    file: EventFile
    row_group: int
    first_row: int
    """Counted over all files."""
    n_rows: int
    archive: str = ""
    """Where the segment is one of; empty for events."""
    after: StreamId = START
    """Up to here the segment before it has the entries."""


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
    choice: Choice = ALL
    """Whose events count."""

    @property
    def keys(self) -> Keys:
        """Of the store that it is for."""
        return Keys(n_partitions=self.n_partitions)

    @property
    def name(self) -> str:
        """The same for the same work."""
        what = [LAYOUT, self.units, f"{self.schema.fingerprint:x}", self.n_partitions, self.budget_bytes]
        return str(xxhash.xxh3_64_hexdigest(msgspec.json.encode([*what, self.is_any_order, self.choice])))

    @property
    def n_rows(self) -> int:
        """Of all files."""
        return sum(unit.n_rows for unit in self.units)

    @property
    def archives(self) -> list[str]:
        """Archived logs that are a part of the history."""
        return sorted({unit.archive for unit in self.units if unit.archive})

    @property
    def cut(self) -> Positions:
        """Position of the log that the history reaches; an archive may have grown since."""
        reached: Positions = {}
        for segment in (segment_at(unit.file.url) for unit in self.units if unit.archive):
            assert segment is not None
            reached[segment.partition] = max(reached.get(segment.partition, START), segment.last)
        return reached

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


def plan_of(urls: Sequence[str], schema: Schema, n_partitions: int, folder: str, **further: Any) -> Plan:
    """Plan the fold of these files, folders and archives.

    Raises:
        BadFile, LogGap: If one is none, or there is nothing in them.
    """
    units: list[Unit] = []
    n_rows = 0
    for unit in (unit for url in urls for unit in _units_of(url)):
        units.append(msgspec.structs.replace(unit, first_row=n_rows))
        n_rows += unit.n_rows
    if not n_rows:
        raise BadFile("0 rows: there is nothing to fold", ", ".join(urls))
    return Plan(units=tuple(units), schema=schema, n_partitions=n_partitions, folder=folder, **further)


def _units_of(url: str) -> Iterator[Unit]:
    files = list_files([url])
    if not any(segment_at(file.url) for file in files):
        for footer in map(read_footer, files):
            yield from (Unit(footer.file, number, 0, n_rows) for number, n_rows in enumerate(footer.rows))
        return
    archive = LogFiles(url)
    for partition in archive.reached():
        after = START
        for segment in archive.segments_of(partition):
            reader = archive.open(segment)
            reader.close()
            yield Unit(EventFile(segment.path, 0, 0), 0, 0, reader.about.n_entries, url, after)
            after = segment.last
