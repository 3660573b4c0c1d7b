"""Attributes of items or users from a table: ids, an attribute a column, and perhaps when they became known.

    item   ts_ms            category   tags               price
    b      1506826800026    sport      [tennis, final]    (missing)

Integer ids become decimal strings. What is missing (null, or NaN) is left out, as if it had not been sent. A row
without `ts_ms` was known before the first event.

What is declared is judged by the schema where rows become records (`features.intake`); here only that ids, instants and
kinds of values are such as could have come over the wire. Rows are counted from 0, as they stand in the table.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InvalidInput
from features.events import Scalar, check_time
from features.schema import Entity

CHUNK: Final = 1024  # rows turned into Python objects at once


class AttributeRow(NamedTuple):
    """What one row of a table says."""

    ts_ms: int
    """When it became known; 0: before the first event."""
    entity: Entity
    id: str
    attributes: dict[str, Scalar | list[str]]
    number: int
    """Where it stands in its table."""

    def at_fault(self, message: str, path: str) -> InvalidInput:
        """The error that names row and column.

        Args:
            path: As the checks of `features.events` give it: `$.attributes.price`.
        """
        column = self.entity if path == "$.id" else path.partition("$.attributes.")[2]
        return _at_fault(self.entity, self.number, column, message)


def attribute_rows(table: pa.Table, entity: Entity) -> Iterator[AttributeRow]:
    """The rows of a table in time order; those of one instant as they stand in it.

    Args:
        entity: The name of the column of ids, and whose attributes the others are.
    Raises:
        InvalidInput: If that column is missing, or with row and column of the first value that cannot be taken.
    """
    if entity not in table.column_names:
        raise InvalidInput(f"{entity} attributes: column {entity!r} is missing, got {', '.join(table.column_names)}")
    numbered = [*range(table.num_rows)]
    if "ts_ms" in table.column_names:
        numbered = pc.sort_indices(table, [("ts_ms", "ascending", "at_start")]).to_pylist()
    for start in range(0, len(numbered), CHUNK):
        part = numbered[start : start + CHUNK]
        for number, values in zip(part, table.take(pa.array(part, pa.int64())).to_pylist(), strict=True):
            yield _row(entity, number, values)


def _row(entity: Entity, number: int, values: dict[str, Any]) -> AttributeRow:
    found: dict[str, Any] = {}
    for column, value in values.items():
        try:
            if column == entity:
                found[column] = msgspec.convert(value, str | int)
            elif column == "ts_ms":
                found[column] = _instant(value)
            elif not _is_missing(value):
                found[column] = msgspec.convert(value, Scalar | list[str])
        except (msgspec.ValidationError, InvalidInput) as error:
            raise _at_fault(entity, number, column, str(error)) from None
    ts_ms, name = found.pop("ts_ms", 0), str(found.pop(entity))
    return AttributeRow(ts_ms, entity, name, found, number)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _instant(value: Any) -> int:
    if value is None:
        return 0
    ts_ms = msgspec.convert(value, int)
    check_time(ts_ms, 0, any_time=True)
    return ts_ms


def _at_fault(entity: Entity, number: int, column: str, message: str) -> InvalidInput:
    where = f"row {number}, column {column!r}" if column else f"row {number}"
    return InvalidInput(f"{entity} attributes, {where}: {message}", f"$.{column}" if column else "$")
