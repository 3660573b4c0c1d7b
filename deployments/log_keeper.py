"""The keeper of the log as a Ray actor: archives it if there is an archive, trims it, and keeps it within its bytes.

    log ─► segments, all the time (`features.archiving`)
    every `LOOK_S`: measured; too full ─► archived up to where room is wanted ─► trimmed (`features.log_space`)
    every `TRIM_S`: trimmed behind every reader, and every version that is kept
    every `KEEP_S`: what its archive has kept for long enough goes (`features.archive_keeping`)
    every `ERASE_S`: people who asked for it are erased (`features.erasing`)

Loops of their own, so that the log is measured and trimmed also while the archive is out of reach. What is to be
archived at once the others leave for the one: an archiver is used by one loop alone. None holds up anything but itself.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray
from ray.exceptions import RayError

from deployments.metrics import Exporter
from features.archive_keeping import DAY_MS, drop_old
from features.archiving import ArchiveLimits, Archiver
from features.clock import WallClock
from features.connect import StoreConfig, bulk_of, connect
from features.erasing import Eraser
from features.errors import FeatureError
from features.event_files import without_account
from features.events import START, Positions, StreamId
from features.exporting import export
from features.idling import erase_idle
from features.log_files import LogFiles
from features.log_space import LogSpace
from features.priority import step_back
from features.schema import Schema
from learners.hub import get_hub

KEEPER_NAME: Final = "headrace-log"
READ_TIMEOUT_S: Final = 10.0  # far behind, one read brings tens of megabytes
LOOK_S: Final = 0.5  # with a limit; who has none looks as often as he trims
TRIM_S: Final = 5.0
ARCHIVE_S: Final = 0.5
ERASE_S: Final = 2.0
KEEP_S: Final = 600.0
IDLE_S: Final = 3600.0  # every state is looked at
HUB_S: Final = 600.0  # every version that is kept is read, and written anew
RID_OF_OLD: Final = "rid of what its archive keeps no longer"
RID_OF_IDLE: Final = "rid of people who have done nothing for long"
ERASED: Final = "free of those who asked to be erased"
RETRY_S: Final = 2.0
COLLECTED_SHARE: Final = 0.4  # of the log's bytes: more is never in the log alone for the archive's sake

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class LogKeeper:
    """Keeps the log, for ever.

    Args:
        keep_log_s: Log time kept behind every reader.
        niceness: Added to the process's own. It is not scheduled as idle, as readers are: under a load that takes all
            cores it has to archive what comes, or that is refused.
        release: What it is made of; told in `status`.
    """

    def __init__(
        self, store: StoreConfig, schema: Schema, keep_log_s: float, niceness: int = 5, release: str = ""
    ) -> None:
        self._release = release
        step_back(niceness, entirely=False)
        self._config = store
        self._store = connect(store, schema, timeout_s=READ_TIMEOUT_S)
        self._bulk = bulk_of(store)
        self._space = LogSpace(self._store, self._bulk, keep_s=keep_log_s, max_bytes=store.log_max_bytes)
        self._wanted = START
        self._behind_s = 0.0
        self._problems: dict[str, str] = {}
        erased_from = LogFiles(store.archive) if store.archive else None
        self._eraser = Eraser(self._store, self._bulk, HubVersions(), erased_from, WallClock())
        work = [self._keep_space(), self._erase_for_ever()]
        if store.archive_keep_days:
            work.append(self._keep_archive())
        if store.forget_idle_days:
            work.append(self._forget_idle())
        if store.archive:
            self._archiver = Archiver(self._store, self._bulk, LogFiles(store.archive), _limits(store))
            work.append(self._archive_for_ever())
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(endless) for endless in (*work, Exporter(self._values).run())]

    async def status(self) -> dict[str, Any]:
        """What `GET /v1/log` tells, and this process's id."""
        values, archive, hours_left = self._values(), self._config.archive, self._space.hours_left
        return {
            "bytes": values["headrace_log_bytes"],
            "max_bytes": values["headrace_log_max_bytes"],
            "bytes_per_s": round(values["headrace_log_bytes_per_s"], 1),
            "hours_left": None if hours_left is None else round(hours_left, 3),
            "archive": without_account(archive),
            "archived_entries": values.get("headrace_log_archived_entries_total", 0),
            "archive_behind_s": values.get("headrace_log_archive_behind_s"),
            "erasures": self._eraser.n_pending,
            "erasures_wait": self._eraser.waits,
            "problems": list(self._problems.values()),
            "pid": os.getpid(),
            "release": self._release,
        }

    async def export(self, user: str, max_bytes: int) -> bytes | None:
        """What is known of a person, see `features.exporting`; None if it is more than so many bytes."""
        files = LogFiles(self._config.archive) if self._config.archive else None
        lines, n_bytes = [], 0
        async for line in export(user, self._store, files):
            n_bytes += len(line)
            if n_bytes > max_bytes:
                return None
            lines.append(line)
        return b"".join(lines)

    def _values(self) -> Mapping[str, float]:
        values = {
            "headrace_log_bytes": self._space.n_bytes,
            "headrace_log_max_bytes": self._config.log_max_bytes,
            "headrace_log_bytes_per_s": self._space.bytes_per_s,
            "headrace_erasures_total": self._eraser.n_done,
        }
        if not self._config.archive:
            return values
        return {
            **values,
            "headrace_log_archived_entries_total": self._archiver.n_entries,
            "headrace_log_archive_behind_s": self._behind_s,
        }

    async def _keep_space(self) -> None:
        trim_s = 0.0
        while True:
            now_s = time.monotonic()
            try:
                await self._space.look(now_s)
                if self._space.is_tight:
                    self._wanted = await self._make_room() or START
                elif now_s >= trim_s:
                    await self._space.trim(await self._needed())
                    trim_s = now_s + TRIM_S
                self._problems.pop("trimmed", None)
            except Exception as error:  # noqa: BLE001  this loop is a supervisor of what it does
                self._note("trimmed", error)
            await asyncio.sleep(LOOK_S if self._config.log_max_bytes else TRIM_S)

    async def _make_room(self) -> StreamId | None:
        if self._config.archive:  # of another folder nothing counts, whatever a reader has noted
            return await self._space.make_room(archived=self._archiver.reached)
        return await self._space.make_room(learned=await self._learned())

    async def _learned(self) -> dict[int, StreamId]:
        """What the learners have committed."""
        committed: dict[int, tuple[int, int]] = await get_hub().positions.remote()
        return {partition: StreamId(*at) for partition, at in committed.items()}

    async def _needed(self) -> dict[int, StreamId]:
        """Where the oldest version stands that may be gone back to."""
        needed: dict[int, tuple[int, int]] = await get_hub().needed.remote()
        return {partition: StreamId(*at) for partition, at in needed.items()}

    async def _archive_for_ever(self) -> None:
        while True:
            try:
                await self._store.open()
                await self._archiver.open()
                self._problems.pop("archived", None)
                await self._archive()
            except Exception as error:  # noqa: BLE001  as above
                self._note("archived", error)
            await asyncio.sleep(RETRY_S)

    async def _archive(self) -> None:
        while True:
            await self._archiver.advance(time.monotonic())
            await self._archiver.close_to(self._wanted)
            for partition, position in list(self._eraser.wanted.items()):
                if self._archiver.reached.get(partition, START) < position <= self._archiver.read_to(partition):
                    await self._archiver.close(partition)
            oldest_ms, now_ms = self._archiver.oldest_ms, await self._store.now_ms()
            self._behind_s = 0.0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000.0
            await asyncio.sleep(ARCHIVE_S)

    async def _keep_archive(self) -> None:
        files, kept_ms = LogFiles(self._config.archive), round(self._config.archive_keep_days * DAY_MS)
        while True:
            try:
                read = await self._space.read_by_all(await self._needed())
                await asyncio.to_thread(drop_old, files, await self._store.now_ms() - kept_ms, read)
                self._problems.pop(RID_OF_OLD, None)
            except Exception as error:  # noqa: BLE001  as above
                self._note(RID_OF_OLD, error)
            await asyncio.sleep(KEEP_S)

    async def _forget_idle(self) -> None:
        idle_ms = round(self._config.forget_idle_days * DAY_MS)
        while True:
            try:
                await erase_idle(self._store, self._bulk, idle_ms)
                self._problems.pop(RID_OF_IDLE, None)
            except Exception as error:  # noqa: BLE001  as above
                self._note(RID_OF_IDLE, error)
            await asyncio.sleep(IDLE_S)

    async def _erase_for_ever(self) -> None:
        while True:
            try:
                await self._eraser.advance()
                self._problems.pop(ERASED, None)
            except Exception as error:  # noqa: BLE001  as above
                self._note(ERASED, error)
            await asyncio.sleep(ERASE_S)

    def _note(self, undone: str, error: Exception) -> None:
        """Have it told, and once logged; with its trace if it is none of what may happen."""
        is_expected = isinstance(error, (FeatureError, RayError, ValueError))
        problem = f"the log is not {undone}: {error if is_expected else repr(error)}"
        if self._problems.get(undone) != problem:
            logger.warning("%s", problem, exc_info=None if is_expected else error)
        self._problems[undone] = problem


class HubVersions:
    """The versions that the hub keeps; see `features.erasing.Versions`."""

    async def erase(self, people: Sequence[str], positions: Positions) -> bool:
        """Ask the hub."""
        told = {partition: tuple(position) for partition, position in positions.items()}
        return bool(await asyncio.wait_for(get_hub().erase.remote(list(people), told), HUB_S))


def get_keeper() -> Any:
    """Handle of the keeper of this cluster's log.

    Raises:
        ValueError: If none is running.
    """
    return ray.get_actor(KEEPER_NAME)


def _limits(store: StoreConfig) -> ArchiveLimits:
    plain = ArchiveLimits()
    if not store.log_max_bytes:
        return plain
    most = round(store.log_max_bytes * COLLECTED_SHARE)
    return ArchiveLimits(memory_bytes=min(plain.memory_bytes, most))
