"""`headrace archive`: the log into Parquet, once or for as long as it runs."""

import argparse
import asyncio
import threading
import time
from typing import Final

from rich.progress import Progress, TaskID

from deployments.config import Config, load_config
from deployments.errors import ConfigError
from deployments.processes import termination
from deployments.store_of_run import with_store_of_run
from deployments.terminal import INTERRUPTED, console, progress
from features.archiving import READER, Archiver
from features.clock import WallClock
from features.connect import bulk_of, connect
from features.erasing import erase_from_archive
from features.errors import FeatureError
from features.log_files import LogFiles
from features.store import BulkStore, FeatureStore

PAUSE_S: Final = 0.5  # between looks at the log; as long as Ctrl-C may have to wait
RETRY_S: Final = 2.0
ERASE_S: Final = 5.0
TIMEOUT_S: Final = 10.0  # far behind, one read brings megabytes


def run_archive(options: argparse.Namespace) -> int:
    """Archive until Ctrl-C, or with --once what there is; exit status 130 if that was stopped."""
    if (options.folder is None) != options.forget:
        raise ConfigError("expected FOLDER, or --forget alone")
    config = with_store_of_run(load_config(options.config), options.port)
    if options.forget:
        asyncio.run(_forget(config))
        console.print("the log is trimmed without regard to an archive from now on; what is archived stays")
        return 0
    with termination() as stop:
        return asyncio.run(_archive(config, options.folder, stop, is_once=options.once))


async def _forget(config: Config) -> None:
    bulk = bulk_of(config.store)
    try:
        await bulk.forget_reader(READER)
    finally:
        await bulk.close()


async def _archive(config: Config, folder: str, stop: threading.Event, *, is_once: bool) -> int:
    store, bulk = connect(config.store, config.schema, timeout_s=TIMEOUT_S), bulk_of(config.store)
    archiver = Archiver(store, bulk, LogFiles(folder))
    try:
        with progress() as bar:
            archiving = Archiving(archiver, store, stop, bar)
            if is_once:
                is_whole = await archiving.once()
                await erase_from_archive(store, bulk, LogFiles(folder), WallClock())
            else:
                erasing = asyncio.create_task(_erase_for_ever(store, bulk, folder))
                is_whole = await archiving.follow()
                erasing.cancel()
    finally:
        await store.close()
        await bulk.close()
    console.print(f"{archiving.done()} in {folder}", markup=False)
    if not is_whole:
        console.print("stopped; the same command goes on from there")
        return INTERRUPTED
    return 0


async def _erase_for_ever(store: FeatureStore, bulk: BulkStore, folder: str) -> None:
    """Have no entry in the folder of who is erased from the log; an application does that for its own archive."""
    told = ""
    while True:
        try:
            await erase_from_archive(store, bulk, LogFiles(folder), WallClock())
        except FeatureError as error:
            if str(error) != told:
                console.print(f"nobody is erased from {folder}: {error}", style="yellow", markup=False)
            told = str(error)
        await asyncio.sleep(ERASE_S)


class Archiving:
    """One run of the command."""

    def __init__(self, archiver: Archiver, store: FeatureStore, stop: threading.Event, bar: Progress) -> None:
        self._archiver = archiver
        self._store = store
        self._stop = stop
        self._bar = bar
        self._n_read = 0
        self._began_s = time.monotonic()

    async def once(self) -> bool:
        """Archive what the log holds now, one partition after the other; False if the user stopped it."""
        await self._archiver.open()
        heads = await self._store.heads()
        firsts = {entry.partition: entry.id.ms for entry in await self._store.read_log(self._archiver.reached, count=1)}
        task = self._bar.add_task("archive", total=len(firsts), note="")
        for n_done, (partition, first_ms) in enumerate(sorted(firsts.items())):
            head = heads[partition]
            while self._archiver.read_to(partition) < head:
                if self._stop.is_set():
                    return False
                if not await self._read_on(partition):
                    break
                share = (self._archiver.read_to(partition).ms - first_ms + 1) / (head.ms - first_ms + 1)
                self._bar.update(task, completed=n_done + min(share, 1.0), note=self._rate())
            await self._archiver.close(partition)
        self._bar.update(task, completed=len(firsts), note=self._rate())
        return True

    async def follow(self) -> bool:
        """Archive until the user stops it, through outages too; at the end everything that was read is archived."""
        task = self._bar.add_task("archive", total=None, note="")
        while not self._stop.is_set():
            try:
                await self._archiver.open()
                await self._follow(task)
            except FeatureError as error:
                if not error.retryable or self._stop.is_set():
                    raise
                self._bar.update(task, note=f"waits: {error}")
                await self._pause(RETRY_S)
        return True

    async def _follow(self, task: TaskID) -> None:
        while not self._stop.is_set():
            n_entries = await self._archiver.advance(time.monotonic())
            self._n_read += n_entries
            self._bar.update(task, completed=self._n_read, note=f"{self._rate()}, {await self._waiting()}")
            await self._pause(PAUSE_S)
        await self._archiver.flush()

    async def _read_on(self, partition: int) -> int:
        n_entries = await self._archiver.read_on(partition, time.monotonic())
        self._n_read += n_entries
        return n_entries

    async def _waiting(self) -> str:
        """How far the files are behind the log."""
        oldest_ms = self._archiver.oldest_ms
        behind_s = max(0.0, (await self._store.now_ms() - oldest_ms) / 1000) if oldest_ms is not None else 0.0
        return f"{self._archiver.n_segments:,} files, {behind_s:,.0f} s of log behind"

    async def _pause(self, pause_s: float) -> None:
        deadline_s = time.monotonic() + pause_s
        while not self._stop.is_set() and (left_s := deadline_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, PAUSE_S))

    def _rate(self) -> str:
        return f"{self._n_read:,} entries, {self._n_read / max(time.monotonic() - self._began_s, 1e-9):,.0f}/s"

    def done(self) -> str:
        """What is done, in words."""
        took_s = time.monotonic() - self._began_s
        n_entries, n_segments = self._archiver.n_entries, self._archiver.n_segments
        return (
            f"{n_entries:,} entries archived in {took_s:.1f} s, {n_entries / took_s:,.0f}/s: {n_segments:,} new files"
        )
