"""What `headrace backfill` says before it begins."""

import asyncio
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.cli import main
from deployments.config import REDIS_URL
from deployments.processes import HOME_VARIABLE
from features.embedded import EmbeddedServer
from features.redis_store import RedisStore
from features.schema import Schema
from tests.features.examples import OTHER_SCHEMA


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of one event; and a home of our own."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    pq.write_table(
        pa.table({"ts_ms": [1_764_000_000_000], "type": ["click"], "user": ["u"], "item": ["a"]}),
        tmp_path / "events.parquet",
    )
    return tmp_path / "events.parquet"


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_without_a_store_it_says_where_it_looked(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backfill", str(events), "--port", "1"]) == 1
    assert "nothing runs on port 1, and neither HEADRACE_REDIS_URL nor [store] names a store" in told(capsys)


def test_a_store_of_another_schema_is_left_alone(
    events: Path, capsys: pytest.CaptureFixture[str], empty_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_URL, empty_server.url)

    async def open_and_close() -> None:
        store = RedisStore(empty_server.url, OTHER_SCHEMA)
        await store.open()
        await store.close()

    asyncio.run(open_and_close())
    assert main(["backfill", str(events)]) == 1
    mine, other = f"{Schema().fingerprint:016x}", f"{OTHER_SCHEMA.fingerprint:016x}"
    assert f"the store is used under schema {other}, not {mine}: give its --config" in told(capsys)


def test_a_file_that_is_none_is_named(
    events: Path, capsys: pytest.CaptureFixture[str], empty_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_URL, empty_server.url)
    events.write_bytes(b"PAR1")
    assert main(["backfill", str(events)]) == 1
    assert "events.parquet: not to be read as Parquet" in told(capsys)
