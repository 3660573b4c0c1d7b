"""Laws of refreshing: a part that lags holds what was live at its last refresh, bit for bit, and nothing else."""

import argparse
import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.bench_refresh import lines_of, report, run
from benchmarks.refreshing import LIVE, Every, Line, Until, scores_of
from deployments.config import Config
from features.item_table import ItemTable
from features.state import unpack
from learners.evaluation import Evaluation, evaluate, in_time_order, one_thread
from tests.learners.examples import CONFIG, SCHEMA, T0_MS, stream

PERIOD_MS = 10_000
FIRST_MS = T0_MS // PERIOD_MS * PERIOD_MS
# Batches are cut by their number alone: nothing is learned merely because somebody looked later.
SETTINGS = Config(schema=SCHEMA, learner=replace(CONFIG, batch_span_s=86400.0))
NEVER = Every(10**15)
PARTS = ("weights", "counters", "person")


def events_of() -> pa.Table:
    """Clicks without a context, some of them at the very instant of a refresh or a millisecond before it."""
    rows = [{"ts_ms": e.ts_ms, "type": e.type, "user": int(e.user[1:]), "item": int(e.item[1:])} for e in stream(500)]
    for row in rows[10::10]:
        row["ts_ms"] = row["ts_ms"] // PERIOD_MS * PERIOD_MS - row["item"] % 2
    return pa.Table.from_pylist(rows).sort_by("ts_ms")


def queries_of() -> pa.Table:
    """Before, at and after refreshes."""
    rows = [
        {"ts_ms": FIRST_MS + number * PERIOD_MS + after_ms, "user": number % 12, "candidates": [*range(40)], "item": 5}
        for number in range(8, 24)
        for after_ms in (-1, 0, 1, 4000)
    ]
    return pa.Table.from_pylist([{"query_id": number, **row} for number, row in enumerate(rows)])


EVENTS, QUERIES = events_of(), queries_of()


@pytest.fixture(scope="module")
def found() -> dict[str, np.ndarray]:
    """All lines that the tests ask for, in one pass."""
    lines = {"live": LIVE, "together": Line(*[Every(PERIOD_MS)] * 3)}
    for part in PARTS:
        lines[f"{part}, at once"] = Line(**{part: Every(1)})
        lines[f"{part}, never"] = Line(**{part: NEVER})
        lines[f"{part}, until"] = Line(**{part: Until(QUERIES["ts_ms"][30].as_py())})
    return scores_of(lines, EVENTS, QUERIES, SETTINGS)


def test_who_watches_is_shown_what_is_live_at_every_query() -> None:
    seen: list[float] = []
    lines = {"live": LIVE}
    scores_of(lines, EVENTS, QUERIES, SETTINGS, watch=lambda live: seen.append(live.metrics["total_logloss"]))
    assert len(seen) == QUERIES.num_rows and seen[0] > 0 and len(set(seen)) > 5


def evaluated(events: pa.Table, queries: pa.Table) -> np.ndarray:
    """By `headrace evaluate`."""
    return np.array(evaluate(events, queries, SCHEMA, SETTINGS.learner)["scores"].to_pylist())


def test_what_is_live_is_what_evaluate_says(found: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["live"], evaluated(EVENTS, QUERIES))


@pytest.mark.parametrize("part", PARTS)
def test_without_a_lag_a_part_is_live(found: dict[str, np.ndarray], part: str) -> None:
    np.testing.assert_array_equal(found[f"{part}, at once"], found["live"])


@pytest.mark.parametrize("number", [8, 9, 10, 11, 40, 41, 42, 43, 63])
def test_with_all_parts_late_the_stream_might_have_ended_at_the_last_refresh(
    found: dict[str, np.ndarray], number: int
) -> None:
    """An event at the very instant of a refresh is not in it; a query at that instant sees the refresh."""
    query = QUERIES.slice(number, 1)
    refreshed_ms = query["ts_ms"][0].as_py() // PERIOD_MS * PERIOD_MS
    past = EVENTS.filter(pa.compute.less(EVENTS["ts_ms"], refreshed_ms))
    np.testing.assert_array_equal(found["together"][number], evaluated(past, query)[0])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_never_refreshed_stays_as_it_began(found: dict[str, np.ndarray], part: str) -> None:
    np.testing.assert_array_equal(found[f"{part}, never"], asyncio.run(unrefreshed(part)))
    assert (found[f"{part}, never"] != found["live"]).any(axis=1).all()


async def unrefreshed(part: str) -> list[np.ndarray]:
    """Live scores, but with no weights learned, no item known, or nobody known."""
    live, scores = Evaluation(EVENTS, SCHEMA, SETTINGS.learner), []
    for query in in_time_order(QUERIES):
        with one_thread():
            await live.advance(query["ts_ms"])
        request = await live.request(query)
        if part == "weights":
            scores.append(np.zeros(40))
        elif part == "counters":
            scores.append(live.model.score(live.encoder.encode(ItemTable(SCHEMA), [request]))[0])
        else:
            scores.append(live.score(replace(request, user=unpack(b"", SCHEMA))))
    return scores


@pytest.mark.parametrize("part", PARTS)
def test_what_stops_at_an_instant_is_live_until_then(found: dict[str, np.ndarray], part: str) -> None:
    stopped = found[f"{part}, until"]
    np.testing.assert_array_equal(stopped[:31], found["live"][:31])
    assert (stopped[-1] != found["live"][-1]).any()


def test_the_bench_tells_every_part_at_every_period(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(EVENTS, tmp_path / "events.parquet")
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    config = tmp_path / "tiny.toml"
    config.write_text('[schema]\nevent_types = ["click"]\ncontext = []\nattributes = []\ncounters = []\n')
    options = argparse.Namespace(
        events=tmp_path / "events.parquet", queries=tmp_path / "queries.parquet", config=config, first=200
    )
    found = run(options)
    assert set(found["mrr"]) == set(lines_of()) and len(lines_of()) == 22
    assert found["difference"]["always"] == (0.0, 0.0, 0.0)
    json.dumps(found)
    report(found)
    assert "| 24 h " in capsys.readouterr().out
