"""Processes of a run are found by their mark and ended; the run file tells the truth."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments import processes
from deployments.processes import RUN_ID_VARIABLE

SLEEP = "import sys, time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = f"""
import os, subprocess, sys
os.environ.pop("{RUN_ID_VARIABLE}")
subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
{SLEEP}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(processes.HOME_VARIABLE, str(tmp_path))
    return tmp_path


class Nursery:
    """Starts marked children and ends them all."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._children: list[subprocess.Popen[str]] = []

    def start(self, program: str, *, n_lines: int = 1, run_id: str | None = None) -> int:
        """Start a program with the mark; return its id once it has printed `n_lines`."""
        environment = {**os.environ, RUN_ID_VARIABLE: run_id or self.run_id}
        child = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        assert child.stdout is not None
        for _ in range(n_lines):
            assert child.stdout.readline() == "up\n"
        return child.pid

    def close(self) -> None:
        """Kill and reap the children."""
        for child in self._children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    children = Nursery(f"test-{os.getpid()}")
    yield children
    children.close()


def test_a_sweep_ends_what_carries_the_mark_and_nothing_else(nursery: Nursery) -> None:
    ours, stubborn = nursery.start(SLEEP), nursery.start(STUBBORN)
    others = nursery.start(SLEEP, run_id="another")
    ended = {one.pid: one.was_killed for one in processes.sweep(nursery.run_id, grace_s=0.3)}
    assert ended == {ours: False, stubborn: True}
    assert psutil.Process(others).status() != psutil.STATUS_ZOMBIE
    assert processes.sweep(nursery.run_id) == []


def test_a_sweep_ends_descendants_that_lost_the_mark(nursery: Nursery) -> None:
    parent = nursery.start(PARENT, n_lines=2)
    (child,) = psutil.Process(parent).children()
    assert {one.pid for one in processes.sweep(nursery.run_id, grace_s=2)} == {parent, child.pid}


def test_a_sweep_spares_itself_and_whom_it_is_told_to(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID_VARIABLE, nursery.run_id)
    spared = nursery.start(SLEEP)
    assert processes.sweep(nursery.run_id, spare=[spared]) == []


def test_children_inherit_the_mark_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_ID_VARIABLE, raising=False)
    run_id = processes.mark_this_process()
    assert run_id == os.environ[RUN_ID_VARIABLE] == processes.mark_this_process()
    assert processes.mark_this_process("chosen") == os.environ[RUN_ID_VARIABLE] == "chosen"


def test_a_run_file_comes_back_as_written_and_goes_with_its_run() -> None:
    record = processes.new_record("r1", 8123, redis_url="redis://x", log_path="/l")
    assert processes.read_record(8123) is None
    processes.write_record(record)
    assert processes.read_record(8123) == record
    assert not processes.is_stale(record)
    assert not processes.remove_record(8123, "somebody else's")
    assert processes.remove_record(8123, "r1")
    assert processes.read_record(8123) is None


def test_a_broken_run_file_counts_as_none(home: Path) -> None:
    (home / "run-8123.json").write_text('{"run_id": 1}')
    assert processes.read_record(8123) is None


def test_a_run_is_stale_once_its_process_is_gone_or_another_has_its_id(nursery: Nursery) -> None:
    record = processes.new_record("r1", 8123)
    reused = processes.msgspec.structs.replace(record, pid_started_ms=record.pid_started_ms - 60_000)
    gone = processes.msgspec.structs.replace(record, pid=nursery.start(SLEEP))
    processes.sweep(nursery.run_id)
    assert processes.is_stale(reused)
    assert processes.is_stale(gone)
