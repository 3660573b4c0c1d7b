"""`headrace export`, `headrace erase` and `headrace archive` on a real store: what they write, and what they leave."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deployments.cli import main
from deployments.terminal import INTERRUPTED
from features.archiving import READER
from features.embedded import EmbeddedServer
from features.erasures import ARCHIVE, LOG
from features.events import LoggedErasure
from features.intake import Intake
from features.log_files import LogFiles
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import Record, erasure_record
from tests.deployments.item_door import served
from tests.deployments.test_erasure_routes import Door
from tests.features.examples import applied
from tests.scanning import traces_in_files, traces_in_store
from tests.waiting import eventually

T0_MS = 1_764_000_000_000
PERSON = "the-person-who-asked"


@pytest.fixture
def url(empty_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Of a store that the commands find by themselves, with some events."""
    monkeypatch.setenv("HEADRACE_REDIS_URL", empty_server.url)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    events = [
        {"type": "click", "user": PERSON if n % 3 == 0 else f"u{n}", "item": f"i{n}", "ts_ms": T0_MS + n}
        for n in range(30)
    ]
    send(empty_server.url, events)
    return empty_server.url


def send(url: str, events: list[dict[str, Any]], *records: Record) -> None:
    async def accept() -> None:
        store = RedisStore(url, Schema())
        await store.open()
        receipt = (await Intake(store, None).accept(events)).as_dict()
        await applied(store, *records)
        await store.close()
        assert receipt["accepted"] == len(events)

    asyncio.run(accept())


def told(out: Path) -> tuple[dict[str, Any], list[str]]:
    state, *entries = [msgspec.json.decode(line) for line in out.read_bytes().splitlines()]
    return state, [entry["item"] for entry in entries]


def test_an_export_holds_what_is_in_the_store_and_in_the_archive_once(url: str, tmp_path: Path) -> None:
    out, archive = tmp_path / "person.ndjson", str(tmp_path / "log")
    expected = [f"i{n}" for n in range(0, 30, 3)]
    assert main(["export", PERSON, "--out", str(out)]) == 0
    state, items = told(out)
    assert state["user"] == PERSON and items == expected
    assert main(["archive", archive, "--once"]) == 0
    send(url, [{"type": "click", "user": PERSON, "item": "later", "ts_ms": T0_MS + 99}])
    trim(url, archive)
    assert main(["export", PERSON, "--out", str(out)]) == 0
    assert told(out)[1] == ["later"]
    assert main(["export", PERSON, "--out", str(out), "--archive", archive]) == 0
    assert told(out)[1] == [*expected, "later"]


def trim(url: str, archive: str) -> None:
    async def drop() -> None:
        store = RedisStore(url, Schema())
        await store.trim(LogFiles(archive).reached())
        await store.close()

    asyncio.run(drop())


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@contextmanager
def once_asked(door: Door, do: Callable[[], Any]) -> Iterator[None]:
    """Meanwhile, as soon as an erasure is under way."""

    def wait() -> None:
        eventually(lambda: door.store._erasing, "it is asked")
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def test_an_erasure_is_asked_for_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    door = Door()
    with served(door.app) as where:
        assert main(["erase", PERSON, "--url", where]) == 0
        assert f"{where}/v1/erasures/" in shown(capsys)
        asyncio.run(door.carry_out())
        with once_asked(door, lambda: asyncio.run(door.carry_out())):
            assert main(["erase", PERSON, "--wait", "--url", where]) == 0
    assert "after it was asked" in shown(capsys) and traces_in_store(door.store, [PERSON]) == []


def test_whoever_stops_waiting_is_told_where_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    door = Door()
    with served(door.app) as where, once_asked(door, lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert main(["erase", PERSON, "--wait", "--url", where]) == INTERRUPTED
    assert f"{where}/v1/erasures/" in shown(capsys)


def test_a_file_that_cannot_be_written_is_named(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", PERSON, "--out", str(tmp_path / "none" / "x")]) == 1
    assert "--out" in capsys.readouterr().err


def test_archive_erases_from_its_folder_who_is_gone_from_the_log(url: str, tmp_path: Path) -> None:
    archive = tmp_path / "log"
    assert main(["archive", str(archive), "--once"]) == 0
    assert traces_in_files(archive, [PERSON])
    names = {path.name for path in archive.rglob("*.parquet")}

    async def steps() -> dict[str, int]:
        store, bulk = RedisStore(url, Schema()), RedisBulk(url)
        await applied(store, erasure_record(LoggedErasure(PERSON, T0_MS), bulk.keys, "e1"))
        noted = (await bulk.erasing())["e1"]
        await bulk.note_erasing("e1", noted.after(LOG, 5))
        await store.close()
        await bulk.close()
        return noted.steps

    assert asyncio.run(steps()) == {}
    assert main(["archive", str(archive), "--once"]) == 0

    async def noted() -> tuple[dict[str, int], list[str]]:
        bulk = RedisBulk(url)
        found = (await bulk.erasing())["e1"].steps, list(await bulk.readers())
        await bulk.close()
        return found

    found, readers = asyncio.run(noted())
    assert found.keys() == {LOG, ARCHIVE} and readers == [READER]
    assert traces_in_files(archive, [PERSON]) == []
    assert names <= {path.name for path in archive.rglob("*.parquet")}
