"""What is refused before anything is started."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deployments.app import Run, try_store
from deployments.cli import main
from deployments.config import Config, with_store
from features.embedded import EmbeddedServer
from features.errors import LogGap, StoreRefused, StoreUnavailable
from features.events import ERASURE, START, Entry, LoggedErasure, StreamId, encode_body
from features.log_files import LogFiles


@pytest.fixture
def forgetful(empty_server: EmbeddedServer) -> Iterator[Config]:
    """The configuration of a store that evicts."""
    with redis.Redis.from_url(empty_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield with_store(Config(), url=empty_server.url)
        client.config_set("maxmemory-policy", "noeviction")


def test_a_run_on_a_store_that_forgets_does_not_start(forgetful: Config) -> None:
    run = Run(forgetful)
    with pytest.raises(StoreRefused, match="maxmemory-policy is allkeys-lru"):
        run.start()
    assert run.cluster.ray_address == ""


def test_the_command_line_says_how_to_mend_it(
    forgetful: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", forgetful.store.url)
    assert main(["up", "--port", "8999"]) == 1
    assert "CONFIG SET maxmemory-policy noeviction" in " ".join(capsys.readouterr().err.split())


def test_a_store_without_replicas_promises_none(empty_server: EmbeddedServer) -> None:
    with pytest.raises(StoreRefused, match="every master needs a replica"):
        try_store(with_store(Config(), url=empty_server.url, durability="replica"))


def test_an_archive_of_another_log_is_refused_and_left_as_it_is(empty_server: EmbeddedServer, tmp_path: Path) -> None:
    config = with_store(Config(), url=empty_server.url, archive=str(tmp_path / "log"))
    try_store(config)
    assert not (tmp_path / "log").exists()
    position = StreamId(1_764_000_000_000, 0)
    entry = Entry(position, 3, ERASURE, encode_body(LoggedErasure("u", 1)), b"")
    segment = LogFiles(config.store.archive).write([entry], START, config.schema)
    with pytest.raises(LogGap, match="archive of another log; take another folder"):
        try_store(config)
    assert Path(segment.path).exists()


def test_a_store_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        try_store(with_store(Config(), url="redis://127.0.0.1:1/0"))
