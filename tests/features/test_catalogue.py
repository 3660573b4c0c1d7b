"""Laws of catalogues: a row means the same in every format, and one bad row is one rejected row."""

import csv
import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import text_rows
from features.catalogue import Catalogue, CatalogueRow, Rejected
from features.errors import InvalidInput
from features.schema import Schema

Row = dict[str, Any]

ROWS: list[Row] = [
    {"item": "a", "price": 12.5, "category": "00123", "tags": ["x", "y z"], "title": "One, “two”"},
    {"item": "7", "price": 3.0, "category": None, "tags": None, "title": "a\nb"},
    {"item": "b c", "price": None, "category": "42", "tags": ["x"], "title": None},
]
MEANT = [
    ("a", {"price": 12.5, "category": "00123", "tags": ["x", "y z"], "title": "One, “two”"}),
    ("7", {"price": 3.0, "title": "a\nb"}),
    ("b c", {"category": "42", "tags": ["x"]}),
]


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        for row in rows:
            cells = [row[name] for name in rows[0]]
            writer.writerow(["|".join(cell) if isinstance(cell, list) else cell for cell in cells])


def write_ndjson(path: Path, rows: list[Row]) -> None:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "parquet": write_parquet,
    "csv": write_csv,
    "ndjson": write_ndjson,
}


def read(path: Path, first: int = 0, **options: Any) -> list[CatalogueRow | Rejected]:
    return list(Catalogue(path, Schema(), **options).rows(first))


def meant(rows: list[CatalogueRow | Rejected]) -> list[tuple[str, Row]]:
    """Ids and attributes of rows, all of them good."""
    assert [row for row in rows if isinstance(row, Rejected)] == []
    return [(row.id, row.attributes) for row in rows if isinstance(row, CatalogueRow)]


def rejected(path: Path, text: str | bytes, **options: Any) -> list[tuple[int, str, str, Row]]:
    """What is rejected of a file with this text."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = read(path, **options)
    return [(row.number, row.column, row.reason, row.values) for row in rows if isinstance(row, Rejected)]


@pytest.mark.parametrize("form", WRITERS)
def test_a_row_means_the_same_in_every_format(tmp_path: Path, form: str) -> None:
    WRITERS[form](path := tmp_path / f"items.{form}", ROWS)
    assert meant(read(path)) == MEANT


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("first", range(4))
def test_reading_goes_on_at_any_row(tmp_path: Path, form: str, first: int) -> None:
    WRITERS[form](path := tmp_path / f"items.{form}", ROWS)
    rows = read(path, first)
    assert meant(rows) == MEANT[first:]
    assert [row.number for row in rows] == [0, 1, 2][first:]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r|"), min_size=1, max_size=9)
tags = texts.filter(lambda text: text == text.strip())
given_rows = st.lists(
    st.fixed_dictionaries(
        {
            "item": texts,
            "price": st.none() | st.floats(-1e12, 1e12).map(lambda number: number + 0.0),
            "brand": st.none() | texts,
            "tags": st.none() | st.lists(tags, min_size=1, max_size=3),
            "note": st.none() | texts,
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_rows)
def test_whatever_stands_in_a_table_is_read_back_from_every_format(tmp_path: Path, rows: list[Row]) -> None:
    expected = [
        (row["item"], {name: value for name, value in row.items() if name != "item" and value is not None})
        for row in rows
    ]
    for form, write in WRITERS.items():
        write(path := tmp_path / f"items.{form}", rows)
        assert meant(read(path)) == expected, form


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_text_may_be_gzipped_and_begin_with_a_byte_order_mark(tmp_path: Path, form: str) -> None:
    WRITERS[form](plain := tmp_path / f"items.{form}", ROWS)
    packed = tmp_path / f"items.{form}.GZ"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert meant(read(packed)) == MEANT


def test_the_format_may_be_said_and_id_names_items_where_no_column_is_called_item(tmp_path: Path) -> None:
    (path := tmp_path / "items.txt").write_text("id;x,id\n")
    with pytest.raises(InvalidInput, match=r"items\.txt: expected a name with \.parquet"):
        read(path)
    path.write_text("price,id\n1,a\n")
    assert meant(read(path, form="csv")) == [("a", {"price": 1.0})]
    path.write_text('{"id":5,"item":"a"}\n{"item":"b"}\n')
    assert meant(read(path, form="ndjson")) == [("a", {"id": 5}), ("b", {})]


def test_parquet_of_any_kind_fits_the_wire(tmp_path: Path) -> None:
    table = pa.table(
        {
            "item": pa.array([7], pa.int32()),
            "price": pa.array([Decimal("1.10")]),
            "brand": pa.array(["x"]).dictionary_encode(),
            "category": pa.array([42]),
            "tags": pa.array([[1, 2]]),
            "nan": [float("nan")],
            "name": pa.array([b"text"]),
            "since": [date(2026, 1, 31)],
            "at": pa.array([datetime(2026, 1, 31, 12, tzinfo=UTC)], pa.timestamp("ns", "Europe/Berlin")),
            "sizes": pa.array([[1, 2]]),
            "maker": pa.array([{"name": "x"}]),
            "flag": [True],
        }
    )
    pq.write_table(table, path := tmp_path / "items.parquet")
    ((name, attributes),) = meant(read(path))
    assert (name, attributes) == (
        "7",
        {
            "price": 1.1,
            "brand": "x",
            "category": "42",
            "tags": ["1", "2"],
            "name": "text",
            "since": "2026-01-31",
            "at": "2026-01-31 12:00:00.000000000Z",
            "sizes": "[1,2]",
            "maker": '{"name":"x"}',
            "flag": True,
        },
    )


def test_tags_that_are_one_text_are_split(tmp_path: Path) -> None:
    (path := tmp_path / "items.csv").write_text("item,tags\na,x; y;;z|w\nb,;\n")
    assert meant(read(path, tag_separator=";")) == [("a", {"tags": ["x", "y", "z|w"]}), ("b", {})]


BAD_VALUES: list[tuple[str, str, str]] = [
    ('{"item":null}', "item", "Expected an id, got none"),
    ('{"item":""}', "item", "Expected 1 to 256 bytes of UTF-8, got 0"),
    ('{"item":"' + "ä" * 129 + '"}', "item", "Expected 1 to 256 bytes of UTF-8, got 258"),
    ('{"item":true}', "item", "Expected text or an integer, got True"),
    ('{"item":7.5}', "item", "Expected text or an integer, got 7.5"),
    ('{"price":1}', "item", "Expected an id, got none"),
    ('{"item":"a","price":"dear"}', "price", "Expected a number, got 'dear'"),
    ('{"item":"a","price":"1_0"}', "price", "Expected a number, got '1_0'"),
    ('{"item":"a","price":"1e999"}', "price", "Expected a finite number, got '1e999'"),
    ('{"item":"a","price":"nan"}', "price", "Expected a finite number, got 'nan'"),
    ('{"item":"a","price":true}', "price", "Expected a number, got True"),
    ('{"item":"a","price":1e13}', "price", "Expected a number, got 10000000000000.0"),
    ('{"item":"a","category":1.5}', "category", "Expected a category, got 1.5"),
    ('{"item":"a","category":["x"]}', "category", "Expected a category, got ['x']"),
    ('{"item":"a","tags":5}', "tags", "Expected a tags, got 5"),
    ('{"item":"a","tags":["x",null]}', "tags", "Expected tags, got None among them"),
    ('{"item":"a",' + ",".join(f'"x{n}":1' for n in range(65)) + "}", "", "Expected at most 64 attributes, got 65"),
]


@pytest.mark.parametrize(("line", "column", "reason"), BAD_VALUES)
def test_a_value_of_another_kind_costs_its_row(tmp_path: Path, line: str, column: str, reason: str) -> None:
    text = f'{{"item":"before"}}\n{line}\n\n{{"item":"after"}}\n'
    assert rejected(tmp_path / "a.ndjson", text) == [(1, column, reason, msgspec.json.decode(line))]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"item":"\xff"}', b'{"item":NaN}', b"[" * 100_000, b"\xff"])
def test_a_line_that_is_no_object_costs_itself(tmp_path: Path, line: bytes) -> None:
    ((number, column, reason, values),) = rejected(tmp_path / "a.ndjson", b'{"item":"a"}\n' + line + b'\n{"item":"b"}')
    assert (number, column) == (1, "") and reason
    assert values == {"line": line[:4096].decode(errors="replace")}


def test_a_line_longer_than_any_request_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "LINE_BYTES", 20)
    text = '{"item":"a"}\n' + '{"item":"b","x":"' + "x" * 100 + '"}\n{"item":"c"}\n'
    ((number, _, reason, _),) = rejected(tmp_path / "a.ndjson", text)
    assert (number, reason) == (1, "Expected less than 20 bytes")
    assert [row.number for row in read(tmp_path / "a.ndjson")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "reason", "values"),
    [
        (b"b,1", "Expected 3 cells, got 2", {"cells": ["b", "1"]}),
        (b"b,1,2,3", "Expected 3 cells, got 4", {"cells": ["b", "1", "2", "3"]}),
        (b"b,\xff,1", "Expected UTF-8", {"cells": ["b", "\N{REPLACEMENT CHARACTER}", "1"]}),
        (b'b,"1" or 2,3', "',' expected after '\"'", {"line": 'b,"1" or 2,3'}),
        (b'b,"never closed,3', "unexpected end of data", {"line": 'b,"never closed,3'}),
    ],
)
def test_a_line_of_csv_that_makes_no_sense_costs_itself(tmp_path: Path, line: bytes, reason: str, values: Row) -> None:
    path = tmp_path / "a.csv"
    assert rejected(path, b"item,title,price\r\na,b,1\r\n\r\n" + line + b"\r\nc,d,2\r\ne,f,3") == [
        (1, "", reason, values)
    ]
    assert [row.id for row in read(path) if isinstance(row, CatalogueRow)] == ["a", "c", "e"]
    assert [row.number for row in read(path, 2)] == [2, 3]


def test_infinite_numbers_and_text_that_is_none_cost_their_rows_of_parquet(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"], pa.binary()).buffers())
    table = pa.table({"item": ["a", "b", "c"], "x": [1.0, 2.0, float("inf")], "title": broken})
    pq.write_table(table, path := tmp_path / "items.parquet")
    assert [(row.number, row.column) for row in read(path) if isinstance(row, Rejected)] == [(1, ""), (2, "x")]


def truncated(path: Path) -> None:
    write_parquet(path, ROWS)
    path.write_bytes(path.read_bytes()[:-40])


BAD_FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": ("csv", lambda path: None, "No such file"),
    "a folder": ("ndjson", lambda path: path.mkdir(), "directory"),
    "cut off": ("parquet", truncated, "footer"),
    "no column of ids": ("csv", lambda path: path.write_text("item_id,price\n1,2\n"), "'item' .* got item_id, price"),
    "no ids in objects": ("jsonl", lambda path: path.write_text('{"sku":1}'), "column 'item' .* missing, got sku"),
    "no ids in Parquet": ("parquet", lambda path: write_parquet(path, [{"sku": 1}]), "missing, got sku"),
    "no rows": ("csv", lambda path: path.write_text("item,price\n"), "there are no rows"),
    "no rows of Parquet": ("parquet", lambda path: pq.write_table(pa.table({"item": [""]})[:0], path), "no rows"),
    "empty": ("ndjson", lambda path: path.write_text("\n"), "there are no rows"),
    "something else": ("ndjson", lambda path: path.write_text("item,price\na,1\n"), "first 2 rows can be read"),
    "a column twice": ("csv", lambda path: path.write_text("item,x,x\na,1,2\n"), "column 'x' is there twice"),
    "a broken header": ("csv", lambda path: path.write_text('item,"x\na,1\n'), "the header cannot be read"),
    "half of a gzip": ("csv", lambda path: path.write_bytes(gzip.compress(b"item\na\n")[:-9]), "end-of-stream"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_catalogue_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    suffix, make, says = BAD_FILES[name]
    make(path := tmp_path / f"items.{suffix}")
    with pytest.raises(InvalidInput, match=says) as caught:
        Catalogue(path, Schema())
    assert str(path) in str(caught.value)


def test_damage_further_on_ends_the_rows_and_names_the_first_that_is_lost(tmp_path: Path) -> None:
    n_rows = 20_000
    whole = gzip.compress(b"item,price\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(n_rows)))
    (path := tmp_path / "items.csv.gz").write_bytes(whole[: len(whole) // 2])
    rows = Catalogue(path, Schema()).rows()
    seen: list[int] = []
    with pytest.raises(InvalidInput, match=r"items\.csv\.gz: row \d+ and what follows") as caught:
        seen.extend(row.number for row in rows)
    assert 0 < len(seen) < n_rows and f"row {len(seen)} " in str(caught.value)


@pytest.mark.parametrize("form", WRITERS)
def test_position_follows_the_rows_to_the_end_of_the_file(tmp_path: Path, form: str) -> None:
    WRITERS[form](path := tmp_path / f"items.{form}", ROWS * 5000)
    catalogue = Catalogue(path, Schema())
    assert catalogue.n_rows == (15_000 if form == "parquet" else None)
    positions = [catalogue.position_bytes() for _ in catalogue.rows()]
    assert positions == sorted(positions) and 0 < positions[0] < positions[-1]
    assert catalogue.position_bytes() == catalogue.n_bytes == path.stat().st_size
