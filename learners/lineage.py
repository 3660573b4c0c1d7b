"""The versions of one model: each stands on the one before, and is durable before it counts.

`commit` takes a delta on top of the current version. `adopt` puts a whole version that was made elsewhere in the place
of all.

Not known here: what replicas have of it, and what weights mean. One event loop; no two changes at once.
"""

import asyncio
import time

from features.schema import Schema
from learners import snapshots
from learners.checkpoints import Checkpoints
from learners.errors import ForeignSnapshot, StaleSnapshot
from learners.snapshots import Delta


class Lineage:
    """`load` first.

    Whoever changes it, or reads files of it, holds `changing`.
    """

    def __init__(self, checkpoints: Checkpoints, schema: Schema) -> None:
        self.checkpoints = checkpoints
        self.changing = asyncio.Lock()
        self.full: Delta | None = None
        """The current version, whole; None before the first."""
        self.stages: dict[str, float] = {}
        """What the newest commit took, by name."""
        self._schema = schema

    @property
    def version(self) -> int:
        """Number of the current version; 0 before the first."""
        return self.full.version if self.full else 0

    async def load(self) -> None:
        """Go on with what is durable."""
        self.full = await self.checkpoints.load()

    async def commit(self, delta: Delta, packed: bytes) -> bool:
        """Make a delta the current version; whether the whole of it was written, too.

        Raises:
            StaleSnapshot: If it stands on another version.
        """
        current = self.version
        if delta.version != current + 1 or (delta.base or 0) != current:
            raise StaleSnapshot(
                f"offer of version {delta.version} on {delta.base}: expected {current + 1} on {current}"
            )
        began_s = time.monotonic()
        await self.checkpoints.write(packed, delta.version)
        commit_ms = round(1000.0 * (time.monotonic() - began_s), 2)
        self.stages = {"offer_bytes": len(packed), "commit_ms": commit_ms}
        self.full = delta if self.full is None else snapshots.merge(self.full, delta)
        return await self.checkpoints.compact(self.full)

    async def adopt(self, full: Delta) -> None:
        """Put a whole version in the place of all; it gets the next number.

        Raises:
            ForeignSnapshot: If it is of another schema or network, or lacks what a learner needs.
        """
        snapshots.check_schema(full, self._schema)
        current = self.full
        if full.base is not None or full.private is None or (current and current.model != full.model):
            raise ForeignSnapshot(f"a whole version with its private part, of the network {current and current.model}")
        full.version = self.version + 1
        await self.checkpoints.replace(full)
        self.full = full
