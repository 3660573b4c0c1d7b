"""The model hub: a Ray actor that commits versions and hands them out.

A learner offers what changed since the version it stands on: weights, optimizer rows, item rows, and the log positions
all of that was learned from. The hub writes the offer durably, then makes it the current version; both or neither.
So a version is committed whole, a learner that is killed goes on from the committed positions, and a hub that is
killed comes back with exactly what it had acknowledged. Nothing is learned twice and nothing is lost.

What is committed is judged and published (`learners.publishing`), and put into the object store once, where it is
shared by every replica of a node. A commit does not wait for it.

Several learners meet here: each hands in its share of a round and gets those of all (`gather`); the first one offers
what they make of them.

`adopt` begins anew with a version that was trained on a history; one that is left beside the durable ones, by somebody
who does not reach the hub, is found within seconds.

Settings of the replicas travel the same way (`configure`): they apply to those that run, and to those that come later.

`rollback` brings a version back that is kept, and keeps replicas there until `resume`, durably; learning goes on beside
it. What became of versions, by whom and why, is in `versions`.

The hub does not look inside weights. It runs on one event loop, so no two offers interleave.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray

from features.clock import WallClock
from features.connect import StoreConfig, files_of
from features.errors import FeatureError
from features.priority import step_back
from features.schema import Schema, hash64
from learners import snapshots
from learners.checkpoints import LEFT, N_KEPT, Checkpoints, Files
from learners.editions import Place
from learners.erasing import Ends, is_past
from learners.errors import LearnerError, StaleSnapshot
from learners.folder_files import FolderFiles
from learners.lineage import Lineage
from learners.meetings import Meetings
from learners.patience import Patience
from learners.publisher import EDITION_BYTES, Publisher
from learners.publishing import Publishing
from learners.remote_judge import RemoteJudge
from learners.shares import Share
from learners.shelf import Shelf
from learners.snapshots import Delta

HUB_NAME: Final = "headrace-hub"
RETRY_S: Final = 1.0
LOOK_S: Final = 5.0  # for a version that was left
SETTINGS: Final = "settings"
"""Name of the file that replicas' settings are kept in."""
OPERATOR: Final = "operator"
EditionRef: TypeAlias = "ray.ObjectRef[NDArray[np.uint8]]"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubConfig:
    """How versions are kept and published."""

    folder: str = ""
    """Folder or bucket URL of durable commits; empty: in the store."""
    edition_bytes: int = EDITION_BYTES
    """Of the rows of an edition; see `Publisher`."""
    n_kept: int = N_KEPT
    """Whole versions, at most; see `Checkpoints`."""
    max_held: int
    """Versions in a row that are held before it is gone back to what answers."""
    export: Callable[[Callable[[], Mapping[str, float]]], Coroutine[Any, Any, None]] | None = None
    """Hands metrics out for ever; None: nobody does."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class ModelHub:
    """Commits, remembers and hands out versions.

    Args:
        schema: Versions of another schema are refused.
        niceness: Added to the process's own; less than the learner's, which waits for it.
        release: What it is made of; told in `status`.
    """

    def __init__(
        self, store: StoreConfig, schema: Schema, config: HubConfig, niceness: int = 5, release: str = ""
    ) -> None:
        self._config = config
        self._release = release
        self._schema = schema
        step_back(niceness, entirely=store.clock == "wall")
        self._files: Files
        self._lineage: Lineage
        self._publishing: Publishing[EditionRef]
        self._shelf = Shelf(Publisher(uuid.uuid4().hex, config.edition_bytes), _put)
        self._patience = Patience(config.max_held)
        self._meetings: Meetings[ray.ObjectRef[Share]] = Meetings()
        self._settings = b""
        self._read_in_vain: Ends = {}
        loop = asyncio.get_running_loop()
        self._loading = loop.create_task(self._load(store))
        self._is_due = asyncio.Event()
        """Set while there may be a version to write whole."""
        self._tasks = [loop.create_task(each()) for each in (self._adopt_what_is_left, self._publish, self._compact)]

    async def version(self) -> int:
        """Number of the current version; 0 before the first commit."""
        return (await self._loaded()).version

    async def committed(self) -> bytes | None:
        """The current version whole, private parts too, for a learner to go on from; None before the first."""
        full = (await self._loaded()).full
        return snapshots.pack(full) if full else None

    async def offer(self, packed: bytes) -> int:
        """Commit what a learner has learned on top of the current version.

        Raises:
            StaleSnapshot: If it stands on another version; the learner goes back to `committed`.
            CorruptSnapshot: If the bytes were altered on the way.
        """
        delta = snapshots.unpack(packed)
        lineage = await self._loaded()
        await lineage.commit(delta, packed)
        self._publishing.note(delta)
        self._is_due.set()
        return delta.version

    async def adopt(self, packed: bytes) -> int:
        """Put a whole version that was made elsewhere in the place of all that was learned here; returns its number.

        Learners go back to it, and read the log from where it stands.

        Raises:
            ForeignSnapshot: If it is of another schema or network, or lacks what a learner needs.
            CorruptSnapshot: If the bytes were altered on the way.
        """
        full = snapshots.unpack(packed)
        lineage = await self._loaded()
        await lineage.adopt(full)
        self._publishing.note_all(full, is_ordered=True)
        await self._publishing.tell("adopted", full.version, "backfill", "it was trained on a history")
        return full.version

    async def gather(self, version: int, n_learners: int, share: Share) -> list["ray.ObjectRef[Share]"]:
        """Hand in a learner's share of the round that becomes `version`; returns those of all once they are there.

        They are the hub's own: a learner that is lost does not take its share along.

        Raises:
            StaleSnapshot: If the learner stands on what is not known here, or read another log than the others; it goes
                back to `committed`.
        """
        if not await self.stands(version - 1):
            raise StaleSnapshot(f"share of version {version}: expected one on {await self.version()}")
        return await self._meetings.hand_in(version, share.seat, n_learners, share.positions, ray.put(share))

    async def stands(self, version: int) -> bool:
        """Whether this is the current version, or will be as soon as the first learner offers what is gathered."""
        current = await self.version()
        return version == current or (version == current + 1 and self._meetings.is_complete(version))

    async def advance(self, version: int, trained_through_ms: int) -> bool:
        """Note that the current version answers for the log up to here, though nothing new was learned.

        Returns:
            False if `version` is not the current one any more.
        """
        if version != await self.version():
            return False
        self._shelf.advance(version, trained_through_ms)
        return True

    async def configure(self, settings: bytes) -> None:
        """Have replicas follow these settings, durably; the hub does not look inside."""
        await self._loaded()
        if settings != self._settings:
            await self._files.write(SETTINGS, settings)
            self._settings = settings
            self._shelf.wake()

    async def rollback(self, version: int | None, who: str = OPERATOR, why: str = "") -> int:
        """Have replicas answer with this version, until `resume`, and come back to it after a restart.

        Learning goes on, and so do commits.

        Args:
            version: None: keep them at the one that answers.
        Raises:
            UnknownVersion: If it is not kept, or none answers yet.
        """
        lineage = await self._loaded()
        async with lineage.changing:
            full = await lineage.checkpoints.at(self._shelf.version if version is None else version)
            await self._publishing.keep_at(full, who, why)
        return full.version

    async def resume(self, who: str = OPERATOR, why: str = "") -> int:
        """Publish what was committed since `rollback`, and go on; returns the newest version."""
        lineage = await self._loaded()
        async with lineage.changing:
            await self._publishing.resume(who, why)
        return lineage.version

    async def versions(self) -> dict[str, Any]:
        """What `GET /v1/model/versions` tells."""
        lineage = await self._loaded()
        async with lineage.changing:
            kept = await lineage.checkpoints.numbers()
        told = self._publishing.described
        return {
            "current": lineage.version,
            "live": told["live"],
            "pinned": told["pinned"],
            "kept": kept,
            "history": self._publishing.history,
        }

    async def follow(self, place: Place, trained_through_ms: int, wait_s: float) -> dict[str, Any]:
        """What a replica at `place` lacks; waits until there is something, at most `wait_s`.

        Returns:
            As `Shelf.follow`, and `settings` (empty: those they started with).
        """
        await self._loaded()
        news = await self._shelf.follow(place, trained_through_ms, wait_s)
        return {**news, "settings": self._settings}

    async def status(self) -> dict[str, Any]:
        """What `GET /v1/model` tells, and this process's id."""
        lineage = await self._loaded()
        progress = lineage.full.progress if lineage.full else None
        return {
            "version": lineage.version,
            **self._publishing.described,
            "events": progress.n_events if progress else 0,
            "examples": progress.n_examples if progress else 0,
            "progressive": dict(progress.metrics) if progress else {},
            "publishing": {**lineage.stages, **self._publishing.stages},
            "pid": os.getpid(),
            "release": self._release,
        }

    async def anchor(self, age_s: float, other_than: int) -> list[EditionRef] | None:
        """The newest version that is so old, in log time, as an edition; None if there is no other."""
        return await self._laid_out(
            await (await self._loaded()).anchor(round(1000 * age_s), self._shelf.version, other_than)
        )

    async def edition(self, version: int) -> list[EditionRef] | None:
        """A version as an edition; None if it is not kept."""
        return await self._laid_out(await (await self._loaded()).kept(version))

    async def erase(self, users: Sequence[str], positions: Ends) -> bool:
        """Have nothing of these people, in any version that is kept, in memory, in the judge, nor in what replicas get.

        Ask again until it is done, also after it was lost or has raised: what is done is done. Until then the entries
        of the erasures stay in the log.

        Args:
            positions: Of the erasures in the log, by partition; the newest of each.
        Returns:
            False while there is something to wait for: until the newest version, and the judge, have been read so far,
            and a version that was left is adopted.
        Raises:
            FeatureError, OSError: If durable versions are out of reach.
            JudgeAway: If the judge does not answer.
        """
        lineage = await self._loaded()
        if lineage.full is None:
            return is_past(self._read_in_vain, positions)
        people = np.array([hash64(user) for user in users], dtype=np.uint64)
        if LEFT in await self._files.names() or not await lineage.erase(people, positions):
            return False
        async with lineage.changing:
            await self._publishing.erase_pin(people, positions)
        return await self._publishing.erase(people, positions)

    async def note_read(self, positions: Ends) -> None:
        """There is no version, and nothing to make one of in the log up to here."""
        self._read_in_vain = dict(positions)

    async def _laid_out(self, full: Delta | None) -> list[EditionRef] | None:
        if full is None:
            return None
        draft = await asyncio.to_thread(Publisher("anchor", 0).draft, full)  # commits go on meanwhile
        return self._shelf.lay_out(draft.head, draft.parts).refs

    async def positions(self) -> dict[int, tuple[int, int]]:
        """Log positions of the current version: nothing after them may be trimmed."""
        full = (await self._loaded()).full
        return dict(full.progress.positions) if full else {}

    async def needed(self) -> dict[int, tuple[int, int]]:
        """Log positions of the oldest version that may be gone back to: what comes after them had better not be."""
        return await (await self._loaded()).needed()

    async def _load(self, store: StoreConfig) -> None:
        """Find what was committed; whoever asks waits, for as long as it is out of reach."""
        while True:
            try:
                self._files = FolderFiles(self._config.folder) if self._config.folder else files_of(store)
                self._lineage = Lineage(
                    Checkpoints(self._files, self._schema, self._config.n_kept), self._schema, self._meetings
                )
                await self._lineage.load()
                names = await self._files.names()
                self._settings = await self._files.read(SETTINGS) if SETTINGS in names else b""
                self._publishing = Publishing(self._shelf, self._lineage, RemoteJudge(), WallClock(), self._patience)
                await self._publishing.load(self._files, self._schema)
                break
            except (FeatureError, OSError) as error:
                logger.warning("durable versions are out of reach: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _loaded(self) -> Lineage:
        """The versions; not before it is known which there are."""
        await asyncio.shield(self._loading)
        return self._lineage

    async def _publish(self) -> None:
        await self._loaded()
        if self._config.export is not None:
            self._tasks.append(asyncio.get_running_loop().create_task(self._config.export(self._values)))
        await self._publishing.run()

    def _values(self) -> dict[str, float]:
        """Metrics, by name."""
        lineage, publishing = self._lineage, self._publishing
        stages = {**lineage.stages, **publishing.stages}
        return {
            **{
                f"headrace_{name}": stages.get(name, 0.0) for name in ("commit_ms", "draft_ms", "judge_ms", "rows_left")
            },
            "headrace_is_held": float(publishing.is_held),
            "headrace_offered_bytes_total": lineage.n_bytes,
            "headrace_edition_bytes_total": publishing.n_bytes,
            "headrace_published_total": publishing.n_published,
            "headrace_held_total": publishing.n_held,
            "headrace_went_back_total": publishing.n_back,
        }

    async def _compact(self) -> None:
        lineage = await self._loaded()
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            try:
                if await lineage.compact():
                    await self._publishing.save_history()
            except (FeatureError, OSError) as error:
                logger.warning("the versions are not written whole: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _adopt_what_is_left(self) -> None:
        while True:
            try:
                packed = await (await self._loaded()).checkpoints.left()
                if packed is not None:
                    await self._take_up(packed)
            except (FeatureError, OSError) as error:
                logger.warning("whether a version was left is not known: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _take_up(self, packed: bytes) -> None:
        try:
            logger.info("the version that was left is adopted as %d", await self.adopt(packed))
        except LearnerError as error:
            logger.error("the version that was left is dropped: %s", error)
        await self._lineage.checkpoints.drop_left()


def _put(packed: bytes) -> EditionRef:
    """Into the object store, so that a node reads it where it lies."""
    return ray.put(np.frombuffer(packed, dtype=np.uint8))


def get_hub() -> Any:
    """Handle of the hub of this cluster.

    Raises:
        ValueError: If none is running.
    """
    return ray.get_actor(HUB_NAME)
