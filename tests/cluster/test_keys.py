"""Keys on a real cluster: nobody comes in without one, and they are replaced under load without a refused request."""

import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import msgspec
import psutil
import pytest

from deployments.client import Headrace
from deployments.cluster import run_folder
from deployments.processes import marked_processes
from tests.cluster.conftest import Application, Tell, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

N_ROTATIONS = 5
N_CLIENTS = 4
KEEP_S = 5.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application that wants keys."""
    found = Application(tmp_path_factory.mktemp("guarded"), access={"keys": "on"})
    yield found
    assert found.close() == []


def command(guarded: Application, *arguments: str) -> str:
    """What a command says on standard output; none is given a key."""
    environment = {**os.environ, "HEADRACE_HOME": str(guarded.folder / "home")}
    environment.pop("HEADRACE_API_KEY", None)
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def new_key(guarded: Application, name: str, *options: str) -> str:
    return command(guarded, "keys", "add", name, *options, "--port", str(guarded.port)).strip()


class Visitors:
    """People who ask and tell all the time, with whichever key they were given last."""

    def __init__(self, url: str, token: str) -> None:
        self.token = token
        self.seen: Counter[tuple[str, int]] = Counter()
        """Answers by token and status."""
        self.refused: list[tuple[str, float]] = []
        """By token; when the refusal came, monotonic."""
        self._url = url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(N_CLIENTS)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30.0) as client:
            while not self._is_over.is_set():
                token = self.token
                headers = {"authorization": f"Bearer {token}"}
                user = f"visitor-{number}"
                asked = client.post("/v1/rank", json={"user": user, "candidates": ["a", "b"]}, headers=headers)
                told = client.post(
                    "/v1/events", json={"events": [{"type": "click", "user": user, "item": "a"}]}, headers=headers
                )
                for answer in (asked, told):
                    self.seen[token, answer.status_code] += 1
                    if answer.status_code == 401:
                        self.refused.append((token, time.monotonic()))


def test_nobody_comes_in_without_a_key_by_any_door(guarded: Application) -> None:
    ports = {connection.laddr.port for replica in _replicas(guarded) for connection in replica.net_connections("inet")
             if connection.status == psutil.CONN_LISTEN}  # fmt: skip
    tried = Counter[tuple[str, int]]()
    for port in (guarded.port, *ports):
        for path in ("/v1/rank", "/v1/events"):
            try:
                answer = httpx.post(f"http://127.0.0.1:{port}{path}", json={"user": "u", "candidates": ["a"]})
            except httpx.TransportError:
                continue  # it speaks something else than HTTP
            tried[path, answer.status_code] += 1
    assert tried["/v1/rank", 401] >= 2 and tried["/v1/events", 401] >= 2  # the front's and a replica's
    assert {status for _, status in tried} <= {401, 404}
    assert httpx.get(f"{guarded.url}/v1/health").status_code == 200


def test_keys_are_replaced_under_load_and_no_request_with_a_valid_one_fails(guarded: Application, tell: Tell) -> None:
    with Visitors(guarded.url, new_key(guarded, "web", "--scope", "rank", "--scope", "events")) as visitors:
        tokens = [visitors.token]
        valid_until_s: dict[str, float] = {}
        for _ in range(N_ROTATIONS):
            valid_until_s[tokens[-1]] = time.monotonic() + KEEP_S  # at least: it is kept from when the command acts
            rotated = command(guarded, "keys", "rotate", "web", "--keep-s", str(KEEP_S), "--port", str(guarded.port))
            tokens.append(rotated.strip())
            visitors.token = tokens[-1]
            eventually(lambda: visitors.seen[visitors.token, 200] > 20, "requests with the new key")
        with Headrace(guarded.url, api_key=tokens[0]) as late:
            eventually(lambda: _status(late) == 401, "the first key opens nothing", wait_s=KEEP_S + 10.0)
    assert len(set(tokens)) == N_ROTATIONS + 1
    assert {status for _, status in visitors.seen} - {401} == {200, 202}
    assert [token for token, at_s in visitors.refused if at_s < valid_until_s.get(token, math.inf)] == []
    tell("requests while keys were replaced", sum(visitors.seen.values()))
    tell("refused before their key was over", 0)
    tell("refused after", len(visitors.refused))
    command(guarded, "keys", "revoke", "web", "--port", str(guarded.port))
    with Headrace(guarded.url, api_key=tokens[-1]) as revoked:
        eventually(lambda: _status(revoked) == 401, "a key that was taken away opens nothing", wait_s=10.0)


def test_commands_on_this_machine_need_no_key_said_and_what_they_do_is_in_the_record(guarded: Application) -> None:
    eventually(
        lambda: '"version": 0' not in command(guarded, "status", "--port", str(guarded.port), "--json"), "a model"
    )
    command(guarded, "rollback", "--url", guarded.url, "--reason", "to try it")
    command(guarded, "resume", "--url", guarded.url)
    shown = command(guarded, "audit", "--url", guarded.url, "--json")
    assert '"what": "rollback"' in shown and "to try it" in shown and "operator@" in shown


def test_the_key_of_the_run_is_for_its_user_alone_and_in_no_log_nor_command_line(guarded: Application) -> None:
    (record,) = (guarded.folder / "home").glob("run-*.json")
    assert record.stat().st_mode & 0o077 == 0
    secret = msgspec.json.decode(record.read_bytes())["api_key"].rpartition("_")[2]
    assert len(secret) == 64
    processes = marked_processes(guarded.run_id)
    assert len(processes) > 5
    for process in processes:
        assert not any(secret in word for word in _words(process))
    for path in (*run_folder(guarded.run_id).rglob("*"), *guarded.folder.rglob("*.log")):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def _words(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return []  # it has gone, or is another's


def _replicas(guarded: Application) -> list[psutil.Process]:
    return [*guarded.replicas("Ranker"), *guarded.replicas("Events")]


def _status(client: Headrace) -> int:
    return client._http.get("/v1/model").status_code
