"""`headrace check-skew`: features of logged decisions, made again from the log, and whether they are what was served.

    log ─► ticks, in the one order of the log ─► `features.skew` ─► a table, or JSON

Rows and states can be made again only from where both are known. That is the beginning of the log, if nothing of it is
gone. Else it is the oldest version that the hub keeps whole, one to two minutes old while something is learned: it has
the learner's item rows at its log positions, so what comes after it is exact, and decisions before it are not judged.
Rows of now would be newer than every decision there is.

Nothing is written. What is read is a `features.ticks.Log`: any log that goes back further may stand in its place.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from deployments import processes
from deployments.app import run_versions
from deployments.config import Config, load_config
from deployments.errors import ConfigError
from deployments.processes import termination
from deployments.skew_report import as_dict, n_differing, show
from deployments.store_of_run import as_created, with_store_of_run
from deployments.terminal import console, progress
from features.connect import bulk_of, connect, files_of
from features.events import Entry, Positions, StreamId
from features.item_table import ItemTable
from features.skew import Skew, SkewConfig
from features.ticks import READ_COUNT, Log, TickReader
from learners.checkpoints import Checkpoints
from learners.folder_files import FolderFiles
from learners.snapshots import Delta

INTERRUPTED: Final = 130  # what a shell says of a command that Ctrl-C ended
TIMEOUT_S: Final = 10.0  # of the store: far behind, one read brings tens of megabytes
IDLE_S: Final = 0.002  # until the current millisecond of the log is over


@dataclass(frozen=True, slots=True)
class Start:
    """From where the log is folded."""

    positions: Positions
    table: ItemTable | None = None
    """Rows at these positions; None: there is nothing before."""
    what: str = "the beginning of the log"

    @property
    def ms(self) -> int:
        """Log time of the positions."""
        return max((at.ms for at in self.positions.values()), default=0)


def run_check_skew(options: argparse.Namespace) -> int:
    """Compare; exit status 0 if nothing differs, 1 if something does, 130 if the user stopped it."""
    config = with_store_of_run(load_config(options.config), options.port)
    with termination() as stop:
        skew = asyncio.run(_check(config, options, stop.is_set))
        is_stopped = stop.is_set()
    if options.json:
        print(msgspec.json.encode(as_dict(skew)).decode())
    else:
        show(skew, Console())
    if is_stopped:
        console.print("stopped; this is what was found so far")
        return INTERRUPTED
    if not skew.counts.judged:
        console.print("no decision could be judged", style="yellow")
    return int(n_differing(skew) > 0)


async def _check(config: Config, options: argparse.Namespace, is_stopped: Callable[[], bool]) -> Skew:
    config = await as_created(config)
    store = connect(config.store, config.schema, timeout_s=TIMEOUT_S)
    try:
        until_ms = await store.now_ms()
        start = await start_of(config, options.port, from_version=options.from_version)
        since_ms = until_ms - round(1000 * options.last_s) if options.last_s is not None else 0
        settings = SkewConfig(behind_ms=options.behind_ms, sample=options.sample, since_ms=since_ms)
        skew = Skew(config.schema, settings, table=start.table, start_ms=start.ms)
        age = f", of {(until_ms - start.ms) / 1000:,.0f} s ago" if start.ms else ""
        console.print(f"from {start.what}{age}", markup=False, highlight=False)
        with progress() as bar:
            await read_through(store, skew, start.positions, until_ms, is_stopped, _showing(bar, skew, until_ms))
    finally:
        await store.close()
    return skew


async def start_of(config: Config, port: int, *, from_version: bool) -> Start:
    """Where to begin: where the log does, if it is whole.

    Args:
        from_version: Begin at a version, whole or not.
    Raises:
        ConfigError: If the log is not whole, and there is no whole version.
    """
    bulk = bulk_of(config.store)
    try:
        is_whole = not await bulk.trimmed()
    finally:
        await bulk.close()
    if is_whole and not from_version:
        return Start({})
    version = await _oldest_version(config, port)
    if version is None or version.private is None:
        raise ConfigError("the beginning of the log is gone, and no version was written whole yet: try in a minute")
    table = ItemTable(config.schema, len(version.private.items) + 2)
    table.load(list(version.private.items), list(version.private.items.values()))
    positions = {partition: StreamId(*at) for partition, at in version.progress.positions.items()}
    return Start(positions, table, f"version {version.version}")


async def _oldest_version(config: Config, port: int) -> Delta | None:
    record, folder = processes.read_record(port), config.folder
    if not folder and record is not None and record.redis_url == config.store.url:
        kept = run_versions(record.run_id)
        folder = str(kept) if kept.exists() else ""
    if folder:
        return await Checkpoints(FolderFiles(folder), config.schema).oldest()
    files = files_of(config.store)
    try:
        return await Checkpoints(files, config.schema).oldest()
    finally:
        await files.close()


async def read_through(
    log: Log,
    skew: Skew,
    positions: Positions,
    until_ms: int,
    is_stopped: Callable[[], bool],
    note: Callable[[Sequence[Entry], int], None],
) -> None:
    """Fold the log after the positions, up to an instant of log time.

    Args:
        note: Told which entries were read, and up to which instant.
    Raises:
        ConfigError: If people or rows are older than a log that begins here.
    """
    reader = TickReader(log, positions, tick_ms=1, count=READ_COUNT)
    end_ms = 0
    while end_ms <= until_ms and not is_stopped():
        tick = await reader.next()
        if tick is None:
            await asyncio.sleep(IDLE_S)
            continue
        for _ in skew.read(tick.entries):
            if is_stopped():
                return
        end_ms = tick.end_ms
        note(tick.entries, end_ms)
        if skew.moments.known_before:
            raise ConfigError(
                f"user {skew.moments.known_before!r} was known before the log began, so a history was backfilled, and "
                "rows do not follow from the log alone: use --from-version"
            )


def _showing(bar: Progress, skew: Skew, until_ms: int) -> Callable[[Sequence[Entry], int], None]:
    """Shows seconds of log time, entries a second, and what was found."""
    task, began_s, first_ms, n_read = bar.add_task("seconds", total=None, note=""), time.monotonic(), 0, 0

    def note(entries: Sequence[Entry], end_ms: int) -> None:
        nonlocal first_ms, n_read
        n_read += len(entries)
        first_ms = first_ms or (entries[0].id.ms if entries else end_ms)
        rate = n_read / max(time.monotonic() - began_s, 1e-9)
        found = f"{skew.counts.differing:,} of {skew.counts.judged:,} decisions differ"
        done_s, total_s = (max(0, ms - first_ms) // 1000 for ms in (end_ms, until_ms))
        bar.update(task, completed=min(done_s, total_s), total=total_s, note=f"{rate:,.0f} entries/s, {found}")

    return note
