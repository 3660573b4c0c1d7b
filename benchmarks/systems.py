"""The systems that are measured, each in a process and a Ray cluster of its own.

    python -m benchmarks.systems headrace --port P --redis URL --folder VERSIONS
    python -m benchmarks.systems serve    --port P --redis URL --folder VERSIONS

`headrace` is the whole application (`deployments.app.Run`) with its defaults. `serve` is the rival: default Ray Serve
around the same `Ranking` (`benchmarks.rival`). A system writes `ready` and stays until it is told to stop.

`System` starts one as a child with an environment free of Ray's settings, so that neither sees the other's, and ends it
by its mark (`deployments.processes.sweep`).
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
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import psutil

from deployments import processes
from deployments.app import Run
from deployments.cluster import ClusterConfig, remove_run_folder
from deployments.config import Config
from features.connect import StoreConfig
from features.embedded import _free_port

START_S: Final = 180.0
STOP_S: Final = 30.0
READY: Final = "ready"

Kind = Literal["headrace", "serve"]


class System:
    """A system as a child process: a `with` block in which `port` answers `POST /v1/rank`.

    Args:
        redis_url: Store to use; it must outlive the block.
        folder: Where versions are kept; the rival reads its weights from there.
    """

    def __init__(self, kind: Kind, *, redis_url: str, folder: Path) -> None:
        self.kind = kind
        self.port = _free_port()
        self._arguments = ["--port", str(self.port), "--redis", redis_url, "--folder", str(folder)]
        self._run_id = uuid.uuid4().hex
        self._home = tempfile.TemporaryDirectory(prefix="headrace-bench-")
        self._process: subprocess.Popen[str] | None = None

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
            "RAY_worker_niceness": "0",  # as Headrace sets it; Ray's 15 would handicap the rival
        }
        log = Path(self._home.name) / "system.log"
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.systems", self.kind, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
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

    def cpu_s(self) -> float:
        """Processor time all its processes have used so far, children that ended excepted."""
        total_s = 0.0
        for process in processes.marked_processes(self._run_id):
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

    def _wait_until_ready(self, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and process.poll() is None:
            if (process.stdout.readline() or "").strip() == READY:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.kind} did not start; the end of its log:\n{log.read_text()[-3000:]}")


def run_headrace(options: argparse.Namespace) -> None:
    """Run the application until told to stop."""
    config = Config(
        store=StoreConfig(url=options.redis),
        cluster=ClusterConfig(port=options.port),
        folder=str(options.folder),
    )
    with Run(config), processes.termination() as stop:
        print(READY, flush=True)
        stop.wait()


def run_rival(options: argparse.Namespace) -> None:
    """Run default Ray Serve until told to stop."""
    rival = importlib.import_module("benchmarks.rival")  # imports Ray, whose settings the other system sets first
    with rival.running(options.port, StoreConfig(url=options.redis), options.folder), processes.termination() as stop:
        print(READY, flush=True)
        stop.wait()


def main() -> None:
    """Run one system."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems", description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("headrace", "serve"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    {"headrace": run_headrace, "serve": run_rival}[options.kind](options)


if __name__ == "__main__":
    main()
