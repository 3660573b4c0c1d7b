"""Laws of the sample: what is taken, in which order, and what is left out and said so."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.autoschema.sample import N_STRETCHES, plan, read_sample
from features.event_files import read_footers
from tests.features.autoschema.simulated import START_MS, clicks, sampled, write


def test_everything_is_taken_if_it_may_be(tmp_path: Path) -> None:
    columns = clicks(2500)
    sample = sampled(tmp_path, columns, 2500)
    assert sample.is_whole and sample.n_all == len(sample) == 2500
    assert np.array_equal(sample.ts_ms, columns["ts_ms"])
    assert [sample.item.text(code) for code in sample.item.codes[:50]] == [str(item) for item in columns["item"][:50]]
    assert set(sample.stretch) == {0}


@pytest.mark.parametrize("n_events", [1, 7, 8, 1000, 9999])
def test_a_sample_is_stretches_from_the_first_row_to_the_last_and_no_more_than_asked_for(
    tmp_path: Path, n_events: int
) -> None:
    parts = [{name: column[at : at + 2500] for name, column in clicks(10_000).items()} for at in range(0, 10_000, 2500)]
    for number, part in enumerate(parts):
        write(tmp_path, part, f"{number}.parquet", row_group_size=700)
    sample = read_sample(read_footers([str(tmp_path)]), n_events)
    second = (sample.ts_ms - START_MS) // 1000
    assert n_events - N_STRETCHES < len(sample) <= n_events
    assert not sample.is_whole
    assert len(set(second.tolist())) == len(second)
    assert second[0] == 0 and (second[-1] == 9999 or n_events == 1)
    for stretch in range(min(N_STRETCHES, n_events)):
        assert set(np.diff(second[sample.stretch == stretch])) <= {1}


def test_a_plan_reads_no_row_group_without_rows_of_a_stretch(tmp_path: Path) -> None:
    footers = read_footers([write(tmp_path, clicks(10_000), row_group_size=100)])
    pieces = plan(footers, 80)
    assert len(pieces) == N_STRETCHES
    assert sum(piece.stop - piece.start for piece in pieces) == 80


def test_events_come_in_the_order_of_time_and_equal_instants_as_they_stand(tmp_path: Path) -> None:
    columns = clicks(4)
    columns["ts_ms"] = START_MS + np.array([3, 1, 3, 2])
    sample = sampled(tmp_path, columns)
    taken = [int(sample.item.text(code)) for code in sample.item.codes]
    assert taken == [int(columns["item"][at]) for at in (1, 3, 0, 2)]


def test_what_the_doors_would_refuse_is_left_out_and_counted(tmp_path: Path) -> None:
    columns = clicks(6)
    columns["user"] = ["a", None, "", "b", "c", "d"]
    columns["ts_ms"] = pa.array([START_MS, START_MS, START_MS, None, START_MS * 1000, START_MS], pa.int64())
    columns["value"] = [1.0, 1.0, 1.0, 1.0, 1.0, -1.0]
    columns["price"] = [float("nan")] * 6
    sample = sampled(tmp_path, columns)
    assert len(sample) == 1 and sample.is_whole and sample.n_left_out == 5
    assert dict(sample.faults) == {
        "left out: ts_ms is missing": 1,
        "left out: user is missing": 1,
        "left out: ts_ms is no epoch in milliseconds before the year 2100": 1,
        "left out: user is not 1 to 256 bytes": 1,
        "left out: value is not 0 to 1e+12": 1,
        "context 'price': not a finite number, or over 256 characters": 1,
    }


def test_files_with_other_context_or_other_types_are_one_stream(tmp_path: Path) -> None:
    write(tmp_path, {**clicks(3), "page": [1, 2, 3]}, "a.parquet")
    write(tmp_path, {**clicks(3, seed=1), "page": ["1", "x", None]}, "b.parquet")
    write(tmp_path, clicks(3, seed=2), "c.parquet")
    sample = read_sample(read_footers([str(tmp_path)]), 100)
    page = sample.context["page"]
    assert sorted(page.text(code) for code in page.codes if code >= 0) == ["1", "1", "2", "3", "x"]
    assert np.count_nonzero(page.codes < 0) == 4


def test_context_of_every_type_that_a_file_may_have_is_taken(tmp_path: Path) -> None:
    columns = clicks(4)
    columns |= {
        "flag": [True, False, True, None],
        "page": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "price": pa.array([1.5, 2.0, None, 1.5], pa.float32()),
        "level": pa.array([3, 3, 1, None], pa.uint8()),
        "nothing": pa.nulls(4),
    }
    context = sampled(tmp_path, columns).context
    texts = {name: [column.text(c) if c >= 0 else None for c in column.codes] for name, column in context.items()}
    assert texts["flag"] == ["True", "False", "True", None]
    assert texts["page"] == ["a", "b", "a", None]
    assert texts["price"] == ["1.5", "2.0", None, "1.5"]
    assert texts["level"] == ["3", "3", "1", None]
    assert texts["nothing"] == [None] * 4
