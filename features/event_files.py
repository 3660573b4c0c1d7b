"""Files of events: which ones there are, whether they can be what they should, and their rows, slice by slice.

A history is a Parquet file, a folder of them (looked through to the bottom, in the order of their paths), or the URL of
a bucket's folder; or several of these. What a footer tells is judged for all of them before any row is read: so a
folder with one file of another kind in it is refused at once, with its name and column.

Columns are those of a replay file: `ts_ms, type, user, item`, optionally `id, decision, value, source`; every other
column is context.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds
from pyarrow import fs

from features.errors import BadFile

REQUIRED: Final = ("ts_ms", "type", "user", "item")
RESERVED: Final = frozenset({*REQUIRED, "id", "decision", "value", "source"})
SUFFIX: Final = ".parquet"


class EventFile(NamedTuple):
    """A file, by the name that a person would give it."""

    url: str
    size: int
    mtime_ms: int


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says of itself."""

    file: EventFile
    columns: tuple[str, ...]
    rows: tuple[int, ...]
    """Of each row group."""

    @property
    def n_rows(self) -> int:
        """Of all row groups."""
        return sum(self.rows)


class Slice(NamedTuple):
    """Some rows of a file that stand together."""

    file: EventFile
    row_group: int
    first: int
    """Of the rows, counted in the row group."""
    table: pa.Table


def list_files(urls: Sequence[str]) -> list[EventFile]:
    """The files that these paths or URLs name, each once.

    Raises:
        BadFile: If one names nothing, or a folder without a Parquet file.
    """
    found = {file.url: file for url in urls for file in _files_of(url)}
    return list(found.values())


def read_footer(file: EventFile) -> Footer:
    """What a file says of itself, if it can be events.

    Raises:
        BadFile: If it is no Parquet file, was cut short, or a column is missing or of a type that no event has.
    """
    with _opened(file) as parquet:
        names = parquet.schema_arrow.names
        for name in REQUIRED:
            if name not in names:
                raise BadFile(f"column is missing; expected {', '.join(REQUIRED)}", file.url, column=name)
        for field in parquet.schema_arrow:
            _check_type(file, field)
        metadata = parquet.metadata
        return Footer(file, tuple(names), tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)))


def read_footers(urls: Sequence[str]) -> list[Footer]:
    """What all files say of themselves.

    Raises:
        BadFile: As `list_files` and `read_footer`; and if they hold no row at all.
    """
    footers = [read_footer(file) for file in list_files(urls)]
    if not any(footer.n_rows for footer in footers):
        raise BadFile("0 rows: there is nothing to read", ", ".join(urls))
    return footers


def slices(file: EventFile, row_group: int, n_rows: int, columns: Sequence[str] | None = None) -> Iterator[Slice]:
    """The rows of a row group, at most so many at a time.

    Raises:
        BadFile: If they cannot be read.
    """
    with _opened(file) as parquet:
        first = 0
        batches = parquet.iter_batches(n_rows, row_groups=[row_group], columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise BadFile(f"from row {first} on: {error}", file.url, row_group=row_group) from None
            if batch is None:
                return
            yield Slice(file, row_group, first, pa.Table.from_batches([batch]))
            first += batch.num_rows


def folder_of(url: str) -> tuple[fs.FileSystem, str]:
    """The file system and path that a path or URL means."""
    if "://" in url:
        system, path = fs.FileSystem.from_uri(url)
        return system, path
    return fs.LocalFileSystem(), url


def without_account(url: str) -> str:
    """A path or URL to be shown: as it is, but without name and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


@contextmanager
def _opened(file: EventFile) -> Iterator[pq.ParquetFile]:
    system, path = folder_of(file.url)
    if file.size == 0:
        raise BadFile("0 bytes: this is no Parquet file", file.url)
    try:
        parquet = pq.ParquetFile(path, filesystem=system)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadFile(f"not to be read as Parquet, cut short perhaps: {error}", file.url) from None
    with parquet:
        yield parquet


def _files_of(url: str) -> list[EventFile]:
    try:
        system, path = folder_of(url)
        (info,) = system.get_file_info([path])
        if info.type == fs.FileType.NotFound:
            raise BadFile("there is no such file or folder", url)
        if info.type == fs.FileType.File:
            return [_file(url, info)]
        inside = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise BadFile(str(error), url) from None
    chosen = [one for one in inside if one.type == fs.FileType.File and one.path.endswith(SUFFIX)]
    if not chosen:
        raise BadFile(f"no file in it ends with {SUFFIX}", url)
    scheme, mark, _ = url.partition("://")
    prefix = f"{scheme}{mark}" if mark else ""
    return [_file(prefix + one.path, one) for one in sorted(chosen, key=lambda one: one.path)]


def _file(url: str, info: fs.FileInfo) -> EventFile:
    return EventFile(url, info.size, info.mtime_ns // 1_000_000 if info.mtime_ns else 0)


def _check_type(file: EventFile, field: pa.Field) -> None:
    name, kind = field.name, field.type
    plain = kind.value_type if kinds.is_dictionary(kind) else kind
    is_text = kinds.is_string(plain) or kinds.is_large_string(plain)
    is_number = kinds.is_integer(plain) or kinds.is_floating(plain)
    expected, fits = {
        "ts_ms": ("integers, epoch milliseconds", kinds.is_integer(plain)),
        "type": ("strings", is_text),
        "user": ("strings or integers", is_text or kinds.is_integer(plain)),
        "item": ("strings or integers", is_text or kinds.is_integer(plain)),
        "id": ("strings or integers", is_text or kinds.is_integer(plain)),
        "decision": ("strings", is_text),
        "source": ("strings", is_text),
        "value": ("numbers", is_number),
    }.get(name, ("strings, numbers or booleans", is_text or is_number or kinds.is_boolean(plain)))
    if not fits and not (kinds.is_null(plain) and name not in REQUIRED):
        raise BadFile(f"expected {expected}, got {kind}", file.url, column=name)
