"""`headrace items` against the real routes on a real socket: what is loaded, resumed, and rejected."""

import os
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.cli import main
from deployments.gate import MAX_BODY_BYTES
from features.schema import Attribute, Schema
from tests.deployments.item_door import Door, Item, opened


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State files go nowhere else."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def catalogue(folder: Path, n_rows: int = 2500) -> tuple[Path, dict[str, Item]]:
    """A file, and what it says."""
    path = folder / "items.csv"
    path.write_text("item,price\n" + "".join(f"i{n},{n}\n" for n in range(n_rows)))
    return path, {f"i{n}": {"price": float(n)} for n in range(n_rows)}


def load(door: Door, path: Path, *options: str) -> int:
    return main(["items", str(path), "--url", door.url, *options])


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def rejections(path: Path) -> list[Item]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def test_a_whole_catalogue_is_loaded_and_leaves_nothing_behind(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, expected = catalogue(tmp_path)
    with opened() as door:
        assert load(door, path) == 0
    assert door.items() == expected
    assert [len(post) for post in door.posts] == [1000, 1000, 500]
    assert "2,500 rows: 2,500 loaded, 0 rejected" in shown(capsys)
    assert [found.name for found in tmp_path.iterdir() if found.is_file()] == [path.name]
    assert [*(home / "items").iterdir()] == []


def test_a_load_that_was_stopped_goes_on_and_sends_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, expected = catalogue(tmp_path)
    with opened({0: "stop", 2: "stop"}) as door:
        assert load(door, path) == 130
        assert "stopped after 1,000 rows: 1,000 loaded, 0 rejected; the same command goes on" in shown(capsys)
        assert len(door.posts) == 1
        assert load(door, path) == 0  # the last post was under way when the user stopped it: it is whole
        assert "going on after 1,000 rows" in shown(capsys)
    assert door.taken == [*expected]
    assert door.items() == expected


def test_rows_of_parquet_are_counted_from_the_first_also_when_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"id": range(1500), "price": range(1500)}), path := tmp_path / "items.parquet")
    with opened({0: "stop"}) as door:
        assert load(door, path) == 130
        assert "stopped after 1,000 of 1,500 rows" in shown(capsys)
        assert load(door, path) == 0
    assert door.taken == [str(number) for number in range(1500)]


@pytest.mark.parametrize("change", ["--restart", "--tag-separator", "touched", "longer"])
def test_another_file_or_another_way_to_read_it_begins_anew(tmp_path: Path, change: str) -> None:
    path, expected = catalogue(tmp_path)
    options = {"--restart": ["--restart"], "--tag-separator": ["--tag-separator", ";"]}.get(change, [])
    with opened({0: "stop"}) as door:
        assert load(door, path) == 130
        if change == "touched":
            os.utime(path, ns=(1, 1))
        if change == "longer":
            path.write_text(path.read_text() + "new,1\n")
            expected["new"] = {"price": 1.0}
        assert load(door, path, *options) == 0
    assert door.taken == [*list(expected)[:1000], *expected]


def test_the_user_stops_what_waits_for_a_store_and_goes_on_later(tmp_path: Path) -> None:
    path, expected = catalogue(tmp_path)
    with opened({1: "away stop"}) as door:
        assert load(door, path) == 130
        assert load(door, path) == 0
    assert door.taken == [*expected]


def test_a_load_that_failed_says_what_is_done_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, expected = catalogue(tmp_path)
    with opened({2: "broken"}) as door:
        assert load(door, path) == 1
        said = shown(capsys)
        assert "2,000 rows: 2,000 loaded, 0 rejected; the same command goes on from there" in said
        assert "headrace items: 500 unreadable: no luck" in said
        assert load(door, path) == 0
    assert door.taken == [*expected]


def test_rejected_rows_go_to_their_file_once_with_reasons_and_the_others_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"i{n},1,red" for n in range(1500)]
    lines[1], lines[2], lines[3], lines[1400] = "i1,dear,red", ",1,red", "i3,1", "i1400,inf,"
    (path := tmp_path / "items.csv").write_text("\n".join(["item,price,colour", *lines]))
    price, colour = (Attribute(name=name, entity="item", kind="number") for name in ("price", "colour"))
    with opened({0: "stop", 1: "stop"}, Schema(attributes=(price,))) as door:
        assert load(door, path) == 130
        assert load(door, path) == 1
        assert "1,500 rows: 1,496 loaded, 4 rejected" in (said := shown(capsys))
        assert "the first: row 1, column 'price': Expected a number, got 'dear'" in said
    number = "Expected a finite number, got 'inf'"
    assert rejections(tmp_path / "items.csv.rejected.ndjson") == [
        {
            "row": 1,
            "reason": "Expected a number, got 'dear'",
            "column": "price",
            "data": {"item": "i1", "price": "dear", "colour": "red"},
        },
        {
            "row": 2,
            "reason": "Expected an id, got none",
            "column": "item",
            "data": {"item": None, "price": "1", "colour": "red"},
        },
        {"row": 3, "reason": "Expected 3 cells, got 2", "column": None, "data": {"cells": ["i3", "1"]}},
        {"row": 1400, "reason": number, "column": "price", "data": {"item": "i1400", "price": "inf", "colour": None}},
    ]
    with opened(schema=Schema(attributes=(price, colour))) as door:  # which declares more than the command knows
        assert load(door, path, "--rejected", str(tmp_path / "other")) == 1
    refusals = rejections(tmp_path / "other")
    assert len(refusals) == 1500 and [refusal["row"] for refusal in refusals] == [*range(1500)]
    assert {key: refusals[0][key] for key in ("reason", "column")} == {
        "reason": "Expected a number, got 'red'",
        "column": "colour",
    }


def test_of_rows_with_one_id_the_last_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "items.ndjson").write_text('{"id":"a","price":1}\n{"id":"b"}\n{"id":"a","price":2}\n')
    with opened() as door:
        assert load(door, path) == 0
    assert door.posts == [["a", "b"]] and door.items() == {"a": {"price": 2.0}, "b": {}}
    assert "3 rows: 2 loaded, 0 rejected, 1 said again by a later row" in shown(capsys)


def test_no_body_is_larger_than_the_route_takes(tmp_path: Path) -> None:
    lines = [msgspec.json.encode({"item": str(n), "title": 'ä"' * 2000}) for n in range(1000)]
    lines[500] = msgspec.json.encode({"item": "500", "title": "x" * (MAX_BODY_BYTES - 100)})
    (path := tmp_path / "items.jsonl").write_bytes(b"\n".join(lines))
    with opened() as door:
        assert load(door, path) == 1
    assert len(door.taken) == 999
    assert max(door.sizes_bytes) <= MAX_BODY_BYTES
    (refusal,) = rejections(tmp_path / "items.jsonl.rejected.ndjson")
    assert (refusal["row"], refusal["data"]) == (500, {"id": "500"})


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("sku,price\na,1\n", [], "items.csv: column 'item' (or 'id') is missing, got sku, price"),
        ("item\n", [], "items.csv: there are no rows"),
        ("item\na\n", ["--format", "parquet"], "items.csv: "),
        ("item\na\n", ["--tag-separator", ""], "--tag-separator: expected some text"),
        ("item\na\n", ["--rejected", "items.csv"], "--rejected: expected another file than the catalogue"),
        ("item\na\n", ["--rejected", "nowhere/x"], "nowhere/x: [Errno 2]"),
    ],
)
def test_what_cannot_be_read_is_said_and_nothing_is_sent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (path := Path("items.csv")).write_text(text)
    with opened() as door:
        assert load(door, path, *options) == 1
    assert says in shown(capsys)
    assert door.posts == [] and path.read_text() == text


def test_nobody_there_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = catalogue(tmp_path)
    assert main(["items", str(path), "--url", "http://127.0.0.1:1"]) == 1
    assert "headrace items: no answer from http://127.0.0.1:1" in shown(capsys)
