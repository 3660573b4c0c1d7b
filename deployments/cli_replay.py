"""`headrace replay`: a recorded stream through the front door; or the log once more without some sources, offline.

The latter makes a lineage: states, rows and a model in a folder. Nothing that serves is touched, but that the sources
are put in quarantine: so nothing of theirs comes after the cut.
"""

import argparse
import asyncio
import importlib
import os
import threading
from dataclasses import replace
from typing import Any, Final

from deployments import processes
from deployments.cli_archive import TIMEOUT_S, Archiving
from deployments.cli_backfill import MIB, NAMES, interruptible
from deployments.cluster import workers
from deployments.config import Config, load_config
from deployments.errors import ConfigError
from deployments.store_of_run import with_store_of_run
from deployments.terminal import INTERRUPTED, Stages, console, progress
from features.archiving import Archiver
from features.backfill.beginning import check_beginning
from features.backfill.leaving_out import Choice
from features.backfill.lineages import Begun, Made, begin, begun_before, finish
from features.backfill.planning import plan_of
from features.clock import WallClock
from features.connect import bulk_of, connect
from features.deep_log import DeepLog
from features.errors import ReaderMoved
from features.log_files import LogFiles
from features.sources import Quarantine
from features.store import BulkStore

KNOWN_S: Final = 3.0  # replicas look once a second who is in quarantine, and one may wait for the store
N_TRIES: Final = 10  # each goes on where the one before stopped; the application archives every quarter of an hour
URL: Final = "http://127.0.0.1:8000"
OFFLINE: Final = ("with", "before", "archive", "config", "port", "memory", "folder")
STREAMED: Final = ("speed", "url", "queries", "out", "items", "users")


def run_replay(options: argparse.Namespace) -> int:
    """Replay EVENTS, or the log without sources; exit status 130 if the user stopped it."""
    if options.events is not None:
        _refuse(options, OFFLINE, "it is for the log, expected no EVENTS beside it")
        options.url = options.url or URL
        streamed: int = importlib.import_module("deployments.cli_history").run_replay(options)
        return streamed
    _refuse(options, STREAMED, "expected EVENTS to send")
    choice = _choice(options)
    try:
        return _replay(options, choice)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from there")
        return INTERRUPTED


def root_of(options: argparse.Namespace) -> str:
    """Where lineages are kept."""
    return (options.folder or str(processes.home() / "lineages")).rstrip("/")


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}: {why}")


def _choice(options: argparse.Namespace) -> Choice:
    without, counted = set(options.without or ()), set(getattr(options, "with") or ())
    if not without | counted:
        raise ConfigError("expected EVENTS to send, or --without NAME (or --with NAME) to live through the log again")
    if both := without & counted:
        raise ConfigError(f"--with: {min(both)!r} is named in --without too, expected one of them")
    return Choice(tuple(sorted(without)), tuple(sorted(counted)))


def _replay(options: argparse.Namespace, choice: Choice) -> int:
    port = 8000 if options.port is None else options.port
    config = load_config(options.config)
    archive = options.archive or config.store.archive
    if not archive:
        raise ConfigError(
            "--archive: expected the folder of the log's archive, [store] archive names none either; "
            "make one: headrace archive FOLDER --once, then --archive FOLDER"
        )
    config, before = with_store_of_run(config, port), tuple(options.before or ())
    with processes.termination() as stop:
        since_ms = asyncio.run(_prepare(config, archive, choice, before, stop))
    if stop.is_set():
        raise KeyboardInterrupt
    further: dict[str, Any] = {"budget_bytes": int((options.memory or 512.0) * MIB), "choice": choice}
    plan = plan_of([*before, archive], config.schema, config.store.n_partitions, "", **further)
    plan = replace(plan, folder=f"{root_of(options)}/{plan.name}")
    begun = _gone_on(root_of(options), Begun(plan, before, archive, since_ms))
    with workers(port), interruptible(), progress() as bar:
        made = _make(begun, config, Stages(bar, NAMES))
    _tell(begun, made)
    return 0


async def _prepare(
    config: Config, archive: str, choice: Choice, before: tuple[str, ...], stop: threading.Event
) -> dict[str, int]:
    """Have nothing of the sources come any more, and the log in its archive.

    Returns:
        Since when they have been in quarantine.
    """
    store, bulk = connect(config.store, config.schema, timeout_s=TIMEOUT_S), bulk_of(config.store)
    files = LogFiles(archive)
    try:
        since_ms = await _quarantine(bulk, choice)
        await asyncio.to_thread(stop.wait, KNOWN_S)
        with progress() as bar:
            for tries in range(1, N_TRIES + 1):
                try:
                    await Archiving(Archiver(store, bulk, files), store, stop, bar).once()
                    break
                except ReaderMoved:
                    if tries == N_TRIES:
                        raise
        if not before and not stop.is_set():
            await check_beginning(store, bulk, DeepLog(store, bulk, files))
    finally:
        files.close()
        await store.close()
        await bulk.close()
    return since_ms


async def _quarantine(bulk: BulkStore, choice: Choice) -> dict[str, int]:
    now_ms = WallClock().now_ms()
    for source in choice.without:
        if await bulk.quarantine(source, Quarantine("headrace replay", "being replayed without", now_ms)):
            console.print(f"{source} is in quarantine from now on", markup=False)
    known = await bulk.quarantined()
    for source in sorted(set(known) - set(choice.without)):
        note = "what it sends from now on does not count" if source in choice.counted else "what it sent before counts"
        console.print(f"{source} is in quarantine: {note}", style="yellow", markup=False)
    return {source: known[source].since_ms for source in choice.without}


def _gone_on(root: str, wanted: Begun) -> Begun:
    """What was begun before, or else is to be made now."""
    earlier = begun_before(root, wanted)
    if earlier is not None:
        console.print(f"goes on with lineage {earlier.plan.name}", markup=False)
        return earlier
    begin(wanted)
    return wanted


def _make(begun: Begun, config: Config, show: Stages) -> Made:
    history = importlib.import_module("learners.history")  # which needs Ray: its environment is set by now
    snapshots = importlib.import_module("learners.snapshots")
    backfill = history.Backfill(begun.plan, config.store, show, os.cpu_count() or 1)
    summary = backfill.fold()
    if not summary.n_events:
        raise ConfigError("--without: nothing is left without these sources, expected an event of another one")
    mrr = snapshots.unpack(backfill.train(config.learner)).progress.metrics["mrr"]
    made = Made(WallClock().now_ms(), summary.n_events, summary.left_out, summary.counted_in, mrr)
    finish(begun, made)
    return made


def _tell(begun: Begun, made: Made) -> None:
    lines = [f"lineage {begun.plan.name}: {made.n_events:,} events count, MRR {made.mrr:.3f}"]
    for source in begun.plan.choice.without:
        lines.append(f"{made.left_out.get(source, 0):,} events of {source} are left out")
    for source in begun.plan.choice.counted:
        lines.append(f"{made.counted_in.get(source, 0):,} events of {source} that were in quarantine are counted in")
    lines.append(f"put it in its place: headrace promote {begun.plan.name}")
    for line in lines:
        console.print(line, markup=False, highlight=False)
