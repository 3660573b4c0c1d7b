"""Laws of the private server."""

import os
from pathlib import Path

import psutil
import pytest
import redis

from features.embedded import EmbeddedServer, server_binary
from features.errors import StoreUnavailable
from features.priority import CAN_IDLE
from tests.waiting import eventually


def test_it_answers_once_started_and_has_no_process_once_stopped() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert server.pid == client.info("server")["process_id"]
    assert server.pid is None
    assert not server.folder.exists()


def test_it_keeps_what_a_store_asks_for() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "no", "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.config_get("bind")["bind"] == "127.0.0.1"


@pytest.mark.parametrize("end", [EmbeddedServer.stop, EmbeddedServer.kill])
def test_started_again_it_has_the_same_address_and_data(tmp_path: Path, end: object) -> None:
    with EmbeddedServer(tmp_path / "new") as server:
        url, pid = server.url, server.pid
        with redis.Redis.from_url(url) as client:
            client.set("a", "b")
        assert callable(end)
        end(server)
        server.start()
        assert server.url == url
        assert server.pid != pid
        with redis.Redis.from_url(url) as client:
            assert client.get("a") == b"b"


def test_an_ephemeral_one_keeps_no_file(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, is_ephemeral=True) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "b")
        assert client.config_get("appendonly")["appendonly"] == "no"
    assert [path.name for path in tmp_path.iterdir()] == ["server.log"]


def test_starting_twice_is_starting_once() -> None:
    with EmbeddedServer() as server:
        pid = server.pid
        assert server.start().pid == pid


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with EmbeddedServer() as running:
        server = EmbeddedServer(tmp_path, port=running.port)
        with pytest.raises(StoreUnavailable, match=r"[Aa]ddress already in use"):
            server.start()


def test_there_is_a_server_to_start() -> None:
    assert server_binary().is_file()


@pytest.mark.skipif(not CAN_IDLE, reason="idle scheduling is Linux's")
def test_the_rewriting_of_its_file_leaves_the_cores_to_others() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        client.mset({str(number): "" for number in range(100)})
        client.config_set("rdb-key-save-delay", 100_000)  # us: rewriting takes 10 s
        client.bgrewriteaof()
        assert server.pid is not None
        (rewriting,) = psutil.Process(server.pid).children()
        eventually(lambda: os.sched_getscheduler(rewriting.pid) == os.SCHED_IDLE, "the rewriting is idle", 5.0)
        assert os.sched_getscheduler(server.pid) != os.SCHED_IDLE


def test_with_a_password_nobody_comes_in_without_it_and_no_command_line_shows_it() -> None:
    with EmbeddedServer(has_password=True) as server:
        password = server.url.partition("://:")[2].partition("@")[0]
        assert len(password) == 64
        with redis.Redis.from_url(server.url) as known, redis.Redis(port=server.port) as stranger:
            assert known.ping()
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
        assert server.pid is not None
        process = psutil.Process(server.pid)
        assert not any(password in word for word in (*process.cmdline(), *process.environ().values()))
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as known:
            assert known.ping()
