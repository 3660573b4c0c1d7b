"""The archive of the log: segments in a folder or bucket, found by their names alone.

    date=2026-11-27/partition=0007/<after>_<last>.parquet      positions as ms-seq, padded with zeros

`date` is the UTC day of the first entry; a segment may reach into later days. A name says both ends, so a file of one
name holds the same entries whoever wrote it, and writing it again changes nothing. Segments of two archivers that did
not know of each other may overlap: all of them are true, and readers pass over what they have. One that lies within
another is none, and is removed with time.

Files appear whole, and nothing goes from one but what is erased (`features.archive_erasing`). What a file claims is
checked as it is read (`features.log_segments`).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, NamedTuple

import pyarrow as pa
from pyarrow import fs

from features.errors import BadFile, FilesUnavailable, LogGap
from features.event_files import SUFFIX, folder_of, without_account
from features.events import START, Entry, Positions, StreamId
from features.log_segments import Segment, SegmentReader, rewrite_segment, write_segment
from features.schema import Schema
from features.whole_files import make_folder, whole_file

LOT: Final = 1000  # entries read at once
_NAME: Final = re.compile(
    r"(?:.*/)?date=\d{4}-\d{2}-\d{2}/partition=(\d+)/(\d+)-(\d+)_(\d+)-(\d+)\.parquet", re.ASCII | re.DOTALL
)


class _Place(NamedTuple):
    """Where a reader of a partition is: the file, and the entries of the row group."""

    reader: SegmentReader
    number: int
    entries: list[Entry]


class LogFiles:
    """Segments under a folder or the URL of a bucket's folder; it is made with the first of them.

    What is there is looked up once, and again by `look`; what is written here is known without.

    Raises:
        FilesUnavailable: Where a method lists or writes, if the folder does not do it.
    """

    def __init__(self, url: str) -> None:
        self.url = without_account(url)
        try:
            self._fs, path = folder_of(url)
        except (OSError, pa.ArrowException) as error:
            raise BadFile(str(error), self.url) from None
        self._root = path.rstrip("/") or "/"
        self._found: dict[int, list[Segment]] | None = None
        self._whole: set[int] = set()
        """Partitions in which no segment is missing."""
        self._inner: list[str] = []
        self._made: set[str] = set()
        self._places: dict[int, _Place] = {}

    def write(self, entries: Sequence[Entry], after: StreamId, schema: Schema) -> Segment:
        """Write a segment; when this returns it is there for good.

        Args:
            entries: Of one partition, in log order, at least one; all that the log has between `after` and the last.
        """
        partition, last = entries[0].partition, entries[-1].id
        date = datetime.fromtimestamp(entries[0].id.ms / 1000, UTC).date()
        folder = f"{self._root}/date={date}/partition={partition:04d}"
        segment = Segment(partition, after, last, f"{folder}/{_padded(after)}_{_padded(last)}{SUFFIX}")
        with self._asked():
            if folder not in self._made:
                make_folder(self._fs, folder, self._root)
                self._made.add(folder)
            with whole_file(self._fs, segment.path, is_synced=True) as file:
                write_segment(file, entries, after, schema)
        if self._found is not None:
            self._found[partition] = _outermost([*self._found.get(partition, []), segment])
            self._whole.discard(partition)
        return segment

    def look(self) -> None:
        """See what is there now.

        Raises:
            BadFile: If a Parquet file is no segment, by its name.
        """
        found: dict[int, list[Segment]] = {}
        for path in self._paths():
            segment = segment_at(path)
            if segment is None:
                raise BadFile("expected …/date=…/partition=…/<after>_<last>.parquet: this is no segment of a log", path)
            found.setdefault(segment.partition, []).append(segment)
        self._whole.clear()
        self._found = {partition: _outermost(segments) for partition, segments in sorted(found.items())}
        kept = {segment.path for segments in self._found.values() for segment in segments}
        self._inner = [segment.path for segments in found.values() for segment in segments if segment.path not in kept]

    def segments(self) -> list[Segment]:
        """Every segment, in order of partition and position.

        Raises:
            BadFile, LogGap: As `look` and `segments_of`.
        """
        return [segment for partition in self._all() for segment in self.segments_of(partition)]

    def segments_of(self, partition: int) -> list[Segment]:
        """The segments of a partition; each begins where the one before ends, or earlier.

        Raises:
            LogGap: If one is missing between them.
        """
        segments = self._all().get(partition, [])
        if partition not in self._whole:
            for one, other in pairwise(segments):
                if other.after > one.last:
                    raise LogGap(partition, one.last, other.after, f"are missing in {self.url}: a file is gone")
            self._whole.add(partition)
        return segments

    def reached(self) -> Positions:
        """The last position of every partition that has a segment.

        Raises:
            BadFile, LogGap: As `segments`.
        """
        return {partition: self.reached_of(partition) for partition in self._all()}

    def begin_of(self, partition: int) -> StreamId | None:
        """Where a partition begins; None if it has no segment.

        Raises:
            BadFile, LogGap: As `segments_of`.
        """
        segments = self.segments_of(partition)
        return segments[0].after if segments else None

    def reached_of(self, partition: int) -> StreamId:
        """The last position of a partition; `START` if it has no segment.

        Raises:
            BadFile, LogGap: As `segments_of`.
        """
        segments = self.segments_of(partition)
        return segments[-1].last if segments else START

    def read(self, partition: int, after: StreamId, count: int) -> list[Entry]:
        """The entries after a position, at most so many; fewer only where the segments end.

        Raises:
            LogGap: If the segments begin later, or one is missing.
            BadFile: If one is not what it was when it was written.
        """
        try:
            return self._read(partition, after, count)
        except BadFile:  # perhaps it was rewritten while it was open, as in an erasure, or is not kept any more
            self._close(partition)
            self.look()
            return self._read(partition, after, count)

    def _read(self, partition: int, after: StreamId, count: int) -> list[Entry]:
        entries: list[Entry] = []
        for group in self._groups(partition, after):
            start = bisect_right(group, after, key=lambda entry: entry.id)
            entries += group[start : start + count - len(entries)]
            if len(entries) == count:
                return entries
            after = group[-1].id
        self._close(partition)  # at its end nothing is held of what was read
        return entries

    def entries(self, partition: int) -> Iterator[Entry]:
        """Every entry of a partition, in order.

        Raises:
            BadFile, LogGap: As `read`.
        """
        segments = self.segments_of(partition)
        after = segments[0].after if segments else START
        while lot := self.read(partition, after, LOT):
            yield from lot
            after = lot[-1].id

    def verify(self, segment: Segment) -> int:
        """Read all of a segment; returns the number of entries.

        Raises:
            BadFile: If it is not what it was when it was written.
        """
        reader = self.open(segment)
        try:
            return sum(map(len, reader.entries()))
        finally:
            reader.close()

    def open(self, segment: Segment) -> SegmentReader:
        """A reader of a segment, to be closed.

        Raises:
            BadFile: If its footer is not that of this segment.
        """
        try:
            source = self._fs.open_input_file(segment.path)
        except (OSError, pa.ArrowException) as error:
            raise BadFile(f"not to be opened: {error}", segment.path) from None
        try:
            return SegmentReader(source, segment)
        except BadFile:
            source.close()
            raise

    def rewrite(self, segment: Segment, keeps: Callable[[Entry], bool]) -> None:
        """Put a file in a segment's place that lacks entries; what it reaches to stays, and it is there for good.

        Raises:
            BadFile: If it is not what it was when it was written.
        """
        reader = self.open(segment)
        try:
            with self._asked(), whole_file(self._fs, segment.path, is_synced=True) as file:
                rewrite_segment(file, reader, keeps)
        finally:
            reader.close()

    def drop_inner(self) -> None:
        """Remove the files whose entries are all in another one; safe, whoever does the same at the same time."""
        self.look()
        self.drop(self._inner)

    def unfinished(self) -> dict[str, float]:
        """Files that are being written, or were when their writer died; seconds of the epoch of their last change."""
        begun = [info for info in self._files() if info.base_name.startswith(".")]
        return {info.path: info.mtime_ns / 1e9 for info in begun}

    def drop(self, paths: Iterable[str]) -> None:
        """Remove files; safe, whoever does the same."""
        for path in paths:
            with self._asked(), suppress(FileNotFoundError):
                self._fs.delete_file(path)

    def close(self) -> None:
        """Close the files that are being read."""
        for partition in list(self._places):
            self._close(partition)

    def _close(self, partition: int) -> None:
        place = self._places.pop(partition, None)
        if place is not None:
            place.reader.close()

    def _groups(self, partition: int, after: StreamId) -> Iterator[list[Entry]]:
        """Row groups, from the one on that holds the first entry after a position."""
        segments = self.segments_of(partition)
        if segments and segments[0].after > after:
            why = f"are not in {self.url}: the archive begins after them"
            raise LogGap(partition, after, segments[0].after, why)
        first = bisect_right(segments, after, key=lambda segment: segment.last)
        for segment in segments[first:]:
            reader = self._reader(segment)
            groups = reader.about.groups
            for number in range(bisect_right(groups, after, key=lambda group: group.last), len(groups)):
                yield self._group(reader, number)

    def _reader(self, segment: Segment) -> SegmentReader:
        place = self._places.get(segment.partition)
        if place is not None:
            if place.reader.segment == segment:
                return place.reader
            self._close(segment.partition)
        reader = self.open(segment)
        self._places[segment.partition] = _Place(reader, -1, [])
        return reader

    def _group(self, reader: SegmentReader, number: int) -> list[Entry]:
        partition = reader.segment.partition
        if self._places[partition].number != number:
            self._places[partition] = _Place(reader, number, reader.group(number))
        return self._places[partition].entries

    def _all(self) -> dict[int, list[Segment]]:
        if self._found is None:
            self.look()
        assert self._found is not None
        return self._found

    def _paths(self) -> list[str]:
        """Of all Parquet files, but for those that are being written."""
        finished = [info for info in self._files() if not info.base_name.startswith(".")]
        return [info.path for info in finished if info.path.endswith(SUFFIX)]

    def _files(self) -> list[fs.FileInfo]:
        with self._asked():
            infos = self._fs.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        return [info for info in infos if info.type == fs.FileType.File]

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise FilesUnavailable(f"{self.url}: {error}") from error


def segment_at(path: str) -> Segment | None:
    """The segment that a path names; None if it names none."""
    named = _NAME.fullmatch(path)
    if named is None:
        return None
    partition, *ends = map(int, named.groups())
    return Segment(partition, StreamId(*ends[:2]), StreamId(*ends[2:]), path)


def _padded(position: StreamId) -> str:
    return f"{position.ms:015d}-{position.seq:010d}"


def _outermost(segments: list[Segment]) -> list[Segment]:
    """Those that lie in no other one, in order: both ends rise."""
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda one: (one.after, -one.last.ms, -one.last.seq)):
        if not kept or segment.last > kept[-1].last:
            kept.append(segment)
    return kept
