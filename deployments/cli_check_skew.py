"""`headrace check-skew`: features of logged decisions, made again from the log, and whether they are what was served.

    log ─► ticks, in the one order of the log ─► `features.skew` ─► a table, or JSON

Nothing is written. With an archive the log goes back to where that begins.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from deployments import processes
from deployments.app import run_versions
from deployments.config import Config, load_config, with_store
from deployments.errors import ConfigError
from deployments.processes import termination
from deployments.skew_report import as_dict, n_differing, show
from deployments.skew_start import Start, whole_version
from deployments.store_of_run import as_created, named_store
from deployments.terminal import INTERRUPTED, console, progress
from features.connect import bulk_of, connect
from features.deep_log import whole_log_of
from features.events import Entry, Positions
from features.skew import Skew, SkewConfig
from features.ticks import READ_COUNT, Log, TickReader

TIMEOUT_S: Final = 10.0  # of the store: far behind, one read brings tens of megabytes
IDLE_S: Final = 0.002  # until the current millisecond of the log is over


def run_check_skew(options: argparse.Namespace) -> int:
    """Compare; exit status 0 if nothing differs, 1 if something does, 130 if the user stopped it."""
    config = named_store(load_config(options.config), options.port)
    if options.archive is not None:
        config = with_store(config, archive=options.archive)
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
    store, bulk = connect(config.store, config.schema, timeout_s=TIMEOUT_S), bulk_of(config.store)
    try:
        until_ms = await store.now_ms()
        log = whole_log_of(config.store, store, bulk)
        erased = await bulk.erased_to()
        is_whole = not erased and not await log.begins()
        start = Start({}) if is_whole and not options.from_version else await _version(config, options.port, erased)
        since_ms = until_ms - round(1000 * options.last_s) if options.last_s is not None else 0
        settings = SkewConfig(behind_ms=options.behind_ms, sample=options.sample, since_ms=since_ms)
        skew = Skew(config.schema, settings, table=start.table, start_ms=start.ms)
        age = f", of {(until_ms - start.ms) / 1000:,.0f} s ago" if start.ms else ""
        console.print(f"from {start.what}{age}", markup=False, highlight=False)
        with progress() as bar:
            await read_through(log, skew, start.positions, until_ms, is_stopped, _showing(bar, skew, until_ms))
    finally:
        await store.close()
        await bulk.close()
    return skew


async def _version(config: Config, port: int, erased: Positions) -> Start:
    start = await whole_version(config.store, config.schema, _folder(config, port), erased)
    if start is None:
        raise ConfigError(
            "the beginning of the log is gone, or somebody was erased, and no version was written whole since then: "
            "try in a minute"
        )
    return start


def _folder(config: Config, port: int) -> str:
    """Where durable versions are; empty: in the store."""
    record = processes.read_record(port)
    if config.folder or record is None or record.redis_url != config.store.url:
        return config.folder
    of_run = run_versions(record.run_id)  # of one with a private store
    return str(of_run) if of_run.exists() else ""


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
