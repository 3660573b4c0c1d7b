"""The systems that are measured, each a process of its own with whatever it starts.

    python -m benchmarks.systems NAME --port P --redis URL --folder VERSIONS

`headrace` is the whole application (`deployments.app.Run`) with its defaults; the others are in `benchmarks.rivals`.

`System` starts one as a child with an environment free of Ray's settings, so that none sees another's, waits until it
answers a rank, and ends it by its mark (`deployments.processes.sweep`).
"""

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import msgspec
import psutil

from benchmarks.rivals.options import Options, export
from deployments import processes
from deployments.app import Run
from deployments.cluster import ClusterConfig, remove_run_folder
from deployments.config import Config
from deployments.gate import AccessConfig
from deployments.ranking import RankConfig
from features.connect import StoreConfig
from features.embedded import _free_port

START_S: Final = 180.0
STOP_S: Final = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What there is to know about a system before it is started."""

    module: str = ""
    """In `benchmarks.rivals`; empty: Headrace."""
    function: str = "run"
    package: str = ""
    """What must be installed for it, beside what the application needs."""
    is_floor: bool = False
    """Whether it answers without ranking."""
    takes_lists: bool = False
    """Whether it expects a request in a list of one."""


KINDS: Final = {
    "floor": Kind(module="floor", is_floor=True),
    "uvicorn-floor": Kind(module="uvicorn", function="run_floor", is_floor=True),
    "headrace": Kind(),
    "uvicorn": Kind(module="uvicorn"),
    "serve": Kind(module="serve"),
    "mosec": Kind(module="mosec", package="mosec"),
    "litserve": Kind(module="litserve", package="litserve"),
    "bentoml": Kind(module="bentoml", package="bentoml", takes_lists=True),
}


def absence(name: str) -> str:
    """Why a system can't be measured here; empty if it can."""
    package = KINDS[name].package
    try:
        if package:
            version(package)
    except PackageNotFoundError:
        return f"{package} is not installed (pip install -e '.[bench]')"
    return ""


def packed(name: str, bodies: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Bodies as a system expects them."""
    return tuple(b"[" + body + b"]" for body in bodies) if KINDS[name].takes_lists else bodies


class System:
    """A system as a child process: a `with` block in which `port` answers `POST /v1/rank`.

    Args:
        name: One of `KINDS`.
        redis_url: Store to use; it must outlive the block.
        folder: Where versions are kept; a rival reads its weights from there.
        n_rankers: Replicas of Headrace.
        has_keys: Whether Headrace wants keys; `api_key` opens everything.
    """

    def __init__(
        self,
        name: str,
        *,
        redis_url: str,
        folder: Path,
        log_decisions: bool = True,
        n_rankers: int = 1,
        has_keys: bool = False,
    ) -> None:
        self.name = name
        self.port = _free_port()
        self.api_key: str | None = None
        self._redis_url = redis_url
        self._has_keys = has_keys
        self._arguments = ["--port", str(self.port), "--redis", redis_url, "--folder", str(folder)]
        self._arguments += ["--rankers", str(n_rankers), *([] if log_decisions else ["--no-decisions"])]
        self._arguments += ["--keys"] if has_keys else []
        self._run_id = uuid.uuid4().hex
        self._home = tempfile.TemporaryDirectory(prefix="headrace-bench-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> str:
        """Its `HEADRACE_HOME`, where its run file is."""
        return self._home.name

    def __enter__(self) -> Self:
        root = str(Path(__file__).parents[1])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            processes.RUN_ID_VARIABLE: self._run_id,
            processes.HOME_VARIABLE: self._home.name,
            "PYTHONPATH": root,  # Ray's workers import `benchmarks` too
            "SPT_NOENV": "1",  # keeps the mark readable, see deployments.cluster
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # as Headrace sets it; Ray's 15 would handicap a rival
            "OPENBLAS_NUM_THREADS": "1",  # one scoring core for everybody
        }
        log = Path(self._home.name) / "system.log"
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.systems", self.name, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=root,
                env=environment,
            )
        try:
            self._wait_until_ready(self._process, log)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def new_key(self, name: str, *options: str) -> str:
        """Make an API key, as an operator would."""
        command = [sys.executable, "-m", "deployments.cli", "keys", "add", name, *options]
        environment = {**os.environ, "HEADRACE_REDIS_URL": self._redis_url}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        return processes.marked_processes(self._run_id)

    def cpu_s(self) -> float:
        """Processor time all its processes have used so far, children that ended excepted."""
        total_s = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                total_s += used.user + used.system
        return total_s

    def stop(self) -> None:
        """Ask it to stop in order, then end whatever is left of it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        processes.sweep(self._run_id)
        remove_run_folder(self._run_id)
        self._home.cleanup()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline_s = time.monotonic() + START_S
        (body,) = packed(self.name, (b'{"user":"headrace-ready","candidates":["headrace-ready"]}',))
        headers = {"content-type": "application/json"}
        with httpx.Client(timeout=5.0) as client:
            while time.monotonic() < deadline_s and process.poll() is None:
                if self._has_keys and self.api_key is None:
                    self.api_key = self._read_key()
                    headers["authorization"] = f"Bearer {self.api_key}"
                with contextlib.suppress(httpx.TransportError):
                    if client.post(f"{self.url}/v1/rank", content=body, headers=headers).status_code == 200:
                        return
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not start; the end of its log:\n{log.read_text()[-3000:]}")

    def _read_key(self) -> str | None:
        """The key of the run, once its run file is there."""
        file = Path(self.home) / f"run-{self.port}.json"
        return str(msgspec.json.decode(file.read_bytes())["api_key"]) if file.exists() else None


def run_headrace(options: Options) -> None:
    """Run the application until told to stop."""
    config = Config(
        store=StoreConfig(url=options.redis_url),
        cluster=ClusterConfig(port=options.port),
        rank=RankConfig(log_decisions=options.log_decisions),
        folder=options.folder,
        n_rankers=options.n_rankers,
        access=AccessConfig(keys="on" if options.has_keys else "auto"),
    )
    with Run(config), processes.termination() as stop:
        stop.wait()


def main() -> None:
    """Run one system."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=KINDS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--no-decisions", action="store_true")
    parser.add_argument("--rankers", type=int, default=1)
    parser.add_argument("--keys", action="store_true")
    given = parser.parse_args()
    options = Options(
        port=given.port,
        redis_url=given.redis,
        folder=given.folder,
        log_decisions=not given.no_decisions,
        n_rankers=given.rankers,
        has_keys=given.keys,
    )
    export(options)
    kind = KINDS[given.name]
    if kind.module:  # most import Ray, whose settings Headrace and its floor make first
        getattr(importlib.import_module(f"benchmarks.rivals.{kind.module}"), kind.function)(options)
    else:
        run_headrace(options)


if __name__ == "__main__":
    main()
