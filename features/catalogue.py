"""A catalogue: a file of items with an attribute a column, its values typed by the schema.

    catalogue = Catalogue(Path("items.csv"), schema)
    for row in catalogue.rows():                # a CatalogueRow, or Rejected with the reason
        ...

A row means the same in Parquet, CSV and NDJSON. `item` names the item, or `id` where no column is called so; integers
become decimal strings. What is missing is left out: null, NaN, an empty cell. A declared number may be written as text;
tags may be one text, to be split, or a list; integers among tags, or declared as a category, become text. What is not
declared is carried for display as it is, or as JSON where the wire has no such kind of value.

The module knows no server: what it lets through one may still refuse, if it runs under another schema.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from features.catalogue_files import Format, open_rows
from features.errors import InvalidInput
from features.events import WHOLE, Scalar, check_attributes, check_id
from features.schema import AttributeKind, Schema
from features.text_rows import RawRow

ID_COLUMNS: Final = ("item", "id")
TAG_SEPARATOR: Final = "|"
PEEK: Final = 1024  # rows looked at to see that this is a catalogue

encode: Final = msgspec.json.Encoder(enc_hook=str).encode
"""JSON of whatever a row may hold."""


class CatalogueRow(NamedTuple):
    """An item and its attributes, ready for the wire."""

    number: int
    """Where it stands in its file, from 0."""
    id: str
    attributes: dict[str, Scalar | list[str]]
    values: dict[str, Any]
    """The row as it stands in the file."""


class Rejected(NamedTuple):
    """A row that cannot be loaded."""

    number: int
    reason: str
    column: str
    """The one to blame; empty: the whole row."""
    values: dict[str, Any]
    """The row as it stands in the file, as far as it could be read."""

    def __str__(self) -> str:
        where = f"row {self.number}, column {self.column!r}" if self.column else f"row {self.number}"
        return f"{where}: {self.reason}"


class Catalogue:
    """A file of items, open for reading.

    Args:
        form: None: as the name ends.
        tag_separator: Stands between tags that are one text.
    Raises:
        InvalidInput: If it cannot be read, has no rows, or no column of ids; with the file's name.
    """

    def __init__(
        self, path: Path, schema: Schema, *, form: Format | None = None, tag_separator: str = TAG_SEPARATOR
    ) -> None:
        self._path = path
        self._declared = schema.item_attributes
        self._kinds = {attribute.name: attribute.kind for attribute in schema.item_attributes}
        self._separator = tag_separator
        with _readable(path):
            self._file = open_rows(path, form)
            self.id_column = _id_column(list(islice(self._file.rows(), PEEK)))
        self.n_rows, self.n_bytes = self._file.n_rows, self._file.n_bytes

    def position_bytes(self) -> int:
        """How much of the file has been read for the rows so far."""
        return self._file.position_bytes()

    def rows(self, first: int = 0) -> Iterator[CatalogueRow | Rejected]:
        """The rows from number `first` on, in the order of the file.

        Raises:
            InvalidInput: If the file is damaged; with its name and the first row that cannot be had.
        """
        number = first
        with _readable(self._path, lambda: f"row {number} and what follows: "):
            for raw in self._file.rows(first):
                yield self._row(number, raw)
                number += 1

    def reject(self, row: CatalogueRow, reason: str, path: str) -> Rejected:
        """The row as one that was refused.

        Args:
            path: Where, as the checks of `features.events` give it: `$.attributes.price`.
        """
        return Rejected(row.number, reason, self._column(path), row.values)

    def _row(self, number: int, raw: RawRow) -> CatalogueRow | Rejected:
        values = raw.values
        if raw.fault:
            return Rejected(number, raw.fault, "", values)
        try:
            name = _id(values.get(self.id_column))
            attributes: dict[str, Scalar | list[str]] = {
                column: typed
                for column, value in values.items()
                if column != self.id_column and (typed := self._typed(column, value)) is not None
            }
            check_attributes(attributes, self._declared)
        except InvalidInput as error:
            return Rejected(number, error.message, self._column(error.path), values)
        return CatalogueRow(number, name, attributes, values)

    def _column(self, path: str) -> str:
        return self.id_column if path == "$.id" else path.partition("$.attributes.")[2]

    def _typed(self, column: str, value: Any) -> Scalar | list[str]:
        try:
            return _as_kind(self._kinds.get(column), _plain(value), self._separator)
        except ValueError as error:
            raise InvalidInput(str(error), f"$.attributes.{column}") from None


@contextmanager
def _readable(path: Path, where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Names the file in whatever is wrong with it."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.message if str(path) in error.message else f"{path}: {error.message}") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, pa.ArrowException) as error:
        raise InvalidInput(f"{path}: {where()}{error}") from None


def _id_column(rows: list[RawRow]) -> str:
    """The column that names the item, for the whole file."""
    if not rows:
        raise InvalidInput("there are no rows")
    whole = [row for row in rows if not row.fault]
    if not whole:
        raise InvalidInput(f"none of the first {len(rows)} rows can be read: {rows[0].fault}")
    names = dict.fromkeys(name for row in whole for name in row.values)
    found = next((name for name in ID_COLUMNS if name in names), None)
    if found is None:
        raise InvalidInput(f"column 'item' (or 'id') is missing, got {', '.join(names)}")
    return found


def _id(value: Any) -> str:
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if value is None:
        raise InvalidInput("Expected an id, got none", "$.id")
    try:
        name = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise InvalidInput("Expected UTF-8", "$.id") from None
    if not isinstance(name, str):
        raise InvalidInput(f"Expected text or an integer, got {value!r:.64}", "$.id")
    check_id(name, "$.id")
    return name


def _plain(value: Any) -> Any:
    """The value as JSON knows it; None: missing."""
    if isinstance(value, bytes):
        return value.decode()  # a UnicodeDecodeError is a ValueError
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise ValueError(f"Expected a finite number, got {value}")
    return value


def _as_kind(kind: AttributeKind | None, value: Any, separator: str) -> Scalar | list[str]:
    """The value as it is declared; one of another kind is left for `check_attributes` to refuse."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None:
        return None
    if kind is None:
        return _displayed(value)
    if kind == "number":
        return _number(value) if isinstance(value, str) or is_whole else value
    if kind == "tags":
        return _tags(value, separator) or None
    return str(value) if is_whole else value


def _number(value: str | int) -> float:
    """Digits as people write them in tables: no underscores, and none but Arabic ones."""
    try:
        number = float(value) if isinstance(value, int) or (value.isascii() and "_" not in value) else None
    except (ValueError, OverflowError):
        number = None
    if number is None:
        raise ValueError(f"Expected a number, got {value!r:.64}")
    if not math.isfinite(number):
        raise ValueError(f"Expected a finite number, got {value!r:.64}")
    return number


def _tags(value: Any, separator: str) -> Any:
    if isinstance(value, str):
        return [tag for part in value.split(separator) if (tag := part.strip())]
    if not isinstance(value, list):
        return value
    tags = [str(tag) if isinstance(tag, int) and not isinstance(tag, bool) else tag for tag in value]
    wrong = [tag for tag in tags if not isinstance(tag, str)]
    if wrong:
        raise ValueError(f"Expected tags, got {wrong[0]!r:.64} among them")
    return tags


def _displayed(value: Any) -> Scalar | list[str]:
    if isinstance(value, str | bool | float) or (isinstance(value, int) and value in WHOLE):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    return encode(value).decode()
