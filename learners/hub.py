"""The model hub: a Ray actor that commits versions and hands them out.

A learner offers what changed since the version it stands on: weights, optimizer rows, item rows, and the log positions
all of that was learned from. The hub writes the offer durably, then makes it the current version; both or neither.
So a version is committed whole, a learner that is killed goes on from the committed positions, and a hub that is
killed comes back with exactly what it had acknowledged. Nothing is learned twice and nothing is lost.

What is committed is published: drafted as an edition (`learners.publisher`) and handed out. Replicas long-poll
`follow` and get the editions since theirs while the hub still holds them, else all that the others have. What is handed
out is put into the object store once and shared by every replica of a node. A commit does not wait for it.

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
import contextlib
import logging
import os
import time
import uuid
from collections import OrderedDict
from typing import Any, Final

import msgspec
import numpy as np
import ray
from numpy.typing import NDArray

from features.clock import WallClock
from features.connect import StoreConfig, files_of
from features.errors import FeatureError
from features.priority import step_back
from features.schema import Schema
from learners import editions, pinning, snapshots
from learners.checkpoints import N_KEPT, Checkpoints, Files
from learners.editions import Head, Part, Place
from learners.errors import ForeignSnapshot, LearnerError, StaleSnapshot
from learners.folder_files import FolderFiles
from learners.meetings import Meetings
from learners.pinning import PINNED, Pin
from learners.publisher import EDITION_BYTES, Draft, Publisher
from learners.shares import Share
from learners.snapshots import Delta
from learners.version_history import VersionHistory, What

HUB_NAME: Final = "headrace-hub"
RETRY_S: Final = 1.0
LOOK_S: Final = 5.0  # for a version that was left
SETTINGS: Final = "settings"
"""Name of the file that replicas' settings are kept in."""
HISTORY: Final = "history"
"""Name of the file of what became of versions."""
N_EDITIONS: Final = 128  # about a minute of them: a replica further behind takes everything
LEFT_S: Final = 1.0  # after which rows that did not fit are sent, if no version comes
OPERATOR: Final = "operator"
LEARNER: Final = "learner"
EditionRefs = list["ray.ObjectRef[NDArray[np.uint8]]"]

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class ModelHub:
    """Commits, remembers and hands out versions.

    Args:
        schema: Versions of another schema are refused.
        folder: Folder or bucket URL of durable commits; empty: in the store.
        niceness: Added to the process's own; less than the learner's, which waits for it.
        edition_bytes: Of the rows of an edition; see `Publisher`.
        n_kept: Whole versions, at most; see `Checkpoints`.
        release: What it is made of; told in `status`.
    """

    def __init__(
        self,
        store: StoreConfig,
        schema: Schema,
        folder: str,
        niceness: int = 5,
        *,
        edition_bytes: int = EDITION_BYTES,
        n_kept: int = N_KEPT,
        release: str = "",
    ) -> None:
        self._release = release
        self._schema = schema
        step_back(niceness, entirely=store.clock == "wall")
        self._files: Files
        self._full: Delta | None = None
        self._loading = asyncio.get_running_loop().create_task(self._load(store, schema, folder))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._adopt_what_is_left()), loop.create_task(self._publish_for_ever())]
        self._committing = asyncio.Lock()
        self._clock = WallClock()
        self._n_kept = n_kept
        self._publisher = Publisher(uuid.uuid4().hex, edition_bytes)
        self._wanted = asyncio.Event()
        """Set while there may be something to publish."""
        self._editions: OrderedDict[int, EditionRefs] = OrderedDict()
        self._whole: tuple[int, EditionRefs] = 0, []
        self._pin: Pin | None = None
        self._history = VersionHistory()
        self._published_ms = 0
        """What the published version was trained through."""
        self._stages: dict[str, float] = {}
        """What the newest commit and the newest edition took."""
        self._changed = asyncio.Event()
        self._meetings: Meetings[ray.ObjectRef[Share]] = Meetings()
        self._settings = b""

    async def version(self) -> int:
        """Number of the current version; 0 before the first commit."""
        full = await self._current()
        return full.version if full else 0

    async def committed(self) -> bytes | None:
        """The current version whole, private parts too, for a learner to go on from; None before the first."""
        full = await self._current()
        return snapshots.pack(full) if full else None

    async def offer(self, packed: bytes) -> int:
        """Commit what a learner has learned on top of the current version.

        Raises:
            StaleSnapshot: If it stands on another version; the learner goes back to `committed`.
            CorruptSnapshot: If the bytes were altered on the way.
        """
        delta = snapshots.unpack(packed)
        async with self._committing:
            await self._commit(delta, packed)
        return delta.version

    async def _commit(self, delta: Delta, packed: bytes) -> None:
        current = await self.version()
        if delta.version != current + 1 or (delta.base or 0) != current:
            raise StaleSnapshot(
                f"offer of version {delta.version} on {delta.base}: expected {current + 1} on {current}"
            )
        began_s = time.monotonic()
        await self._checkpoints.write(packed, delta.version)
        self._stages |= {"offer_bytes": len(packed), "commit_ms": _ms_since(began_s)}
        self._full = delta if self._full is None else snapshots.merge(self._full, delta)
        self._meetings.commit(delta.version)
        self._publisher.note(delta)
        self._wanted.set()
        if await self._checkpoints.compact(self._full):
            await self._files.write(HISTORY, self._history.packed)

    async def adopt(self, packed: bytes) -> int:
        """Put a whole version that was made elsewhere in the place of all that was learned here; returns its number.

        Learners go back to it, and read the log from where it stands.

        Raises:
            ForeignSnapshot: If it is of another schema or network, or lacks what a learner needs.
            CorruptSnapshot: If the bytes were altered on the way.
        """
        full = snapshots.unpack(packed)
        async with self._committing:
            current = await self._current()
            snapshots.check_schema(full, self._schema)
            if full.base is not None or full.private is None or (current and current.model != full.model):
                raise ForeignSnapshot(
                    f"a whole version with its private part, of the network {current and current.model}"
                )
            full.version = (current.version if current else 0) + 1
            await self._checkpoints.replace(full)
            self._full = full
            self._meetings.tear()
            self._publisher.note_all(full)
            await self._note("adopted", full.version, "backfill", "it was trained on a history")
            self._wanted.set()
        return full.version

    async def _adopt_what_is_left(self) -> None:
        while True:
            try:
                await self._current()
                packed = await self._checkpoints.left()
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
        await self._checkpoints.drop_left()

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
        if self._publisher.version == version and trained_through_ms > self._published_ms:
            self._published_ms = trained_through_ms
            self._wake()
        return True

    async def configure(self, settings: bytes) -> None:
        """Have replicas follow these settings, durably; the hub does not look inside."""
        await self._current()
        if settings != self._settings:
            await self._files.write(SETTINGS, settings)
            self._settings = settings
            self._wake()

    async def rollback(self, version: int | None, who: str = OPERATOR, why: str = "") -> int:
        """Have replicas answer with this version, until `resume`, and come back to it after a restart.

        Learning goes on, and so do commits.

        Args:
            version: None: keep them at the one that answers.
        Raises:
            UnknownVersion: If it is not kept, or none answers yet.
        """
        await self._current()
        async with self._committing:
            full = await self._checkpoints.at(self._publisher.version if version is None else version)
            pin = Pin(who, why, self._clock.now_ms(), pinning.public(full))
            await self._files.write(PINNED, pinning.pins.pack(pin))
            self._go_to(pin)
            await self._note("rolled back", full.version, who, why)
        return full.version

    async def resume(self, who: str = OPERATOR, why: str = "") -> int:
        """Publish what was committed since `rollback`, and go on; returns the newest version."""
        await self._current()
        async with self._committing:
            if self._pin is not None:
                await self._files.delete(PINNED)
                self._pin = None
                if self._full is not None:
                    self._publisher.note_all(self._full)
                    await self._note("resumed", self._full.version, who, why)
                self._wanted.set()
        return await self.version()

    async def versions(self) -> dict[str, Any]:
        """What `GET /v1/model/versions` tells."""
        await self._current()
        async with self._committing:
            kept = await self._checkpoints.numbers()
        return {
            "current": await self.version(),
            "live": self._publisher.version,
            "pinned": self._pin.described if self._pin else None,
            "kept": kept,
            "history": [msgspec.structs.asdict(line) for line in self._history.lines],
        }

    async def follow(self, place: Place, trained_through_ms: int, wait_s: float) -> dict[str, Any]:
        """What a replica at `place` lacks; waits until there is something, at most `wait_s`.

        Returns:
            `place`, `version`, `trained_through_ms`, `settings` (empty: those they started with) and `editions`: object
            references of each one's packed head and parts, to apply in order.
        """
        await self._current()
        if self._publisher.place == place and self._published_ms == trained_through_ms:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        return {
            "place": self._publisher.place,
            "version": self._publisher.version,
            "trained_through_ms": self._published_ms,
            "editions": self._since(place),
            "settings": self._settings,
        }

    async def status(self) -> dict[str, Any]:
        """What `GET /v1/model` tells, and this process's id."""
        progress = self._full.progress if self._full else None
        return {
            "version": await self.version(),
            "live": self._publisher.version,
            "trained_through_ms": self._published_ms,
            "events": progress.n_events if progress else 0,
            "examples": progress.n_examples if progress else 0,
            "progressive": dict(progress.metrics) if progress else {},
            "state": "pinned" if self._pin else "live",
            "pinned": self._pin.described if self._pin else None,
            "publishing": dict(self._stages),
            "pid": os.getpid(),
            "release": self._release,
        }

    async def positions(self) -> dict[int, tuple[int, int]]:
        """Log positions of the current version: nothing after them may be trimmed."""
        full = await self._current()
        return dict(full.progress.positions) if full else {}

    async def _load(self, store: StoreConfig, schema: Schema, folder: str) -> None:
        """Find what was committed; whoever asks waits, for as long as it is out of reach."""
        while True:
            try:
                self._files = FolderFiles(folder) if folder else files_of(store)
                self._checkpoints = Checkpoints(self._files, schema, self._n_kept)
                self._full = await self._checkpoints.load()
                names = await self._files.names()
                self._settings = await self._files.read(SETTINGS) if SETTINGS in names else b""
                if HISTORY in names:
                    self._history.load(await self._files.read(HISTORY))
                if PINNED in names:
                    self._find_pinned(await self._files.read(PINNED))
                break
            except (FeatureError, OSError) as error:
                logger.warning("durable versions are out of reach: %s", error)
                await asyncio.sleep(RETRY_S)
        self._wanted.set()

    async def _current(self) -> Delta | None:
        """The current version; not before it is known which one that is."""
        await asyncio.shield(self._loading)
        return self._full

    async def _publish_for_ever(self) -> None:
        await asyncio.shield(self._loading)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                self._publish()
            except Exception:  # a supervisor: replicas keep what they have, and the next version is tried
                logger.exception("a version could not be published")
                await asyncio.sleep(RETRY_S)

    def _publish(self) -> None:
        if self._full is None or self._pin is not None:
            return
        began_s = time.monotonic()
        draft = self._publisher.draft(self._full)
        self._stages["draft_ms"] = _ms_since(began_s)
        self._send(draft)
        self._history.note("published", draft.head.version, self._clock.now_ms(), LEARNER)
        if draft.n_left:
            asyncio.get_running_loop().call_later(LEFT_S, self._wanted.set)

    def _find_pinned(self, packed: bytes) -> None:
        try:
            pin = pinning.pins.unpack(packed)
            snapshots.check_schema(pin.full, self._schema)
        except LearnerError as error:
            logger.error("checkpoint %s is skipped, replicas get the newest version: %s", PINNED, error)
        else:
            self._go_to(pin)

    def _go_to(self, pin: Pin) -> None:
        self._pin = pin
        self._publisher.note_all(pin.full)
        self._send(self._publisher.draft(pin.full, is_limited=False))

    def _send(self, draft: Draft) -> None:
        """Hand an edition out from now on."""
        self._publisher.settle(draft)
        packed = _packed(draft.head, draft.parts)
        self._editions[draft.head.place.number] = _put(packed)
        n_rows = sum(len(change.rows) for change in draft.changes.values())
        self._stages |= {"edition_bytes": sum(map(len, packed)), "rows": n_rows, "rows_left": draft.n_left}
        while len(self._editions) > N_EDITIONS:
            self._editions.popitem(last=False)
        self._published_ms = draft.head.trained_through_ms
        self._wake()

    def _since(self, place: Place) -> list[EditionRefs]:
        """The editions that bring who is at `place` to the newest."""
        newest = self._publisher.place
        if not newest.number or place == newest:
            return []
        missing = range(place.number + 1, newest.number + 1)
        if place.origin == newest.origin and all(number in self._editions for number in missing):
            return [self._editions[number] for number in missing]
        if self._whole[0] != newest.number:
            head, rows = self._publisher.whole()
            self._whole = newest.number, _put(_packed(head, rows))
        return [self._whole[1]]

    async def _note(self, what: What, version: int, who: str, why: str) -> None:
        """Add to the history, durably."""
        self._history.note(what, version, self._clock.now_ms(), who, why)
        await self._files.write(HISTORY, self._history.packed)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _ms_since(began_s: float) -> float:
    return round(1000.0 * (time.monotonic() - began_s), 2)


def _packed(head: Head, rows: list[Part]) -> list[bytes]:
    return [editions.heads.pack(head), *map(editions.parts.pack, rows)]


def _put(packed: list[bytes]) -> EditionRefs:
    """Into the object store, so that a node reads it where it lies."""
    return [ray.put(np.frombuffer(one, dtype=np.uint8)) for one in packed]


def get_hub() -> Any:
    """Handle of the hub of this cluster.

    Raises:
        ValueError: If none is running.
    """
    return ray.get_actor(HUB_NAME)
