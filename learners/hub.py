"""The model hub: a Ray actor that commits versions and hands them out.

A learner offers what changed since the version it stands on: weights, optimizer rows, item rows, and the log positions
all of that was learned from. The hub writes the offer durably, then makes it the current version; both or neither.
So a version is committed whole, a learner that is killed goes on from the committed positions, and a hub that is
killed comes back with exactly what it had acknowledged. Nothing is learned twice and nothing is lost.

Replicas long-poll `follow`. They get the deltas since their version while the hub still holds them, else a snapshot.
What is handed out is put into the object store once and shared by every replica of a node.

Several learners meet here: each hands in its share of a round and gets those of all (`gather`); the first one offers
what they make of them.

`adopt` begins anew with a version that was trained on a history; one that is left beside the durable ones, by somebody
who does not reach the hub, is found within seconds.

Settings of the replicas travel the same way (`configure`): they apply to those that run, and to those that come later.

`hold` keeps what is committed from the replicas until `release`: to see what publishing costs, or to keep a version in
place. It is not durable: a hub that restarts publishes again.

The hub does not look inside weights. It runs on one event loop, so no two offers interleave.
"""

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict, deque
from typing import Any, Final

import ray

from features.connect import StoreConfig, files_of
from features.errors import FeatureError
from features.priority import step_back
from features.schema import Schema
from learners import snapshots
from learners.checkpoints import Checkpoints, Files
from learners.errors import ForeignSnapshot, LearnerError, StaleSnapshot
from learners.folder_files import FolderFiles
from learners.meetings import Meetings
from learners.shares import Share
from learners.snapshots import Delta

HUB_NAME: Final = "headrace-hub"
RETRY_S: Final = 1.0
LOOK_S: Final = 5.0  # for a version that was left
SETTINGS: Final = "settings"
"""Name of the file that replicas' settings are kept in."""
N_DELTAS: Final = 64  # about a minute of versions: a replica further behind takes the snapshot

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class ModelHub:
    """Commits, remembers and hands out versions.

    Args:
        schema: Versions of another schema are refused.
        folder: Folder or bucket URL of durable commits; empty: in the store.
        niceness: Added to the process's own; less than the learner's, which waits for it.
        release: What it is made of; told in `status`.
    """

    def __init__(self, store: StoreConfig, schema: Schema, folder: str, niceness: int = 5, release: str = "") -> None:
        self._release = release
        self._schema = schema
        step_back(niceness, entirely=store.clock == "wall")
        self._files: Files
        self._full: Delta | None = None
        self._loading = asyncio.get_running_loop().create_task(self._load(store, schema, folder))
        self._adopting = asyncio.get_running_loop().create_task(self._adopt_what_is_left())
        self._committing = asyncio.Lock()
        self._deltas: OrderedDict[int, ray.ObjectRef[bytes]] = OrderedDict()
        self._snapshot: tuple[int, ray.ObjectRef[bytes]] | None = None
        self._trained_through_ms = 0
        self._changed = asyncio.Event()
        self._meetings: Meetings[ray.ObjectRef[Share]] = Meetings()
        self._settings = b""
        self._is_held = False
        self._unpublished: deque[Delta] = deque(maxlen=N_DELTAS)

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
        await self._checkpoints.write(packed, delta.version)
        self._full = delta if self._full is None else snapshots.merge(self._full, delta)
        self._meetings.commit(delta.version)
        self._trained_through_ms = max(self._trained_through_ms, delta.progress.trained_through_ms)
        if self._is_held:
            self._unpublished.append(delta)
        else:
            self._publish(delta)
        await self._checkpoints.compact(self._full)

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
            self._full, self._trained_through_ms = full, full.progress.trained_through_ms
            self._deltas.clear()
            self._unpublished.clear()
            self._meetings.tear()
            self._wake()
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
        if trained_through_ms > self._trained_through_ms:
            self._trained_through_ms = trained_through_ms
            if not self._is_held:
                self._wake()
        return True

    async def configure(self, settings: bytes) -> None:
        """Have replicas follow these settings, durably; the hub does not look inside."""
        await self._current()
        if settings != self._settings:
            await self._files.write(SETTINGS, settings)
            self._settings = settings
            self._wake()

    async def hold(self) -> int:
        """Commit offers from now on without telling replicas; returns the version they stay at.

        A replica that has no version yet gets the newest all the same.
        """
        self._is_held = True
        return await self.version()

    async def release(self) -> int:
        """Tell replicas what was committed meanwhile, and go on as before; returns the newest version."""
        self._is_held = False
        while self._unpublished:
            self._publish(self._unpublished.popleft())
        self._wake()
        return await self.version()

    async def follow(self, version: int, trained_through_ms: int, wait_s: float) -> dict[str, Any]:
        """What a replica at `version` lacks; waits until there is something, at most `wait_s`.

        Returns:
            `version`, `trained_through_ms`, `status`, `settings` (empty: those they started with) and `refs`: object
            references of packed deltas to apply in order.
        """
        await self._current()
        if not self._has_news(version, trained_through_ms):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        news = {"status": await self.status(), "settings": self._settings}
        if self._is_held_from(version):
            return {"version": version, "trained_through_ms": trained_through_ms, "refs": [], **news}
        return {
            "version": await self.version(),
            "trained_through_ms": self._trained_through_ms,
            "refs": self._since(version),
            **news,
        }

    async def status(self) -> dict[str, Any]:
        """What `GET /v1/model` tells, and this process's id."""
        progress = self._full.progress if self._full else None
        return {
            "version": await self.version(),
            "trained_through_ms": self._trained_through_ms,
            "events": progress.n_events if progress else 0,
            "examples": progress.n_examples if progress else 0,
            "progressive": dict(progress.metrics) if progress else {},
            "state": "held" if self._is_held else "live",
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
                self._checkpoints = Checkpoints(self._files, schema)
                self._full = await self._checkpoints.load()
                self._settings = await self._files.read(SETTINGS) if SETTINGS in await self._files.names() else b""
                break
            except (FeatureError, OSError) as error:
                logger.warning("durable versions are out of reach: %s", error)
                await asyncio.sleep(RETRY_S)
        if self._full is not None:
            self._trained_through_ms = self._full.progress.trained_through_ms

    async def _current(self) -> Delta | None:
        """The current version; not before it is known which one that is."""
        await asyncio.shield(self._loading)
        return self._full

    def _is_held_from(self, version: int) -> bool:
        return self._is_held and version > 0

    def _has_news(self, version: int, trained_through_ms: int) -> bool:
        if self._is_held_from(version):
            return False
        current = self._full.version if self._full else 0
        return current != version or self._trained_through_ms > trained_through_ms

    def _publish(self, delta: Delta) -> None:
        self._deltas[delta.version] = ray.put(snapshots.pack(snapshots.public(delta)))
        while len(self._deltas) > N_DELTAS:
            self._deltas.popitem(last=False)
        self._wake()

    def _since(self, version: int) -> list["ray.ObjectRef[bytes]"]:
        if self._full is None or version == self._full.version:
            return []
        missing = range(version + 1, self._full.version + 1)
        if 0 < version < self._full.version and all(number in self._deltas for number in missing):
            return [self._deltas[number] for number in missing]
        if self._snapshot is None or self._snapshot[0] != self._full.version:
            self._snapshot = (self._full.version, ray.put(snapshots.pack(snapshots.public(self._full))))
        return [self._snapshot[1]]

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def get_hub() -> Any:
    """Handle of the hub of this cluster.

    Raises:
        ValueError: If none is running.
    """
    return ray.get_actor(HUB_NAME)
