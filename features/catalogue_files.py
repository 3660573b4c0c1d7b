"""Rows of a catalogue as they stand in its file: Parquet, CSV or NDJSON, one after the other, in bounded memory.

    file = open_rows(Path("items.csv"))
    for row in file.rows():
        row.values, row.fault       # a row that cannot be read has a fault, and what there was of it

CSV and NDJSON may be gzipped; the first bytes tell. Rows are counted from 0. The module does not know what the columns
mean.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InvalidInput
from features.text_rows import RawRow, TextRows, check_columns, csv_rows, json_rows

Format = Literal["parquet", "csv", "ndjson"]

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
FORMAT_OF: Final[dict[str, Format]] = {".parquet": "parquet", ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
CHUNK: Final = 1024  # rows of Parquet turned into Python objects at once
BUFFER_BYTES: Final = 1 << 20  # of each column of Parquet, instead of all that its row group has


class RowFile(Protocol):
    """A file of rows."""

    n_rows: int | None
    """How many there are; None: nobody knows before the end."""
    n_bytes: int
    """Size of the file."""

    def position_bytes(self) -> int:
        """How much of the file has been read for the rows so far."""

    def rows(self, first: int = 0) -> Iterator[RawRow]:
        """The rows from number `first` on.

        Raises:
            InvalidInput: If two columns have one name.
            OSError, EOFError, pyarrow.ArrowException, zlib.error: If the file is damaged where it has come to.
        """


def open_rows(path: Path, form: Format | None = None) -> RowFile:
    """Open a file of rows.

    Args:
        form: None: as the name ends, `.gz` left aside.
    Raises:
        InvalidInput: If the name does not tell the format.
        OSError, pyarrow.ArrowException: If there is no such file, or Parquet is not whole.
    """
    suffix = next((suffix for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "").lower()
    form = form or FORMAT_OF.get(suffix)
    if form is None:
        expected = ", ".join(FORMAT_OF)
        raise InvalidInput(f"{path}: expected a name with {expected}, perhaps with .gz; or say which --format it has")
    return ParquetRows(path) if form == "parquet" else TextRows(path, csv_rows if form == "csv" else json_rows)


class ParquetRows:
    """The rows of a Parquet file."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        self._n_done = 0
        self.n_rows: int | None = self._file.metadata.num_rows
        self.n_bytes = path.stat().st_size

    def position_bytes(self) -> int:
        """The part of the file that goes with the part of its rows."""
        return self.n_bytes * self._n_done // max(self.n_rows or 0, 1)

    def rows(self, first: int = 0) -> Iterator[RawRow]:
        """See `RowFile`; whole row groups are passed over."""
        check_columns(self._file.schema_arrow.names)
        metadata = self._file.metadata
        groups = [*range(metadata.num_row_groups)]
        start = 0
        while groups and start + metadata.row_group(groups[0]).num_rows <= first:
            start += metadata.row_group(groups.pop(0)).num_rows
        for batch in self._file.iter_batches(CHUNK, row_groups=groups):
            wanted = batch.slice(max(0, first - start))
            self._n_done = start = start + batch.num_rows
            yield from _rows(_with_text_for_instants(wanted))


def _with_text_for_instants(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same batch; Python's own instants have no nanoseconds, and no years after 9999."""
    columns = batch.columns
    for index, column in enumerate(columns):
        kind = column.type
        if not pa.types.is_temporal(kind):
            continue
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            columns[index] = column.cast(pa.timestamp(kind.unit, "UTC"))  # another zone needs a data base of zones
        columns[index] = columns[index].cast(pa.string())
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _rows(batch: pa.RecordBatch) -> Iterator[RawRow]:
    try:
        rows = batch.to_pylist()
    except ValueError as error:  # text that is not UTF-8, for one; which row has it?
        if batch.num_rows == 1:
            yield RawRow({}, str(error))
            return
        for index in range(batch.num_rows):
            yield from _rows(batch.slice(index, 1))
        return
    for values in rows:
        yield RawRow(values)
