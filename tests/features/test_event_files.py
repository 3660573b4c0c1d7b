"""Which files are a history, and what is said of those that cannot be one."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import BadFile
from features.event_files import list_files, read_footer, read_footers, slices

GOOD: dict[str, Any] = {
    "ts_ms": pa.array([1, 2, 3], pa.int64()),
    "type": ["click"] * 3,
    "user": ["u", "v", "u"],
    "item": ["a", "b", "c"],
}


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: column for name, column in {**GOOD, **columns}.items() if column is not None})
    pq.write_table(table, path, row_group_size=2)
    return path


def refusal(*paths: Path) -> BadFile:
    with pytest.raises(BadFile) as caught:
        read_footers([str(path) for path in paths])
    return caught.value


def test_a_folder_is_all_its_parquet_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    paths = [write(tmp_path / name) for name in ("b.parquet", "a/z.parquet", "a/c/d.parquet")]
    (tmp_path / "_SUCCESS").touch()
    assert [file.url for file in list_files([str(tmp_path)])] == sorted(map(str, paths))


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    assert [file.url for file in list_files([str(path), str(tmp_path), str(path)])] == [str(path)]


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (file,) = list_files([f"file://{tmp_path}"])
    assert file.url == f"file://{tmp_path}/a.parquet"
    assert read_footer(file).rows == (2, 1)


def test_slices_are_all_rows_in_order(tmp_path: Path) -> None:
    (footer,) = read_footers([str(write(tmp_path / "a.parquet"))])
    parts = [part for n in range(len(footer.rows)) for part in slices(footer.file, n, 1)]
    assert [(part.row_group, part.first) for part in parts] == [(0, 0), (0, 1), (1, 0)]
    assert pa.concat_tables([part.table for part in parts])["item"].to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("ts_ms", [1.0, 2.0, 3.0], "expected integers, epoch milliseconds, got double"),
        ("ts_ms", pa.array([1, 2, 3], pa.timestamp("ms")), "expected integers, epoch milliseconds, got timestamp[ms]"),
        ("type", [1, 2, 3], "expected strings, got int64"),
        ("user", [1.5, 2.5, 3.5], "expected strings or integers, got double"),
        ("item", [True, False, True], "expected strings or integers, got bool"),
        ("value", ["1", "2", "3"], "expected numbers, got string"),
        ("page", [["x"], ["y"], []], "expected strings, numbers or booleans, got list<element: string>"),
        ("item", None, "column is missing"),
    ],
)
def test_a_column_of_the_wrong_type_is_named(tmp_path: Path, column: str, values: Any, expected: str) -> None:
    path = write(tmp_path / "a.parquet", **{column: values})
    error = refusal(path)
    assert (error.file, error.column) == (str(path), column)
    assert expected in str(error)
    assert str(path) in str(error)


def test_one_bad_file_among_good_ones_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    bad = write(tmp_path / "b.parquet", user=None)
    assert refusal(tmp_path).file == str(bad)


def test_a_file_cut_short_is_told_from_an_empty_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut short perhaps" in str(refusal(path))
    path.write_bytes(b"")
    assert "0 bytes" in str(refusal(path))


def test_a_row_group_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", user=["x" * 1000, "y" * 1000, "z" * 1000])
    (footer,) = read_footers([str(path)])
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(bytes(data))
    with pytest.raises(BadFile, match=r"row group 0: from row 0 on") as caught:
        list(slices(footer.file, 0, 10))
    assert caught.value.row_group == 0


def test_files_without_a_row_are_nothing_to_read(tmp_path: Path) -> None:
    empty = write(tmp_path / "a.parquet", **{name: pa.array([], pa.string()) for name in ("type", "user", "item")},
                  ts_ms=pa.array([], pa.int64()))  # fmt: skip
    assert "0 rows" in str(refusal(empty))
    write(tmp_path / "b.parquet")
    assert [footer.n_rows for footer in read_footers([str(tmp_path)])] == [0, 3]


def test_what_does_not_exist_and_folders_without_files_are_named(tmp_path: Path) -> None:
    assert "no such file" in str(refusal(tmp_path / "nothing"))
    assert "no file in it ends with .parquet" in str(refusal(tmp_path))
