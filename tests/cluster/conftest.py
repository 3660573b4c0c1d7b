"""The whole application, once for all tests that only use it, and afresh for those that break it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from deployments.processes import marked_processes, sweep
from tests import waiting
from tests.cluster.lab import Lab, what_is_missing
from tests.cluster.operating import Operator

START_S = 120.0
Tell = Callable[[str, object], None]
MISSING = what_is_missing()
LAB = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.skipif(MISSING != "", reason=MISSING)]
"""Marks of a test that brings machines up."""


class Application:
    """A running `tests.cluster.program`."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.port = _free_port()
        cluster = {"port": self.port, **config.pop("cluster", {})}
        config = {"cluster": cluster, **config}
        self.log = (folder / "program.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.program", msgspec.json.encode(config).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, "HEADRACE_HOME": str(folder / "home")},
        )
        self._lock = threading.Lock()
        self.run_id = ""
        ready = self._read(START_S)
        self.url: str = ready["url"]
        self.run_id = ready["run_id"]
        self.http = httpx.Client(base_url=self.url, timeout=30.0)

    def call(self, *command: Any, wait_s: float = 60.0) -> Any:
        """Have the program do something; returns its answer."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
            return self._read(wait_s)

    def kill(self, actor: str) -> bool:
        """SIGKILL an actor's process; False while it is being restarted."""
        try:
            self.call("kill", actor)
        except AssertionError:
            return False
        return True

    def post(self, path: str, body: Any) -> Any:
        """POST JSON and expect success."""
        response = self.http.post(path, json=body)
        assert response.status_code < 300, response.text
        return response.json()

    def get(self, path: str) -> Any:
        """GET and expect success, within the time in which whoever is asked may be busy (503)."""

        def asked() -> httpx.Response | None:
            response = self.http.get(path)
            return None if response.status_code == 503 else response

        response = waiting.eventually(asked, path, 20.0)
        assert response.status_code == 200, response.text
        return response.json()

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas."""
        found = []
        for process in marked_processes(self.run_id):
            with contextlib.suppress(psutil.Error):
                if f":{deployment}" in " ".join(process.cmdline()) and "ServeReplica" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def close(self) -> list[Any]:
        """Stop it; returns what it left behind."""
        self.http.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60.0)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()
            left = sweep(self.run_id) if self.run_id else []
            self.log.close()
        return left

    def _read(self, wait_s: float) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(wait_s, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        assert line, f"the program ended:\n{(self.folder / 'program.log').read_text()[-4000:]}"
        answer = msgspec.json.decode(line)
        assert "ok" in answer, answer
        return answer["ok"]


def eventually(check: Callable[[], Any], what: str | Callable[[], str], wait_s: float = 30.0) -> Any:
    """The same as `waiting.eventually`, for a check over HTTP: who can't be reached is asked again."""

    def check_again() -> Any:
        with contextlib.suppress(httpx.TransportError):
            return check()
        return None

    return waiting.eventually(check_again, what, wait_s)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """A running application for tests that leave it as whole as they found it.

    In its folder it writes down what it scored (`captured`), and the versions it scored with (`versions`).
    """
    folder = tmp_path_factory.mktemp("application")
    for name in ("captured", "versions"):
        (folder / name).mkdir()
    application = Application(folder, capture_folder=str(folder / "captured"))
    application.call("keep_versions", str(folder / "versions"))
    yield application
    assert application.close() == []


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Writes a figure to the test's report, and shows it (`pytest -rP`)."""

    def write(what: str, figure: object) -> None:
        record_property(what, str(figure))
        print(f"{what}: {figure}")

    return write


@pytest.fixture
def timed(tell: Tell) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Tells how long a `with` block took."""

    @contextlib.contextmanager
    def measure(what: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        tell(what, f"{time.monotonic() - began_s:.1f} s")

    return measure


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Operator]:
    """The operator of three machines and a store, who has not typed anything yet."""
    assert pytestconfig.cache is not None
    shared, compiled = tmp_path_factory.mktemp("shared"), Path(pytestconfig.cache.mkdir("compiled"))
    with (
        Lab(tmp_path_factory.mktemp("lab"), shared=(shared, compiled)) as lab,
        contextlib.closing(Operator(lab, shared, compiled)) as operator,
    ):
        operator.start_store()
        operator.make_key()
        yield operator
