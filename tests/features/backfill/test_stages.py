"""Steps from files to states and rows: the result is that of one by one, whatever the files, shards and repetitions."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.backfill.pieces import Folder
from features.backfill.planning import Plan, plan_of
from features.backfill.stages import (
    CheckReport,
    check_unit,
    fold_item_shard,
    fold_user_shard,
    in_time_order,
    judge,
    n_items_in,
)
from features.errors import BadFile
from tests.features.backfill.streams import SCHEMA, folded_rows, lived, rows, states_in, table_of
from tests.features.examples import KEYS, T0_MS

Rows = list[dict[str, Any]]


def planned(folder: Path, *files: Rows, row_group: int = 7, **further: Any) -> Plan:
    (folder / "events").mkdir(exist_ok=True)
    for number, some in enumerate(files):
        pq.write_table(table_of(some), folder / "events" / f"{number}.parquet", row_group_size=row_group)
    return plan_of([str(folder / "events")], SCHEMA, KEYS.n_partitions, str(folder / "work"), **further)


def run(plan: Plan) -> None:
    checks = [check_unit(plan, number) for number in range(len(plan.units))]
    pieces, n_shards = [name for one in checks for name in one.pieces], plan.n_item_shards(n_items_in(checks))
    for shard in range(plan.n_user_shards):
        fold_user_shard(plan, shard, pieces, n_shards)
    shares = sorted(name for name in Folder(plan.folder).names() if name.startswith("shares"))
    for shard in range(n_shards):
        fold_item_shard(plan, shard, shares, [name for one in checks for name in one.stated], n_shards)


def found(plan: Plan, kind: str, name: str, value: str) -> dict[str, bytes]:
    """What the steps have left, by user or item."""
    folder = Folder(plan.folder)
    tables = [
        pa.Table.from_batches([batch])
        for piece in folder.names()
        if piece.startswith(kind) and piece.endswith(".arrow")
        for partition in range(KEYS.n_partitions)
        for batch in folder.read_piece(piece, partition)
    ]
    pairs = [pair for one in tables for pair in zip(one[name].to_pylist(), one[value].to_pylist(), strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@given(st.lists(rows, min_size=1, max_size=60), st.integers(1, 20), st.sampled_from([3000, 60_000, 1 << 30]))
@settings(deadline=None, max_examples=30)
async def test_what_is_left_is_what_comes_of_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, some: Rows, row_group: int, budget_bytes: int
) -> None:
    some.sort(key=lambda row: int(row["ts_ms"]))
    cut = len(some) // 2
    plan = planned(
        tmp_path_factory.mktemp("run"), some[:cut], some[cut:], row_group=row_group, budget_bytes=budget_bytes
    )
    run(plan)
    store = await lived(some)
    states = found(plan, "states", "user", "state")
    assert states == await states_in(store, list(states))
    assert set(states) == {row["user"] for row in some}
    assert found(plan, "rows", "item", "row") == folded_rows(some)


def clicks(n: int) -> Rows:
    rng = np.random.default_rng(n)
    return [
        {
            "ts_ms": T0_MS + 10 * number,
            "type": "click",
            "user": f"u{rng.integers(30)}",
            "item": f"i{rng.integers(20)}",
            "id": None,
            "value": None,
            "device": None,
            "size": None,
        }
        for number in range(n)
    ]


def test_steps_that_are_run_again_leave_the_same_files(tmp_path: Path) -> None:
    plan = planned(tmp_path, clicks(500), row_group=100)
    run(plan)
    before = {path.name: path.read_bytes() for path in Path(plan.folder).iterdir()}
    for name in list(before)[::3]:
        (Path(plan.folder) / name).unlink()
    run(plan)
    assert {path.name: path.read_bytes() for path in Path(plan.folder).iterdir()} == before


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_rows_come_in_time_order_whatever_the_files(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], row_group: int, n_files: int
) -> None:
    some = [{**clicks(1)[0], "ts_ms": ms, "item": str(number)} for number, ms in enumerate(times)]
    files = [some[at::n_files] for at in range(n_files)]
    plan = planned(tmp_path_factory.mktemp("run"), *files, row_group=row_group, is_any_order=True, budget_bytes=200_000)
    timed = [piece for number in range(len(plan.units)) for piece in check_unit(plan, number).timed]
    whole = pa.concat_tables(in_time_order(plan, timed))
    rows_in_files = [row for file in files for row in file]
    assert whole["item"].to_pylist() == [row["item"] for row in sorted(rows_in_files, key=lambda row: row["ts_ms"])]


def test_other_files_settings_or_schemas_are_other_work(tmp_path: Path) -> None:
    plan = planned(tmp_path, clicks(10))
    assert planned(tmp_path, clicks(10), budget_bytes=5000).name != plan.name
    assert planned(tmp_path, clicks(10), is_any_order=True).name != plan.name
    assert planned(tmp_path, clicks(11)).name != plan.name


def test_the_row_group_that_is_not_in_order_is_named(tmp_path: Path) -> None:
    some = clicks(40)
    some[25], some[26] = some[26], some[25]
    plan = planned(tmp_path, some, row_group=10)
    check_unit(plan, 1)
    with pytest.raises(BadFile, match=r"0.parquet, row group 2, column 'ts_ms': row 6 is earlier") as caught:
        check_unit(plan, 2)
    assert (caught.value.row_group, caught.value.column) == (2, "ts_ms")


def test_row_groups_that_are_not_in_order_are_named(tmp_path: Path) -> None:
    some = clicks(40)
    plan = planned(tmp_path, some[20:] + some[:20], row_group=20)
    with pytest.raises(BadFile, match=r"0.parquet, row group 1, column 'ts_ms': row 0 is earlier"):
        judge(plan, [check_unit(plan, number) for number in range(2)])
    other = planned(tmp_path, some[20:], some[:20], row_group=20)
    judge(other, [check_unit(other, number) for number in range(2)])


def test_any_order_is_taken_if_one_says_so(tmp_path: Path) -> None:
    some = clicks(40)[::-1]
    plan = planned(tmp_path, some, row_group=10, is_any_order=True)
    run(plan)
    assert sum(check_unit(plan, number).n_rows for number in range(4)) == 40


def test_reports_say_what_is_bad_and_where(tmp_path: Path) -> None:
    some = clicks(20)
    some[13]["user"] = None
    plan = planned(tmp_path, some[:5], some[5:], row_group=4)
    report = check_unit(plan, plan.units.index(plan.where(13)))
    assert plan.where(13).file.url.endswith("1.parquet")
    assert (plan.where(13).row_group, report.n_bad) == (2, 1)
    assert [(bad.row, bad.column) for bad in report.bad] == [(13, "user")]
    assert msgspec.json.decode(msgspec.json.encode(report), type=CheckReport) == report
    with pytest.raises(BadFile, match=r"1.parquet, row group 2, column 'user': row 0: Expected a value, got none"):
        judge(plan, [check_unit(plan, number) for number in range(len(plan.units))])


def test_duplicates_are_counted_and_the_first_is_told(tmp_path: Path) -> None:
    some = [{**row, "user": "u", "id": f"e{number % 15}"} for number, row in enumerate(clicks(20))]
    plan = planned(tmp_path, some)
    checks = [check_unit(plan, number) for number in range(len(plan.units))]
    pieces = [name for one in checks for name in one.pieces]
    reports = [fold_user_shard(plan, shard, pieces, 8) for shard in range(plan.n_user_shards)]
    assert sum(report.n_events for report in reports) == 15
    assert [report.duplicates for report in reports if report.duplicates] == [[15, 16, 17, 18, 19]]
