"""Rows of CSV and NDJSON, plain or gzipped, read line by line: a line that makes no sense costs that line.

CSV is read by the standard library and not by pyarrow, where a stray quote ends the file. A quote that is never closed
would still take the lines behind it along: they are given back, and only the line that opened it is lost.

The module does not know what the columns mean. Its price: to go on at a later row, those before it are parsed again.
"""

import csv
import gzip
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from features.decoding import decoder
from features.errors import InvalidInput

LINE_BYTES: Final = 1 << 20  # no request can hold more
SHOWN_BYTES: Final = 4096  # of a line that cannot be read
GZIP_MAGIC: Final = b"\x1f\x8b"
BOM: Final = b"\xef\xbb\xbf"
_decode = decoder(msgspec.json, object)


class RawRow(NamedTuple):
    """A row by its columns; what is missing is None, or not there."""

    values: dict[str, Any]
    fault: str = ""
    """Why it cannot be read; `values` then shows what there was."""


class TextRows:
    """The rows of a text file; a `RowFile` of `features.catalogue_files`.

    Args:
        parse: Makes rows of lines: `csv_rows` or `json_rows`.
    """

    def __init__(self, path: Path, parse: Callable[[Iterator[bytes]], Iterator[RawRow]]) -> None:
        self._path = path
        self._parse = parse
        self._raw: BinaryIO | None = None
        self._is_done = False
        self.n_rows: int | None = None
        self.n_bytes = path.stat().st_size

    def position_bytes(self) -> int:
        """How far the file has been read, ahead of the rows by a buffer."""
        if self._is_done:
            return self.n_bytes
        return self._raw.tell() if self._raw is not None and not self._raw.closed else 0

    def rows(self, first: int = 0) -> Iterator[RawRow]:
        """The rows from number `first` on; a header and blank lines do not count."""
        with self._path.open("rb") as self._raw:
            is_packed = self._raw.peek(2)[:2] == GZIP_MAGIC
            with gzip.open(self._raw) if is_packed else self._raw as stream:
                for number, row in enumerate(self._parse(_lines(stream))):
                    if number >= first:
                        yield row
        self._is_done = True


def _lines(stream: Any) -> Iterator[bytes]:
    """Lines without a byte order mark; one that is too long comes in pieces."""
    line = stream.readline(LINE_BYTES).removeprefix(BOM)
    while line:
        yield line
        line = stream.readline(LINE_BYTES)


def json_rows(lines: Iterator[bytes]) -> Iterator[RawRow]:
    """An object a line."""
    is_inside = False
    for line in lines:
        is_first, is_inside = not is_inside, len(line) == LINE_BYTES and not line.endswith(b"\n")
        if is_first and line.strip():
            yield _shown(line, f"Expected less than {LINE_BYTES} bytes") if is_inside else _json_row(line)


def _json_row(line: bytes) -> RawRow:
    try:
        values = _decode(line)
    except msgspec.DecodeError as error:
        return _shown(line, str(error))
    return RawRow(values) if isinstance(values, dict) else _shown(line, "Expected an object")


def csv_rows(lines: Iterator[bytes]) -> Iterator[RawRow]:
    """Cells under a header; empty ones are missing, and so are those without a name.

    Raises:
        InvalidInput: If the header cannot be read, or two columns have one name.
    """
    feed = _Feed(lines)
    reader = csv.reader(feed, strict=True)
    names: list[str] = []
    while True:
        feed.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not names:
                raise InvalidInput(f"the header cannot be read: {error}") from None
            yield _shown(feed.give_back(), str(error))
            continue
        if cells and names:
            yield _csv_row(names, cells)
        elif cells:
            check_columns(names := cells)


class _Feed:
    """Lines for the reader, which takes as many as a row has."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._given_back: deque[bytes] = deque()
        self.taken: list[bytes] = []
        """Of the row that is being read."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        self.taken.append(line)
        return line.decode(errors="surrogateescape")

    def give_back(self) -> bytes:
        """Return the first line of the row; the others will come again."""
        self._given_back.extendleft(reversed(self.taken[1:]))
        return self.taken[0]


def _csv_row(names: list[str], cells: list[str]) -> RawRow:
    fault = "" if len(cells) == len(names) else f"Expected {len(names)} cells, got {len(cells)}"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        fault = "Expected UTF-8"
        cells = [cell.encode(errors="surrogateescape").decode(errors="replace") for cell in cells]
    if fault:
        return RawRow({"cells": cells}, fault)
    return RawRow({name: cell or None for name, cell in zip(names, cells, strict=True) if name})


def _shown(line: bytes, fault: str) -> RawRow:
    return RawRow({"line": line[:SHOWN_BYTES].decode(errors="replace").rstrip("\r\n")}, fault)


def check_columns(names: list[str]) -> None:
    """Refuse names of columns that are not distinct.

    Raises:
        InvalidInput: With the name.
    """
    twice = next((name for index, name in enumerate(names) if name and name in names[:index]), None)
    if twice is not None:
        raise InvalidInput(f"column {twice!r} is there twice")
