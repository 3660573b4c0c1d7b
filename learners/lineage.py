"""The versions of one model: each stands on the one before, and is durable before it counts.

`commit` takes a delta on top of the current version. `adopt` puts a whole version that was made elsewhere in the place
of all. `go_back` makes an earlier version the newest again, under a new number: whoever learns goes on from there, and
reads the log again from where it stood. So numbers only grow, and of two versions it is clear which came later.

Now and then a version is written whole (`compact`); that takes a while where tables are large, and commits go on.

Not known here: what replicas have of it, and what weights mean. One event loop; one change after the other.
"""

import asyncio
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import Schema
from learners import erasing, snapshots
from learners.checkpoints import Checkpoints
from learners.errors import ForeignSnapshot, StaleSnapshot, UnknownVersion
from learners.meetings import Ends, Meetings
from learners.snapshots import Delta


class Whole(NamedTuple):
    """A version that is written whole."""

    made_ms: int
    """When it was the newest, in log time."""
    positions: Ends


class Lineage:
    """`load` first. Whoever reads files of it holds `changing`.

    Args:
        meetings: Of learners that make the next version together.
    """

    def __init__(self, checkpoints: Checkpoints, schema: Schema, meetings: Meetings[Any]) -> None:
        self.checkpoints = checkpoints
        self.changing = asyncio.Lock()
        self._writing = asyncio.Lock()
        """Held by whoever writes a whole version; before `changing`, if both are."""
        self.full: Delta | None = None
        """The current version, whole; None before the first."""
        self.stages: dict[str, float] = {}
        """What the newest commit took, by name."""
        self.n_bytes = 0
        """Of all that was committed."""
        self._schema = schema
        self._meetings = meetings
        self._newest_ms = 0
        """Log time that was ever learned from."""
        self._wholes: dict[int, Whole] = {}
        """Versions that are written whole, as far as known."""
        self._anchor = self._growing = 0
        """Versions that are compared with, or will be when they are old enough: they are not dropped."""

    @property
    def version(self) -> int:
        """Number of the current version; 0 before the first."""
        return self.full.version if self.full else 0

    async def load(self) -> None:
        """Go on with what is durable."""
        self.full = await self.checkpoints.load()
        self._newest_ms = self.full.progress.trained_through_ms if self.full else 0

    async def commit(self, delta: Delta, packed: bytes) -> None:
        """Make a delta the current version; then `compact`.

        Raises:
            StaleSnapshot: If it stands on another version.
        """
        async with self.changing:
            current = self.version
            if delta.version != current + 1 or (delta.base or 0) != current:
                raise StaleSnapshot(
                    f"offer of version {delta.version} on {delta.base}: expected {current + 1} on {current}"
                )
            began_s = time.monotonic()
            await self.checkpoints.write(packed, delta.version)
            self.stages = {"offer_bytes": len(packed), "commit_ms": round(1000.0 * (time.monotonic() - began_s), 2)}
            self._become(delta if self.full is None else snapshots.merge(self.full, delta))
            self.n_bytes += len(packed)
            self._meetings.commit(delta.version)

    async def compact(self) -> bool:
        """Write the whole of the current version, if it is time to; whether it was. Others may follow it meanwhile."""
        async with self._writing:
            full = self.full
            if full is None or not self.checkpoints.is_due(full.version):
                return False
            version, packed = full.version, snapshots.pack(full)
            self._note_whole(full)
            await self.checkpoints.write_whole(packed, version)
            async with self.changing:
                await self.checkpoints.thin(version, {self._anchor, self._growing})
            self._growing = self._growing or version
            return True

    async def adopt(self, full: Delta) -> None:
        """Put a whole version in the place of all; it gets the next number.

        Raises:
            ForeignSnapshot: If it is of another schema or network, or lacks what a learner needs.
        """
        snapshots.check_schema(full, self._schema)
        async with self._writing, self.changing:
            current = self.full
            if full.base is not None or full.private is None or (current and current.model != full.model):
                raise ForeignSnapshot(
                    f"a whole version with its private part, of the network {current and current.model}"
                )
            full.version = self.version + 1
            await self.checkpoints.replace(full)
            self._become(full)
            self._meetings.tear()

    async def go_back(self, version: int) -> int:
        """Have this version, or the last one before it that is kept, as the newest again; returns which one it was.

        Those since then are dropped.

        Raises:
            UnknownVersion: If none is kept.
        """
        async with self._writing, self.changing:
            kept = max((number for number in await self.checkpoints.numbers() if number <= version), default=0)
            if not kept:
                raise UnknownVersion(f"neither version {version} is kept nor any before it")
            full = await self.checkpoints.at(kept)
            full.version = self.version + 1
            await self.checkpoints.begin_again(full, kept)
            self._growing = self._growing if self._growing <= kept else 0
            self._become(full)
            self._note_whole(full)
            self._meetings.tear()
        return kept

    async def erase(self, people: NDArray[np.uint64], positions: erasing.Ends) -> bool:
        """Have no row that one of these people owns in any version that is kept; see `Checkpoints.erase`.

        Commits go on meanwhile; nothing is written whole, adopted or gone back to.

        Returns:
            False, and nothing has changed, while the current version does not reach these positions.
        """
        async with self._writing:
            if self.full is None or not erasing.is_past(self.full.progress.positions, positions):
                return False
            await self.checkpoints.erase(people, positions)
            return True

    async def kept(self, version: int) -> Delta | None:
        """A version whole; None if it is not kept."""
        async with self.changing:
            try:
                return await self.checkpoints.at(version)
            except UnknownVersion:
                return None

    async def anchor(self, age_ms: int, published: int, other_than: int = 0) -> Delta | None:
        """The newest version that was written whole so long ago, in log time; None if there is no other.

        It is not dropped until another one is handed out, and neither is the one that will be next.

        Args:
            published: What answers; one that is newer has not been found good.
        """
        async with self.changing:
            wholes = await self.checkpoints.wholes()
            for number in (number for number in reversed(wholes) if number <= published):
                if (await self._whole(number)).made_ms <= self._newest_ms - age_ms:
                    self._anchor = number
                    self._growing = self._growing if self._growing > number else wholes[-1]
                    return None if number == other_than else await self.checkpoints.at(number)
        return None

    async def needed(self) -> Ends:
        """Log positions behind which no version stands that could be gone back to."""
        async with self.changing:
            wholes = await self.checkpoints.wholes()
            if wholes:
                return (await self._whole(wholes[0])).positions
        return {}

    async def _whole(self, number: int) -> Whole:
        if number not in self._wholes:
            progress = (await self.checkpoints.at(number)).progress
            self._wholes[number] = Whole(progress.trained_through_ms, progress.positions)
        return self._wholes[number]

    def _note_whole(self, full: Delta) -> None:
        self._wholes[full.version] = Whole(self._newest_ms, dict(full.progress.positions))

    def _become(self, full: Delta) -> None:
        self.full = full
        self._newest_ms = max(self._newest_ms, full.progress.trained_through_ms)
