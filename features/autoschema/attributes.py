"""Attributes of items and users: of which kind a column of their table is, if it is one that says something of others.

    number      measurements: fractions, and whole numbers with many values
    category    text, yes or no, and whole numbers with few values, each shared by several rows
    tags        lists of text

What nearly every row has for itself, titles and postal addresses, teaches nothing about another row, and is not
proposed; nor what nearly never differs. It may be sent all the same: undeclared attributes are kept for display.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from features.errors import InvalidInput
from features.schema import Attribute, AttributeKind, Entity

CONSTANT: Final = 0.995
MAX_CODES: Final = 32  # distinct whole numbers that may be names of something
MIN_SHARED: Final = 0.5  # of the rows: those that share their text with another row
MAX_VALUES: Final = 100_000
USUAL_TAGS: Final = 8  # as many as there are are kept
MAX_TAGS: Final = 32
SEPARATORS: Final = ("|", ";", ",", " ")


@dataclass(frozen=True)
class Proposed:
    """A column of a table: an attribute, or why it is none."""

    name: str
    attribute: Attribute | None
    evidence: str


def attribute_columns(table: pa.Table, entity: Entity) -> list[Proposed]:
    """All columns of a table but ids and instants.

    Raises:
        InvalidInput: If the column of ids is missing.
    """
    if entity not in table.column_names:
        raise InvalidInput(f"{entity} attributes: column {entity!r} is missing, got {', '.join(table.column_names)}")
    return [_column(name, table[name], entity) for name in table.column_names if name not in (entity, "ts_ms")]


def _column(name: str, column: pa.ChunkedArray, entity: Entity) -> Proposed:
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kinds.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    present = column.drop_null()
    if len(column) - len(present) >= CONSTANT * len(column):
        return Proposed(name, None, f"missing in {len(column) - len(present)} of {len(column)} rows")
    if kinds.is_list(column.type) or kinds.is_large_list(column.type):
        return _tags(name, present, entity)
    found = _kind(present)
    missing = f", missing in {1.0 - len(present) / len(column):.1%}" if len(present) < len(column) else ""
    if found[0] is None:
        return Proposed(name, None, found[1] + missing)
    return Proposed(name, Attribute(name=name, entity=entity, kind=found[0]), found[1] + missing)


def _kind(present: pa.ChunkedArray) -> tuple[AttributeKind | None, str]:
    """Category or number, or neither, and why."""
    if not _is_scalar(present.type):
        return None, f"{present.type}: neither text, number, yes or no, nor a list of text"
    counts = np.sort(pc.value_counts(present).field("counts").to_numpy())[::-1]
    evidence = f"distinct {len(counts)} in {len(present)} rows, {counts[0] / len(present):.0%} in the most frequent"
    if counts[0] >= CONSTANT * len(present):
        return None, f"nearly constant: {evidence}"
    if kinds.is_floating(present.type) or (kinds.is_integer(present.type) and len(counts) > MAX_CODES):
        low, high = pc.min_max(present).as_py().values()
        return "number", f"{low:g} to {high:g}, distinct {len(counts)}"
    shared = counts[counts > 1].sum() / len(present)
    if shared < MIN_SHARED or len(counts) > MAX_VALUES:
        hint = _hint(present) if not kinds.is_integer(present.type) else ""
        return None, f"{1.0 - shared:.0%} of rows have one of their own (distinct {len(counts)}): free text{hint}"
    return "category", evidence + (_hint(present) if len(counts) > MAX_CODES else "")


def _is_scalar(kind: Any) -> bool:
    is_text = kinds.is_string(kind) or kinds.is_large_string(kind)
    return bool(is_text or kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind))


def _hint(present: pa.ChunkedArray) -> str:
    """That text is made of a few words, and would be better as a list of them."""
    if not (kinds.is_string(present.type) or kinds.is_large_string(present.type)):
        return ""
    n_whole = len(present.unique())
    for separator in SEPARATORS:
        words = pc.list_flatten(pc.split_pattern(present, separator))
        if len(words) >= 1.2 * len(present) and len(words.unique()) <= 0.25 * n_whole:
            return f"; made of {len(words.unique())} words between {separator!r}: send a list of them, as tags"
    return ""


def _tags(name: str, present: pa.ChunkedArray, entity: Entity) -> Proposed:
    if not (kinds.is_string(present.type.value_type) or kinds.is_large_string(present.type.value_type)):
        return Proposed(name, None, f"{present.type}: lists are to be of text")
    sizes = pc.list_value_length(present).to_numpy()
    counts = np.sort(pc.value_counts(pc.list_flatten(present)).field("counts").to_numpy())[::-1]
    if not len(counts) or counts[counts > 1].sum() < MIN_SHARED * counts.sum():
        return Proposed(name, None, f"distinct {len(counts)}, most of them in one row alone")
    max_tags = max(min(int(sizes.max()), USUAL_TAGS), int(np.percentile(sizes, 99)))
    max_tags = min(max(max_tags, 1), MAX_TAGS)
    n_cut = float(np.mean(sizes > max_tags))
    evidence = f"distinct {len(counts)}, {sizes.mean():.1f} a row, {sizes.max()} at most; {n_cut:.1%} of rows have more"
    return Proposed(name, Attribute(name=name, entity=entity, kind="tags", max_tags=max_tags), evidence)
