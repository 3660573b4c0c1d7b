"""Laws of attribute tables: rows in time order, missing values left out, faults by row and column."""

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from features.attribute_table import attribute_rows
from features.errors import InvalidInput


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [(row.ts_ms, row.id, row.attributes, row.number) for row in attribute_rows(table, "item")]


def test_rows_come_in_time_order_and_keep_their_numbers() -> None:
    table = pa.table({"item": ["a", "b", "c", "d"], "ts_ms": [30, 10, None, 10]})
    assert [(at, name, number) for at, name, _, number in rows(table)] == [
        (0, "c", 2), (10, "b", 1), (10, "d", 3), (30, "a", 0)
    ]  # fmt: skip


def test_without_instants_rows_keep_the_order_of_the_table() -> None:
    table = pa.table({"item": list(range(3000, 0, -1))})
    assert [(at, name) for at, name, _, _ in rows(table)] == [(0, str(n)) for n in range(3000, 0, -1)]


def test_numbers_texts_lists_and_integer_ids_are_taken_and_missing_values_left_out() -> None:
    table = pa.table(
        {
            "item": [7, 8],
            "price": [1.5, float("nan")],
            "stock": pa.array([3, None], pa.int32()),
            "brand": pa.array(["x", None]).dictionary_encode(),
            "tags": [["a", "b"], None],
        }
    )
    first, second = rows(table)
    assert first == (0, "7", {"price": 1.5, "stock": 3, "brand": "x", "tags": ["a", "b"]}, 0)
    assert second == (0, "8", {}, 1)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("item", ["a", None], "row 1, column 'item': Expected `int | str`, got `null`"),
        ("item", [True, False], "row 0, column 'item'"),
        ("ts_ms", [None, 1e12], "row 1, column 'ts_ms'"),
        ("ts_ms", [1, 1_764_000_000_000_000], "row 1, column 'ts_ms': Expected epoch milliseconds"),
        ("tags", [["a"], ["b", None]], "row 1, column 'tags': Expected `str`, got `null`"),
        ("since", [None, date(2026, 1, 1)], "row 1, column 'since'"),
    ],
)
def test_what_cannot_be_taken_is_named_by_row_and_column(column: str, values: list[Any], says: str) -> None:
    table = pa.table({"item": ["a", "b"], **{column: values}})
    with pytest.raises(InvalidInput) as caught:
        rows(table)
    assert says in str(caught.value)


def test_a_table_without_ids_is_refused_by_the_name_of_their_column() -> None:
    with pytest.raises(InvalidInput, match="column 'item' is missing, got item_id, price"):
        rows(pa.table({"item_id": [1], "price": [2.0]}))
