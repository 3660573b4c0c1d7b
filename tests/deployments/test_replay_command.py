"""What `headrace replay --without` and `headrace promote` say and do before there is anything to compute."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from deployments import cli_replay
from deployments.cli import main
from deployments.cli_archive import Archiving
from deployments.config import REDIS_URL, Config, with_store
from deployments.processes import HOME_VARIABLE
from deployments.replay import without
from features.archiving import Archiver
from features.backfill.leaving_out import Choice
from features.backfill.lineages import Begun, Made, begin, finish
from features.backfill.planning import plan_of
from features.embedded import EmbeddedServer
from features.errors import ReaderMoved, StoreRefused
from features.intake import Intake
from features.log_files import LogFiles
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from features.sources import Quarantine
from tests.features.examples import OTHER_SCHEMA

CHOICE = Choice(without=("bad",))
EVENTS = [{"type": "click", "user": f"u{n}", "item": "a", "source": "bad" if n % 3 else "good"} for n in range(9)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our own, and nothing to wait for."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr("deployments.cli_replay.KNOWN_S", 0.0)


@pytest.fixture
def config(empty_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a store with some events."""
    monkeypatch.setenv(REDIS_URL, empty_server.url)
    send(empty_server.url, EVENTS)
    return with_store(Config(), url=empty_server.url)


def send(url: str, events: list[dict[str, Any]]) -> None:
    async def accept() -> None:
        store = RedisStore(url, Schema())
        await store.open()
        receipt = (await Intake(store, None).accept(events)).as_dict()
        await store.close()
        assert receipt["accepted"] == len(events)

    asyncio.run(accept())


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def prepare(config: Config, folder: Path, choice: Choice = CHOICE) -> dict[str, int]:
    return asyncio.run(cli_replay._prepare(config, str(folder), choice, (), threading.Event()))


def quarantined(url: str) -> dict[str, Quarantine]:
    async def ask() -> dict[str, Quarantine]:
        bulk = RedisBulk(url)
        try:
            return await bulk.quarantined()
        finally:
            await bulk.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected EVENTS to send, or --without NAME"),
        (["events.parquet", "--with", "x"], "--with: it is for the log, expected no EVENTS beside it"),
        (["events.parquet", "--before", "x"], "--before: it is for the log"),
        (["events.parquet", "--archive", "x"], "--archive: it is for the log"),
        (["events.parquet", "--config", "x"], "--config: it is for the log"),
        (["events.parquet", "--port", "1"], "--port: it is for the log"),
        (["events.parquet", "--memory", "1"], "--memory: it is for the log"),
        (["events.parquet", "--folder", "x"], "--folder: it is for the log"),
        (["--without", "x", "--queries", "q"], "--queries: expected EVENTS to send"),
        (["--without", "x", "y", "--with", "y"], "--with: 'y' is named in --without too"),
        (["--without", "x"], "make one: headrace archive FOLDER --once, then --archive FOLDER"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", *arguments]) == 1
    assert expected in told(capsys)


def test_a_recorded_stream_goes_without_a_source() -> None:
    events = pa.Table.from_pylist(EVENTS)
    assert without(events, ["bad"])["source"].to_pylist() == ["good"] * 3
    assert without(events, []).num_rows == without(events.drop_columns("source"), ["bad"]).num_rows == 9


def test_sources_are_put_in_quarantine_and_then_the_log_is_archived(config: Config, tmp_path: Path) -> None:
    since_ms = prepare(config, tmp_path / "log")
    known = quarantined(config.store.url)
    assert {name: (one.who, one.why) for name, one in known.items()} == {
        "bad": ("headrace replay", "being replayed without")
    }
    assert since_ms == {"bad": known["bad"].since_ms}
    assert len(LogFiles(str(tmp_path / "log")).segments()) > 0
    send(config.store.url, EVENTS)
    assert prepare(config, tmp_path / "log") == since_ms
    files = LogFiles(str(tmp_path / "log"))
    assert sum(1 for partition in files.reached() for _ in files.entries(partition)) == 18
    files.close()


def test_it_says_what_else_is_in_quarantine(config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prepare(config, tmp_path / "log", Choice(without=("bad", "worse")))
    assert "worse is in quarantine from now on" in told(capsys)
    prepare(config, tmp_path / "log", Choice(without=("bad",), counted=("worse",)))
    assert "worse is in quarantine: what it sends from now on does not count" in told(capsys)
    prepare(config, tmp_path / "log")
    assert "worse is in quarantine: what it sent before counts" in told(capsys)


def test_who_archives_at_the_same_time_is_waited_for(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_moved, once = [0], Archiving.once

    async def moved_twice(archiving: Archiving) -> bool:
        n_moved[0] += 1
        if n_moved[0] < 3:
            raise ReaderMoved("another archiver is at work")
        return await once(archiving)

    monkeypatch.setattr(Archiving, "once", moved_twice)
    prepare(config, tmp_path / "log")
    assert n_moved == [3]


def test_a_log_that_began_late_is_refused(config: Config, tmp_path: Path) -> None:
    async def trim() -> None:
        store = RedisStore(config.store.url, Schema())
        await store.trim(await store.heads())
        await store.close()

    asyncio.run(trim())
    send(config.store.url, EVENTS)
    with pytest.raises(StoreRefused, match="does not reach back to its beginning"):
        prepare(config, tmp_path / "log")


def lineage(config: Config, tmp_path: Path, **other: Any) -> Begun:
    """One that is begun."""
    folder = tmp_path / "log"

    async def archive() -> None:
        store, bulk = RedisStore(config.store.url, Schema()), RedisBulk(config.store.url)
        archiver = Archiver(store, bulk, LogFiles(str(folder)))
        await archiver.open()
        await archiver.advance(0.0)
        await archiver.flush()
        await store.close()
        await bulk.close()

    asyncio.run(archive())
    plan = replace(plan_of([str(folder)], Schema(), 64, "", choice=CHOICE), **other)
    begun = Begun(replace(plan, folder=f"{tmp_path}/home/lineages/{plan.name}"), (), str(folder), {"bad": 1})
    begin(begun)
    return begun


def test_lineages_are_listed(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = lineage(config, tmp_path)
    assert main(["promote"]) == 0
    assert begun.plan.name in (said := capsys.readouterr().out) and "unfinished" in said
    finish(begun, Made(1_764_000_000_000, 3, {"bad": 6}, {}, 0.5))
    assert main(["promote"]) == 0
    assert "2025-11-24 16:00:00" in (said := capsys.readouterr().out) and "bad" in said


def test_only_a_finished_lineage_of_this_store_is_promoted(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", "x"]) == 1
    assert "NAME: expected a lineage (none), got 'x'" in told(capsys)
    plain, many = lineage(config, tmp_path), lineage(config, tmp_path, n_partitions=128)
    strange = lineage(config, tmp_path, schema=OTHER_SCHEMA)
    assert main(["promote", plain.plan.name]) == 1
    assert f"lineage {plain.plan.name} is not finished: give the same headrace replay again" in told(capsys)
    for begun in (many, strange):
        finish(begun, Made(1, 3, {}, {}, 0.5))
    assert main(["promote", many.plan.name]) == 1
    assert "store.n_partitions: expected that of the lineage, 128, got 64" in told(capsys)
    assert main(["promote", strange.plan.name]) == 1
    assert f"schema: expected that of the lineage, {OTHER_SCHEMA.fingerprint:016x}" in told(capsys)
