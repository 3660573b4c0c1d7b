"""Which processes belong to a run, and how they are ended.

Owns the mark (an environment variable that every child inherits), the sweep that ends whatever carries it, and the run
file that lets another command find a run. Does not know what the processes are: Ray, HAProxy and Redis look alike here.

The leading process marks itself after it began, which the kernel does not show: the run file names that one.

Invariant: a process is ended because it carries this run's mark or descends from one that does, never because of its
name or its port. Ray rewrites the titles of its workers, which damages their visible environment; descent finds those.
"""

import os
import signal
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec
import psutil

RUN_ID_VARIABLE = "HEADRACE_RUN_ID"
HOME_VARIABLE = "HEADRACE_HOME"


class Ended(msgspec.Struct, frozen=True):
    """A process the sweep ended."""

    pid: int
    name: str
    was_killed: bool


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What another command needs to find a run: the run file's content."""

    run_id: str
    pid: int
    pid_started_ms: int
    host: str
    port: int
    redis_url: str
    ray_address: str
    started_ms: int
    log_path: str
    api_key: str = ""
    """Opens everything, for commands on this machine; empty where nobody needs one."""


def mark_this_process(run_id: str | None = None) -> str:
    """Give everything started from here on the mark of a run; return its id.

    Args:
        run_id: The id to use; by default the one inherited, else a new one.
    """
    run_id = run_id or os.environ.get(RUN_ID_VARIABLE) or uuid.uuid4().hex
    os.environ[RUN_ID_VARIABLE] = run_id
    return run_id


def marked_processes(run_id: str, *, spare: Collection[int] = ()) -> list[psutil.Process]:
    """List what carries the mark or descends from it, without this process, its ancestors and those in `spare`."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents()), *spare}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid not in spared and _carries(process, run_id):
            found[process.pid] = process
            found.update((child.pid, child) for child in _descendants(process))
    return [process for pid, process in found.items() if pid not in spared and _is_alive(process)]


def sweep(run_id: str, *, grace_s: float = 3.0, spare: Collection[int] = ()) -> list[Ended]:
    """End every process of a run: ask first, kill after the grace, look again until none is left.

    Args:
        grace_s: How long a process may take to end by itself.
        spare: Process ids to leave alone (this process and its ancestors always are).
    Returns:
        What was ended, in no particular order; empty when the run had already gone.
    """
    ended: dict[int, Ended] = {}
    for _ in range(5):  # a supervisor may have started a child between the look and the signal
        processes = marked_processes(run_id, spare=spare)
        if not processes:
            break
        for one in _end(processes, grace_s):
            ended[one.pid] = one
    return list(ended.values())


def _end(processes: list[psutil.Process], grace_s: float) -> list[Ended]:
    names = {process.pid: _name(process) for process in processes}
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(processes, timeout=grace_s)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=grace_s)
    killed = {process.pid for process in stubborn}
    return [Ended(pid=pid, name=name, was_killed=pid in killed) for pid, name in names.items()]


def _carries(process: psutil.Process, run_id: str) -> bool:
    try:
        return bool(process.environ().get(RUN_ID_VARIABLE) == run_id)
    except (psutil.Error, OSError):
        return False  # gone, or another user's


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return "?"


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil refuses when the id now belongs to another process
    except psutil.Error:
        return


def home() -> Path:
    """Return the folder for run files and logs: `HEADRACE_HOME`, else `~/.local/state/headrace`."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".local" / "state" / "headrace"


def new_record(
    run_id: str,
    port: int,
    *,
    host: str = "127.0.0.1",
    redis_url: str = "",
    ray_address: str = "",
    log_path: str = "",
    api_key: str = "",
) -> RunRecord:
    """Describe the run this process leads."""
    pid_started_ms = int(psutil.Process().create_time() * 1000)
    now_ms = time.time_ns() // 1_000_000
    return RunRecord(run_id, os.getpid(), pid_started_ms, host, port, redis_url, ray_address, now_ms, log_path, api_key)


def record_path(port: int) -> Path:
    """Return where the run on this port is recorded."""
    return home() / f"run-{port}.json"


def write_record(record: RunRecord) -> Path:
    """Write the run file in one step: a reader sees the old one or the new one."""
    path = record_path(record.port)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.tmp")
    half.unlink(missing_ok=True)
    half.touch(mode=0o600)  # the key and the store's password are in it
    half.write_bytes(msgspec.json.encode(record))
    half.replace(path)
    return path


def read_record(port: int) -> RunRecord | None:
    """Return the run recorded for this port, running or stale; None without a readable file."""
    try:
        return msgspec.json.decode(record_path(port).read_bytes(), type=RunRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def remove_record(port: int, run_id: str) -> bool:
    """Remove the run file if it still is this run's; say whether it was."""
    record = read_record(port)
    if record is None or record.run_id != run_id:
        return False
    record_path(port).unlink(missing_ok=True)
    return True


def is_stale(record: RunRecord) -> bool:
    """Say whether the leading process has gone (its id may since belong to another)."""
    try:
        process = psutil.Process(record.pid)
        started_ms = int(process.create_time() * 1000)
    except psutil.NoSuchProcess:
        return True
    # The kernel counts starts in ticks of 10 ms from a boot time that psutil recomputes; 2 s covers a clock step.
    return abs(started_ms - record.pid_started_ms) > 2000 or not _is_alive(process)


def ask_to_stop(record: RunRecord, *, wait_s: float) -> bool:
    """Ask a run's leader to stop in order, and wait; False if it still runs after that."""
    try:
        leader = psutil.Process(record.pid)
        leader.terminate()
        leader.wait(wait_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@contextmanager
def termination() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event, so that a clean stop is never cut by a second signal.

    Enter it after `LocalCluster.start()`: `ray.init` installs a SIGTERM handler of its own. Only the main thread may
    handle signals; in another one the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
