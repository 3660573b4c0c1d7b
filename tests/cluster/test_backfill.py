"""A history comes into a running application while live events arrive: whatever interrupts it, all count once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.processes import HOME_VARIABLE, RunRecord
from features.events import check_event, event_from_row
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import all_of, event_record
from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

Rows = list[dict[str, Any]]
T0_MS = 1_764_000_000_000
SCHEMA = Schema()
N_HISTORY, N_LIVE = 6000, 600
USERS, ITEMS = [f"u{n}" for n in range(300)], [f"i{n}" for n in range(80)]


def stream(n: int, start_ms: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return [
        {
            "ts_ms": start_ms + 500 * number,
            "type": str(rng.choice(["click", "view", "like"])),
            "user": str(rng.choice(USERS)),
            "item": str(rng.choice(ITEMS)),
            "country": str(rng.choice(["PT", "BR"])),
        }
        for number in range(n)
    ]


HISTORY = stream(N_HISTORY, T0_MS, 1)
LIVE = stream(N_LIVE, T0_MS + 500 * N_HISTORY, 2)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application on the event clock."""
    application = Application(tmp_path_factory.mktemp("backfilled"), store={"url": "", "clock": "event"})
    yield application
    assert application.close() == []


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The history in two files."""
    folder = tmp_path_factory.mktemp("history")
    for number, rows in enumerate((HISTORY[:2500], HISTORY[2500:])):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{number}.parquet", row_group_size=800)
    return folder


def backfill(application: Application, history: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", "backfill", str(history), "--port", str(application.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, HOME_VARIABLE: str(application.folder / "home")},
    )


def post(application: Application, rows: Sequence[dict[str, Any]]) -> None:
    events = [{**row, "context": {"country": row["country"]}} for row in rows]
    for event in events:
        del event["country"]
    assert application.post("/v1/events", {"events": events})["accepted"] == len(rows)


async def lived(rows: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    store = MemoryStore(SCHEMA, clock="event")
    for row in rows:
        event = check_event(event_from_row(row), SCHEMA, 0, any_time=True)
        all_of(await store.apply([event_record(event, SCHEMA, store.keys)]))
    return dict(zip(USERS, all_of((await store.read(USERS, []))[0]), strict=True))


async def stored(application: Application) -> tuple[dict[str, bytes], dict[str, bytes]]:
    path = application.folder / "home" / f"run-{application.port}.json"
    record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    store = RedisStore(record.redis_url, SCHEMA, clock="event")
    try:
        states, rows = await store.read(USERS, ITEMS)
    finally:
        await store.close()
    return dict(zip(USERS, all_of(states), strict=True)), dict(zip(ITEMS, all_of(rows), strict=True))


def counted(rows: dict[str, bytes]) -> dict[str, float]:
    """Events of each item, all types, by the longest half-life, decayed to one instant."""
    table = ItemTable(SCHEMA)
    table.load(list(rows), list(rows.values()))
    now_ms = LIVE[-1]["ts_ms"]
    found = {}
    for item in rows:
        counters = table.describe(table.rows[item], now_ms)["counters"]
        found[item] = sum(value for name, value in counters.items() if name.endswith(".604800s"))
    return found


def expected_counts() -> dict[str, float]:
    now_ms = LIVE[-1]["ts_ms"]
    found = dict.fromkeys(ITEMS, 0.0)
    for row in HISTORY + LIVE:
        found[row["item"]] += 2.0 ** ((row["ts_ms"] - now_ms) / 604_800_000)
    return found


def test_whoever_interrupts_it_a_history_and_live_events_count_once(application: Application, history: Path) -> None:
    rng, at = np.random.default_rng(5), 0
    for number in (signal.SIGINT, signal.SIGKILL):
        post(application, LIVE[at : at + 100])
        at += 100
        run = backfill(application, history)
        try:
            run.wait(float(rng.uniform(4.0, 9.0)))
        except subprocess.TimeoutExpired:
            run.send_signal(number)
        run.communicate(timeout=30)
    run = backfill(application, history)
    while run.poll() is None and at < N_LIVE:
        post(application, LIVE[at : at + 5])
        at += 5
    told, _ = run.communicate(timeout=120)
    assert run.returncode == 0, told
    assert f"{N_HISTORY:,} events of {len(USERS)} users and {len(ITEMS)} items through 2025-11-24" in " ".join(
        told.split()
    )
    if at < N_LIVE:
        post(application, LIVE[at:])
    states, _ = asyncio.run(stored(application))
    assert states == asyncio.run(lived(HISTORY + LIVE))
    eventually(
        lambda: counted(asyncio.run(stored(application))[1]) == pytest.approx(expected_counts(), rel=1e-4),
        "item rows that have caught up",
        60.0,
    )
    eventually(lambda: application.get("/v1/model")["events"] == N_HISTORY + N_LIVE, "everything learned", 60.0)
    answer = application.post("/v1/rank", {"user": "u1", "candidates": ITEMS[:20]})
    assert answer["degraded"] == [] and answer["model"]["version"] > 0


def test_a_bad_history_is_refused_and_nothing_is_written(application: Application, tmp_path: Path) -> None:
    rows = stream(50, T0_MS, 3)
    rows[33]["item"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bad.parquet", row_group_size=20)
    before = asyncio.run(stored(application))
    run = backfill(application, tmp_path)
    told, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "bad.parquet, row group 1, column 'item': row 13: Expected a value, got none" in " ".join(told.split())
    assert asyncio.run(stored(application)) == before
