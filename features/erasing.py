"""Erasures are carried out: whoever asked is gone from the log, from its archive and from every version that is kept.

    asked ─► its entry is in the log, the state is gone           at once, in one step (`functions.lua`)
      wait ─► everybody who reads the log is past that entry      the projector, who archives, a backfill, learners
       log ─► no entry of this person is in the store             drafted anew, partition by partition
   archive ─► nor in a file                                       `features.archive_erasing`
  versions ─► nor in a version: asked before the log, so that nobody goes back to one that knows the person and reads a
              log that says nothing of the erasure; and once more at the end
      done ─► what was noted of whom it is about is gone, too

Each step may be done twice, and is noted when it is done; so whoever dies goes on, and all erasures that are ready
share one pass. No Ray here. What is waited for is told, in words that name nobody.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from features.archive_erasing import ArchiveEraser
from features.archiving import READER
from features.clock import Clock
from features.erasures import ARCHIVE, LOG, VERSIONS, Erasing
from features.events import BEYOND, START, Entry, Positions, StreamId
from features.log_files import LogFiles
from features.people import LATE_MS, Gone, Mark, digest_in
from features.store import BulkStore, FeatureStore

LOT: Final = 500  # entries of a partition that are read at once
ELSEWHERE: Final = "the log is archived to a folder that is not [store] archive; `--forget` if it is archived no more"

Ongoing = dict[str, Erasing]
"""By name."""


class Versions(Protocol):
    """What is learned, and every version of it that is kept."""

    async def erase(self, people: Sequence[str], positions: Positions) -> bool:
        """Have these people in no version that is kept; False while the newest one does not stand past these positions.

        It is asked again until it is so, also after it has raised. Until then the log tells of the erasures.
        """
        ...


class _Found(NamedTuple):
    """What of a partition's log goes."""

    entries: list[StreamId]
    digests: list[bytes]


class Eraser:
    """Call `advance` in a loop; after any error again.

    Args:
        files: The log's archive, for this alone; None: it has none here.
        clock: Of the wall.
    """

    def __init__(
        self, store: FeatureStore, bulk: BulkStore, versions: Versions, files: LogFiles | None, clock: Clock
    ) -> None:
        self._store = store
        self._bulk = bulk
        self._versions = versions
        self._files = files
        self._clock = clock
        self._archive: ArchiveEraser | None = None
        self._in_archive: set[str] = set()
        """Erasures that it is about."""
        self.wanted: Positions = {}
        """Up to where partitions have to be archived, before their people can be erased."""
        self.waits = ""
        """For what erasures wait, in words; empty: for nothing but time."""
        self.n_pending = 0
        """Under way, as of the last call."""
        self.n_done = 0

    async def advance(self) -> int:
        """Carry out what can be, as far as it can be; returns how many erasures are done now.

        Raises:
            FeatureError: If the store or the archive does not do its part, or a segment is damaged.
            Exception: As `Versions.erase`.
        """
        self.waits, self.wanted = "", {}
        pending = await self._bulk.erasing()
        self.n_pending = len(pending)
        if not pending:
            return 0
        gone_from_log = await self._from_log(await self._ready(pending))
        gone = await self._from_archive(gone_from_log)
        if not gone or not await self._from_versions(gone, _reach(gone, {})):
            return 0
        for name, erasing in gone.items():
            now_ms = await self._store.now_ms()
            await self._bulk.end_erasing(name, erasing.after(VERSIONS, now_ms), now_ms)
        self.n_done += len(gone)
        self.n_pending -= len(gone)
        return len(gone)

    async def _ready(self, pending: Ongoing) -> Ongoing:
        """Those whose entries everybody has read, but for who archives; and no decision can come late."""
        settled_ms = await self._store.now_ms() - LATE_MS
        rows = [("the projector", positions) for positions in await self._store.projected()]
        readers = [(who, at) for who, at in (await self._bulk.readers()).items() if who != READER]
        ready = {}
        for name, erasing in pending.items():
            behind = [who for who, at in (*rows, *readers) if at.get(erasing.partition, START) < erasing.at]
            if behind:
                self.waits = f"an erasure waits for {behind[0]} to read on"
            elif erasing.at.ms <= settled_ms:
                ready[name] = erasing
        return ready

    async def _from_log(self, ready: Ongoing) -> Ongoing:
        """Erase from the log; those of whom nothing is in it any more."""
        done = {name: erasing for name, erasing in ready.items() if LOG in erasing.steps}
        due = {name: erasing for name, erasing in ready.items() if LOG not in erasing.steps}
        due = await self._archived(due, _reach(due, {}))
        if not due or not await self._from_versions(due, _reach(due, {})):
            return done
        found = {p: await self._find(p, _gone(due)) for p in _reach(due, {})}  # not before: it reads all of them
        due = await self._archived(due, _reach(due, found))
        reach = _reach(due, found)
        if reach != _reach(due, {}) and not await self._from_versions(due, reach):
            return done
        for partition, position in reach.items():
            await self._bulk.note_erased(partition, position)
            await self._bulk.drop_entries(partition, *found[partition])
            those = {name: erasing for name, erasing in due.items() if erasing.partition == partition}
            done |= await self._note(those, LOG)
        return done

    async def _find(self, partition: int, gone: Gone) -> _Found:
        elsewhere = {other: BEYOND for other in range(self._store.keys.n_partitions) if other != partition}
        found, after, until = _Found([], []), START, gone.until(partition)
        while after < until and (lot := await self._store.read_log({**elsewhere, partition: after}, count=LOT)):
            for entry in filter(gone.has, lot):
                found.entries.append(entry.id)
                found.digests.extend(_digests(entry))
            after = lot[-1].id
        return found

    async def _archived(self, due: Ongoing, reach: Positions) -> Ongoing:
        """Those of whom all that goes is in files: who archives holds entries that are in none yet."""
        archived = (await self._bulk.readers()).get(READER)
        if archived is None:
            return due
        self.wanted |= {p: position for p, position in reach.items() if archived.get(p, START) < position}
        if self.wanted:
            self.waits = "an erasure waits for the archive to reach it"
        return {name: erasing for name, erasing in due.items() if erasing.partition not in self.wanted}

    async def _from_archive(self, ready: Ongoing) -> Ongoing:
        """Erase from the archive; those of whom nothing is in it any more."""
        done = {name: erasing for name, erasing in ready.items() if ARCHIVE in erasing.steps}
        due = {name: erasing for name, erasing in ready.items() if ARCHIVE not in erasing.steps}
        if not due:
            return done
        if self._files is None and READER in await self._bulk.readers():
            self.waits = f"an erasure waits for `headrace archive FOLDER`: {ELSEWHERE}"
        elif self._files is not None and not await self._sweep(due, self._files):
            self.waits = "an erasure waits for a file of the archive that somebody is writing"
        else:
            done |= await self._note(due, ARCHIVE)
        return done

    async def _sweep(self, due: Ongoing, files: LogFiles) -> bool:
        if self._archive is None or self._in_archive != due.keys():
            self._archive, self._in_archive = ArchiveEraser(files, _gone(due)), set(due)
        if not await asyncio.to_thread(self._archive.advance, self._clock.now_ms() / 1000.0):
            return False
        self._archive = None
        return True

    async def _from_versions(self, those: Ongoing, positions: Positions) -> bool:
        """Erase from versions; they are to be past all that goes from the log, so that nobody reads it in two ways."""
        waits, self.waits = self.waits, "an erasure waits for the newest version of the model to be past it"
        if not await self._versions.erase(sorted({erasing.user for erasing in those.values()}), positions):
            return False
        self.waits = waits
        return True

    async def _note(self, those: Ongoing, step: str) -> Ongoing:
        now_ms = await self._store.now_ms()
        noted = {name: erasing.after(step, now_ms) for name, erasing in those.items()}
        for name, erasing in noted.items():
            await self._bulk.note_erasing(name, erasing)
        return noted


async def erase_from_archive(store: FeatureStore, bulk: BulkStore, files: LogFiles, clock: Clock) -> bool:
    """Erase from an archive that is not [store] archive who is gone from the log; False: there is more to do."""
    due = {name: one for name, one in (await bulk.erasing()).items() if LOG in one.steps and ARCHIVE not in one.steps}
    if due:
        if not await asyncio.to_thread(ArchiveEraser(files, _gone(due)).advance, clock.now_ms() / 1000.0):
            return False
        now_ms = await store.now_ms()
        for name, erasing in due.items():
            await bulk.note_erasing(name, erasing.after(ARCHIVE, now_ms))
    return True


def _reach(those: Ongoing, found: Mapping[int, _Found]) -> Positions:
    """The last entries that go, by partition: erasures, and what was found."""
    reach: Positions = {}
    for erasing in those.values():
        going = found[erasing.partition].entries if found else ()
        reach[erasing.partition] = max(erasing.at, reach.get(erasing.partition, START), *going)
    return reach


def _gone(those: Ongoing) -> Gone:
    marks: dict[str, Mark] = {}
    for erasing in those.values():
        mark = Mark(erasing.partition, erasing.at)
        marks[erasing.user] = max(mark, marks.get(erasing.user, mark))
    return Gone(marks)


def _digests(entry: Entry) -> Iterable[bytes]:
    try:
        known = digest_in(entry)
    except msgspec.DecodeError:
        return ()
    return () if known is None else (known,)
