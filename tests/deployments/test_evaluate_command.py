"""`headrace evaluate` judges its predictions when the query file names the true items; they change no prediction."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.cli import main
from deployments.replay import read_answers
from learners.metrics import RANK_METRICS
from tests.learners.examples import stream

N_ITEMS = 40


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, Path]:
    events = [{"ts_ms": e.ts_ms, "type": e.type, "user": e.user, "item": e.item} for e in stream(300, 0)]
    pq.write_table(pa.Table.from_pylist(events), tmp_path / "events.parquet")
    items = sorted({event["item"] for event in events})[:N_ITEMS]
    asked = [event for event in events[100:] if event["item"] in items][::20]
    queries = [
        {"query_id": number, "ts_ms": event["ts_ms"], "user": event["user"], "item": event["item"], "candidates": items}
        for number, event in enumerate(asked)
    ]
    pq.write_table(pa.Table.from_pylist(queries), tmp_path / "queries.parquet")
    return str(tmp_path / "events.parquet"), tmp_path / "queries.parquet"


def evaluated(events: str, queries: Path) -> tuple[int, Path]:
    out = queries.with_suffix(".out")
    return main(["evaluate", events, "--queries", str(queries), "--out", str(out)]), out


def rewritten(queries: Path, items: list[str] | None) -> Path:
    table = pq.read_table(queries).drop(["item"])
    table = table if items is None else table.append_column("item", pa.array(items))
    pq.write_table(table, other := queries.with_name("other.parquet"))
    return other


def test_every_metric_is_shown_with_its_interval(files: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = evaluated(*files)
    shown = capsys.readouterr().err
    assert status == 0
    for name in (*RANK_METRICS, "log loss"):
        assert any(line.startswith(name) and "[" in line for line in shown.splitlines()), name


def test_true_items_change_no_prediction(files: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    events, queries = files
    _, plain = evaluated(events, queries)
    capsys.readouterr()
    status, other = evaluated(events, rewritten(queries, None))
    assert status == 0 and "MRR@10" not in capsys.readouterr().err
    assert pq.read_table(other).equals(pq.read_table(plain))
    assert read_answers(rewritten(queries, None)) is None


def test_true_items_that_were_not_candidates_leave_the_predictions(
    files: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    events, queries = files
    n_queries = pq.read_table(queries).num_rows
    status, out = evaluated(events, rewritten(queries, ["nowhere"] * n_queries))
    assert status == 1 and "the true item nowhere" in capsys.readouterr().err
    assert pq.read_table(out).num_rows == n_queries
