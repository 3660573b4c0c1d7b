"""A program that makes version after version durable until it is killed; what it writes follows from the number alone.

    python -m tests.learners.checkpoint_writer WHERE N      a folder or the URL of a store, rows

    write   ─► pid N         a writer is forked off, and builds on what it finds
               begin FILE    then it tells each file that it writes (or `-FILE`: deletes) …
               end FILE      … and that it has
    reap    ─► reaped        the writer is dead: nothing more of it is in the pipe

Forked from a warm process a writer begins in milliseconds. Whole versions are written often here, so that many a writer
is killed in one, or while it deletes what is older.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import numpy as np

from features.errors import FeatureError
from features.schema import Schema
from features.store_files import StoreFiles
from learners import checkpoints, snapshots
from learners.checkpoints import Checkpoints, Files
from learners.folder_files import FolderFiles
from learners.snapshots import Delta, Private, Progress, Rows, Upkeep

FULL_EVERY: Final = 3
SCHEMA: Final = Schema()
D: Final = 16
N_MORE: Final = 5  # rows of a version that the one before has not
N_COUNTERS: Final = 1000


def delta_of(version: int, n_rows: int) -> Delta:
    """What a version changes, of half the rows; all of it, if it is the first, which has `n_rows`."""
    rng = np.random.default_rng(version)
    n_before = n_rows + N_MORE * (version - 2)
    first = version == 1
    changed = np.arange(n_rows) if first else np.sort(rng.choice(n_before, n_rows // 2, replace=False))
    rows = changed if first else np.concatenate([changed, np.arange(n_before, n_before + N_MORE)])
    n, places = len(rows), np.zeros(0) if first else np.sort(rng.choice(N_COUNTERS, 50, replace=False))
    upkeep = Upkeep(
        *(rng.random(n, dtype=np.float32) for _ in ("accumulators", "uses")),
        *(rng.integers(1 << 30, size=n, dtype=np.uint32), version, 0, 0, version),
        *(places.astype(np.uint32), rng.integers(9, size=len(places) or N_COUNTERS, dtype=np.uint8)),
    )
    values = rng.random((n, D), dtype=np.float32)
    table = Rows(rows.astype(np.uint32), rng.integers(1, 1 << 62, n).astype(np.uint64), values, 1_000_000, upkeep)
    weights, *private = (rng.random(500, dtype=np.float32) for _ in range(4))
    some = [float(version)]
    return Delta(
        *(version, None if first else version - 1, SCHEMA.fingerprint, {"n_embedding": D}, weights, {"item": table}),
        Progress({0: (version, 7)}, version, version, version, {"loss": 1.0 / version}),
        Private(*private, version, 0, some, some, 0, some, 0.5, some, version, {f"i{version}": b"%d" % version}),
    )


class Told:
    """Files that tell what is done with them."""

    def __init__(self, files: Files) -> None:
        self.names, self.read, self.sweep, self._files = files.names, files.read, files.sweep, files

    async def write(self, name: str, data: bytes) -> None:
        """Make a file."""
        tell(f"begin {name}")
        await self._files.write(name, data)
        tell(f"end {name}")

    async def delete(self, name: str) -> None:
        """Have none."""
        tell(f"begin -{name}")
        await self._files.delete(name)
        tell(f"end -{name}")


def tell(what: str) -> None:
    """One line, whole."""
    os.write(1, f"{what}\n".encode())


def files_at(where: str) -> Files:
    """A folder, or the store."""
    return StoreFiles(where) if where.startswith("redis://") else FolderFiles(where)


async def write_on(files: Files, n_rows: int) -> AsyncIterator[int]:
    """As the hub does, for ever; each version when it is all done."""
    subject = Checkpoints(files, SCHEMA)
    full = await subject.load()
    while True:
        delta = delta_of(full.version + 1 if full else 1, n_rows)
        await subject.write(snapshots.pack(delta), delta.version)
        full = delta if full is None else snapshots.merge(full, delta)
        if subject.is_due(full.version):
            await subject.write_whole(snapshots.pack(full), full.version)
            await subject.thin(full.version)
        yield full.version


async def write_until_killed(files: Files, n_rows: int) -> None:
    """As its name says."""
    async for _ in write_on(files, n_rows):
        pass


def main(where: str, n_rows: int) -> None:
    """Fork and reap as told, until nobody tells any more."""
    checkpoints.FULL_EVERY = FULL_EVERY  # type: ignore[misc]
    pid = 0
    for line in sys.stdin:
        if line == "write\n":
            pid = os.fork()
            if pid == 0:
                with suppress(FeatureError, BrokenPipeError):  # the store is killed as well; or the test has ended
                    asyncio.run(write_until_killed(Told(files_at(where)), n_rows))
                return
            tell(f"pid {pid}")
        else:
            os.waitpid(pid, 0)
            tell("reaped")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
