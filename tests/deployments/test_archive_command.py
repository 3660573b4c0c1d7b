"""`headrace archive` on a real store: what is archived, gone on with, stopped, and lived through again."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.progress import Progress

from deployments.cli import main
from deployments.cli_archive import Archiving
from deployments.errors import ConfigError
from deployments.replay import Replay, read_events
from features.archiving import READER, Archiver
from features.embedded import EmbeddedServer
from features.errors import StoreUnavailable
from features.events import START, Entry, Positions
from features.intake import Intake
from features.keys import Keys
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from features.store import all_of, decision_record, item_record
from tests.features.examples import attributes, decision
from tests.waiting import eventually

T0_MS = 1_764_000_000_000
SCHEMA = Schema()
Events = list[dict[str, Any]]


@pytest.fixture
def url(empty_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Of a store that the command finds by itself."""
    monkeypatch.setenv("HEADRACE_REDIS_URL", empty_server.url)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return empty_server.url


def some_events(n: int, start: int = 0) -> Events:
    return [
        {
            "type": ("view", "click")[number % 2],
            "user": f"u{number % 50}",
            "item": str(number % 7),
            "id": f"e{number}",
            "ts_ms": T0_MS + number,
            "value": 1.0 + number % 3,
            "context": {"device": ("tv", 5, 0.5, True)[number % 4], "session": number % 9, "country": "nl"},
        }
        for number in range(start, start + n)
    ]


def store_at(url: str, n_partitions: int = 64) -> RedisStore:
    return RedisStore(url, SCHEMA, keys=Keys(n_partitions=n_partitions), clock="event")


def send(url: str, events: Events, n_partitions: int = 64) -> None:
    async def accept() -> None:
        store = store_at(url, n_partitions)
        await store.open()
        receipt = (await Intake(store, None).accept(events)).as_dict()
        await store.close()
        assert receipt["accepted"] == len(events)

    asyncio.run(accept())


def asked(url: str, n_partitions: int = 64) -> tuple[list[Entry], dict[str, Positions]]:
    """The log, by partition, and its readers."""

    async def ask() -> tuple[list[Entry], dict[str, Positions]]:
        store, bulk = store_at(url, n_partitions), RedisBulk(url)
        log, readers = await store.read_log({}, count=1 << 30), await bulk.readers()
        await store.close()
        await bulk.close()
        return sorted(log, key=lambda entry: (entry.partition, entry.id)), readers

    return asyncio.run(ask())


def archived(folder: Path) -> list[Entry]:
    files = LogFiles(str(folder))
    entries = [entry for p in sorted(files.reached()) for entry in files.read(p, START, 1 << 30)]
    files.close()
    return entries


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


class Stopping:
    """Sends Ctrl-C as soon as something is so."""

    def __init__(self, is_time: Callable[[], Any], number: int = signal.SIGINT) -> None:
        self._is_time = is_time
        self._number = number
        self._thread = threading.Thread(target=self._stop)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _stop(self) -> None:
        try:
            eventually(self._is_time, "it is time to stop")
        finally:
            os.kill(os.getpid(), self._number)


def test_once_archives_what_there_is_and_goes_on_from_there(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(url, some_events(300))
    assert main(["archive", str(tmp_path / "log"), "--once"]) == 0
    log, readers = asked(url)
    assert archived(tmp_path / "log") == log and len(log) == 300
    assert readers == {READER: LogFiles(str(tmp_path / "log")).reached()}
    assert "300 entries archived in" in (said := shown(capsys)) and "/s: " in said and "new files in" in said
    send(url, some_events(20, 300))
    assert main(["archive", str(tmp_path / "log"), "--once"]) == 0
    assert "20 entries archived in" in shown(capsys)
    assert archived(tmp_path / "log") == asked(url)[0]
    assert main(["archive", str(tmp_path / "log"), "--once"]) == 0
    assert "0 entries archived in" in shown(capsys)


def test_a_run_that_was_stopped_is_gone_on_with(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    send(url, [{**event, "user": f"u{number}"} for number, event in enumerate(some_events(1500))], 512)
    folder = tmp_path / "log"
    with Stopping(lambda: list(folder.rglob("*.parquet"))):
        assert main(["archive", str(folder), "--once"]) == 130
    assert "stopped; the same command goes on from there" in shown(capsys)
    log, readers = asked(url, 512)
    assert 0 < len(archived(folder)) < len(log) == 1500
    assert readers[READER] == LogFiles(str(folder)).reached()
    assert main(["archive", str(folder), "--once"]) == 0
    assert archived(folder) == log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_follows_the_log_until_it_is_stopped_and_leaves_nothing(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    send(url, some_events(100))
    arrived = threading.Event()

    def sent_more() -> bool:
        """The archive follows by now: it has registered."""
        if READER not in asked(url)[1]:
            return False
        send(url, some_events(50, 100))
        arrived.set()
        return True

    with Stopping(sent_more, number):
        assert main(["archive", f"file://{tmp_path}/log"]) == 0
    assert arrived.is_set()
    assert main(["archive", str(tmp_path / "log"), "--once"]) == 0
    assert archived(tmp_path / "log") == asked(url)[0]
    first, second = [line for line in capsys.readouterr().err.splitlines() if "entries archived" in line]
    assert int(first.split()[0]) >= 100 and int(first.split()[0]) + int(second.split()[0]) == 150


class Away:
    """A memory store that is away for its first reads of the log."""

    def __init__(self, store: MemoryStore, stop: threading.Event) -> None:
        self._store = store
        self._stop = stop
        self._n_away = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read_log(self, positions: Positions, **options: Any) -> list[Entry]:
        """As the store's, later; and the user stops it."""
        if self._n_away:
            self._n_away -= 1
            raise StoreUnavailable("the store went away")
        self._stop.set()
        return await self._store.read_log(positions, **options)


async def test_it_outlasts_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.cli_archive.RETRY_S", 0.01)
    memory, stop = MemoryStore(SCHEMA, clock="event"), threading.Event()
    await Intake(memory, None).accept(some_events(9))
    store = Away(memory, stop)
    archiver = Archiver(store, memory, LogFiles(str(tmp_path)))  # type: ignore[arg-type]
    assert await Archiving(archiver, store, stop, Progress(disable=True)).follow()  # type: ignore[arg-type]
    assert archiver.n_entries == 9


def test_an_archive_can_be_forgotten(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    send(url, some_events(9))
    assert main(["archive", str(tmp_path / "log"), "--once"]) == 0
    assert main(["archive", str(tmp_path / "other"), "--once"]) == 1
    assert "were archived, but not to" in shown(capsys)
    assert main(["archive", "--forget"]) == 0
    assert asked(url)[1] == {}
    assert main(["archive", str(tmp_path / "other"), "--once"]) == 0
    assert archived(tmp_path / "other") == asked(url)[0]


@pytest.mark.parametrize("arguments", [[], ["somewhere", "--forget"]])
def test_a_folder_or_forgetting_is_expected(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", *arguments]) == 1
    assert "expected FOLDER, or --forget alone" in shown(capsys)


def test_without_a_store_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HEADRACE_REDIS_URL", raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    assert main(["archive", str(tmp_path / "log"), "--port", "1"]) == 1
    assert "nothing runs on port 1" in shown(capsys)


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["archive", "--help"])
    assert "example: headrace archive s3://bucket/log --once" in " ".join(capsys.readouterr().out.split())


class Sender:
    """Stands where the client stands, in front of a store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore(SCHEMA, clock="event")
        self.sent: Events = []

    def send(self, events: Events) -> dict[str, Any]:
        """Accept events as the front door does."""
        self.sent += events
        return asyncio.run(Intake(self.store, None).accept(events)).as_dict()


def states(store: MemoryStore) -> list[bytes]:
    return all_of(asyncio.run(store.read([f"u{n}" for n in range(50)], []))[0])


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Sender]:
    """A sender whose store is archived, beside what no event is."""
    twin = Sender()
    twin.send(some_events(200))
    others = [
        item_record(attributes("a", price=3), twin.store.keys),
        decision_record(decision("u1"), b"", twin.store.keys),
    ]

    async def archive() -> None:
        all_of(await twin.store.apply(others))
        archiver = Archiver(twin.store, twin.store, LogFiles(str(tmp_path / "log")))
        await archiver.open()
        await archiver.advance(0.0)
        await archiver.flush()

    asyncio.run(archive())
    yield twin


def test_events_of_an_archive_are_replayed_as_they_were_sent(twin: Sender, tmp_path: Path) -> None:
    other = Sender()
    Replay(other).run(read_events(tmp_path / "log"))  # type: ignore[arg-type]
    assert other.sent == twin.sent
    assert states(other.store) == states(twin.store) and all(states(other.store))
    day = Sender()
    Replay(day).run(read_events(tmp_path / "log" / "date=2025-11-24"))  # type: ignore[arg-type]
    assert day.sent == twin.sent


def test_a_late_event_comes_after_the_queries_that_did_not_know_it(tmp_path: Path) -> None:
    asked_at: list[tuple[int, int]] = []

    class Asked(Sender):
        def rank(self, user: str, candidates: list[str], **options: Any) -> dict[str, Any]:
            asked_at.append((options["now_ms"] - T0_MS, len(self.sent)))
            return {"items": [{"id": candidate, "score": 0.0} for candidate in candidates]}

    events = pa.Table.from_pylist(
        [{"ts_ms": T0_MS + ms, "type": "click", "user": "u", "item": "a"} for ms in (10, 30, 5, 40)]
    )
    queries = pa.table({"query_id": [1, 2, 3], "ts_ms": [T0_MS + ms for ms in (7, 30, 35)], "user": ["u"] * 3})
    queries = queries.append_column("candidates", pa.array([["a"]] * 3))
    Replay(Asked()).run(events, queries)  # type: ignore[arg-type]
    assert asked_at == [(7, 0), (30, 1), (35, 3)]


def test_one_segment_by_itself_is_refused(twin: Sender, tmp_path: Path) -> None:
    segment = LogFiles(str(tmp_path / "log")).segments()[0]
    lone = Path(segment.path).rename(tmp_path / "lone.parquet")
    with pytest.raises(ConfigError, match="name the folder above"):
        read_events(lone)
