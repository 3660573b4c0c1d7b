"""The archive follows the log: entries are collected, and written as segments, each entry once.

    read ─► collect ─► a segment is due ─► its file is durable ─► the position moves, if it is where it was left

The position is that of the log's reader `archive`: nothing after it is trimmed. Who dies between file and position
finds the file when he begins again, and goes on behind it. Of two archivers the one whose position was moved by the
other stops; a file that it has written by then holds what its name says, as all of them do, and harms nobody.

An archive begins with what the log still has. From then on nothing may be missing: entries that are gone before they
were archived are an error, and so is a folder that does not reach to where the position says that it does.

No clock is asked and nobody waits here; memory is bounded by `ArchiveLimits`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from features.errors import LogGap, ReaderMoved
from features.events import BEYOND, START, Entry, Positions, StreamId
from features.log_files import LogFiles
from features.log_segments import Segment, size_of
from features.store import BulkStore, FeatureStore

READER: Final = "archive"
READ_COUNT: Final = 64  # entries per partition when all are read, a few megabytes
LOT: Final = 1000  # entries of one partition: a few milliseconds of the server, which answers nobody else meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLimits:
    """When a segment is closed."""

    segment_bytes: int = 32 << 20
    """At this size, as the log has it; a file is a fraction of it."""
    segment_entries: int = 1 << 16
    """Or at this number of entries."""
    age_s: float = 900.0
    """Or when it was begun so long ago: how long entries stay in the store for the archive's sake."""
    memory_bytes: int = 256 << 20
    """If all open segments are larger, the largest is closed."""


@dataclass(slots=True)
class _Open:
    """A segment that is being collected."""

    since_s: float
    entries: list[Entry] = field(default_factory=list)
    n_bytes: int = 0


class Archiver:
    """Call `open`, then `advance` in a loop, and `flush` at the end; after any error `open` again.

    Instants are of a monotonic clock, in seconds.
    """

    def __init__(
        self, store: FeatureStore, bulk: BulkStore, files: LogFiles, limits: ArchiveLimits | None = None
    ) -> None:
        self._store = store
        self._bulk = bulk
        self._files = files
        self._limits = limits or ArchiveLimits()
        self._open: dict[int, _Open] = {}
        self._read: Positions = {}
        self.reached: Positions = {}
        """What is in durable files."""
        self.n_entries = self.n_segments = 0
        """Written by this archiver."""

    @property
    def oldest_ms(self) -> int | None:
        """Log time of the oldest entry that is collected and in no file yet; None if there is none."""
        return min((opened.entries[0].id.ms for opened in self._open.values()), default=None)

    def read_to(self, partition: int) -> StreamId:
        """Up to where a partition is read; in a file or not."""
        return self._read.get(partition, START)

    async def open(self) -> None:
        """Find where to go on; what was collected is read again.

        Raises:
            LogGap: If entries are gone that were not archived, or the folder is not the one of before.
            BadFile: If the folder holds what is no segment, or a damaged one that the position has not passed.
        """
        self._open, self._read, self.reached = {}, {}, {}
        await asyncio.to_thread(self._files.drop_inner)
        stored = await self.check()
        if stored is None:
            stored = {}
            await self._bulk.note_reader(READER, stored)
        self.reached = await self._adopt(stored)
        self._read = dict(self.reached)
        for partition, gone in (await self._bulk.trimmed()).items():
            self._check_gap(partition, gone)

    async def check(self) -> Positions | None:
        """See that the folder belongs to this log, and leave no trace; where its archive is, None if there is none yet.

        Raises:
            LogGap, BadFile: As `open`.
        """
        stored = (await self._bulk.readers()).get(READER)
        await asyncio.to_thread(self._files.look)  # after that: another archiver moves it once its file is there
        if stored is None:
            await self._check_same_log()
        else:
            self._check_folder(stored)
        return stored

    async def advance(self, now_s: float) -> int:
        """Read what has come, and write the segments that are due; returns the number of entries read."""
        entries = await self._store.read_log(self._read, count=READ_COUNT)
        lots: dict[int, list[Entry]] = {}
        for entry in entries:
            lots.setdefault(entry.partition, []).append(entry)
        for lot in lots.values():
            self._collect(lot, now_s)
        n_entries = len(entries)
        behind = [partition for partition, lot in lots.items() if len(lot) >= READ_COUNT]
        heads = await self._store.heads() if behind else {}
        for partition in behind:
            while self._read[partition] < heads[partition] and (n := await self.read_on(partition, now_s)):
                n_entries += n
        for partition in [p for p, opened in self._open.items() if now_s - opened.since_s >= self._limits.age_s]:
            await self.close(partition)
        await self._make_room()
        return n_entries

    async def read_on(self, partition: int, now_s: float) -> int:
        """Read some entries of one partition; returns how many, 0 at its end."""
        elsewhere = {other: BEYOND for other in range(self._store.keys.n_partitions) if other != partition}
        lot = await self._store.read_log({**elsewhere, partition: self.read_to(partition)}, count=LOT)
        if lot:
            self._collect(lot, now_s)
            await self._make_room()
        return len(lot)

    async def close_to(self, position: StreamId) -> None:
        """Write what is collected of the partitions of which no file reaches to a position."""
        for partition in [p for p in self._open if self.reached.get(p, START) < position]:
            await self.close(partition)

    async def flush(self) -> None:
        """Write what is collected."""
        for partition in list(self._open):
            await self.close(partition)

    async def close(self, partition: int) -> None:
        """Write what is collected of a partition.

        Raises:
            ReaderMoved: If another archiver is at work.
            LogGap: If entries went before they were archived.
            FilesUnavailable: If the file cannot be written.
        """
        opened = self._open.get(partition)
        if opened is None:
            return
        expected = self.reached.get(partition, START)
        await self._check_position(partition, expected)
        after, entries = await self._whole(partition, expected, opened.entries)
        if entries:
            segment = await asyncio.to_thread(self._files.write, entries, after, self._store.schema)
            await self._bulk.advance_reader(READER, {partition: expected}, {partition: segment.last})
            self.reached[partition] = segment.last
            self.n_segments += 1
            self.n_entries += len(entries)
        del self._open[partition]

    def _collect(self, lot: Sequence[Entry], now_s: float) -> None:
        partition = lot[0].partition
        opened = self._open.setdefault(partition, _Open(now_s))
        opened.entries += lot
        opened.n_bytes += sum(map(size_of, lot))
        self._read[partition] = lot[-1].id

    async def _make_room(self) -> None:
        """Close what is large enough, and the largest while all together are too large."""
        limits = self._limits
        for partition, opened in list(self._open.items()):
            if opened.n_bytes >= limits.segment_bytes or len(opened.entries) >= limits.segment_entries:
                await self.close(partition)
        while sum(opened.n_bytes for opened in self._open.values()) > limits.memory_bytes:
            await self.close(max(self._open, key=lambda partition: self._open[partition].n_bytes))

    async def _whole(self, partition: int, expected: StreamId, entries: list[Entry]) -> tuple[StreamId, list[Entry]]:
        """Where a segment begins, and its entries: asked after they were read, so that none of them can be missing.

        Where nothing is archived yet, the archive begins behind what is gone.
        """
        gone = (await self._bulk.trimmed()).get(partition, START)
        if expected == START:
            return gone, [entry for entry in entries if entry.id > gone]
        self._check_gap(partition, gone)
        return expected, entries

    def _check_gap(self, partition: int, gone: StreamId) -> None:
        reached = self.reached.get(partition, START)
        if START < reached < gone:
            raise LogGap(partition, reached, gone, "were trimmed before they were archived")

    async def _check_position(self, partition: int, expected: StreamId) -> None:
        """Notice another archiver before a file is written, if it was here first."""
        stored = (await self._bulk.readers()).get(READER, {}).get(partition, START)
        if stored != expected:
            where = f"partition {partition} is at {stored}, expected {expected}"
            raise ReaderMoved(f"another archiver is at work, or this one was forgotten: {where}")

    async def _check_same_log(self) -> None:
        """A store that has no archive may still have had one; a log that is behind its archive is another log."""
        heads = await self._store.heads()
        for partition, reached in self._files.reached().items():
            head = heads.get(partition, START)
            if reached > head:
                why = f"are in {self._files.url}, which is the archive of another log; take another folder"
                raise LogGap(partition, head, reached, why)

    def _check_folder(self, stored: Positions) -> None:
        """See that the folder goes on from where the position says that the archive is, or reaches just there."""
        reached = self._files.reached()
        for partition, position in stored.items():
            end = reached.get(partition, START)
            if end < position and (end > START or not reached):
                why = f"were archived, but not to {self._files.url}, or their file is gone"
                raise LogGap(partition, end, position, why)
            if end > position > START and (begin := self._files.segments_of(partition)[0].after) > position:
                raise LogGap(partition, position, begin, f"are not in {self._files.url}, but later ones are")

    async def _adopt(self, stored: Positions) -> Positions:
        """Go on behind files whose writer died before the position moved."""
        ahead = {p: last for p, last in self._files.reached().items() if last > stored.get(p, START)}
        for partition in ahead:
            for segment in self._files.segments_of(partition):
                if segment.last > stored.get(partition, START):
                    await self._verify(segment)
        if ahead:
            await self._bulk.advance_reader(READER, {p: stored.get(p, START) for p in ahead}, ahead)
        return {**stored, **ahead}

    async def _verify(self, segment: Segment) -> None:
        await asyncio.to_thread(self._files.verify, segment)
