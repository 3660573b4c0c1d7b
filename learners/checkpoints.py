"""Durable commits: one file a version, and now and then one that holds everything.

    v0000000041.delta   what version 41 changed on top of 40
    v0000000060.full    version 60 whole
    left                a whole version that somebody else has made, for the hub to adopt

Deltas go when two whole versions are behind them. Of the whole ones those are kept that lie about 1, 2, 4, 8, … times
`FULL_EVERY` versions back, so a few of them reach far: to those one can go back.

Each carries its own checksum (`snapshots.pack`). A file that is corrupt all the same is skipped by name, and with it
whatever stands on it.

Where the files are: in the store, which every node reaches and nothing else is needed for; or in a folder or bucket,
which has to be one that all nodes share, lest a hub that is started on another node finds none.
"""

import asyncio
import itertools
import logging
from collections.abc import Collection, Iterable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.schema import Schema
from learners import snapshots
from learners.erasing import Ends, holds, is_past, without
from learners.errors import CorruptSnapshot, LearnerError, UnknownVersion
from learners.snapshots import Delta

LEFT: Final = "left"
FULL_EVERY: Final = (
    120  # versions, a minute of them; bounds both the files to read at start and the bytes written again
)
N_KEPT: Final = 6  # whole versions; the oldest of them is up to 16 times `FULL_EVERY` versions back

logger = logging.getLogger(__name__)


class Files(Protocol):
    """Names and bytes; a file appears whole or not at all. Raises `FeatureError` or `OSError` if out of reach."""

    async def names(self) -> list[str]:
        """Every file there is."""
        ...

    async def read(self, name: str) -> bytes:
        """A file's content; raises `FileNotFoundError`."""
        ...

    async def write(self, name: str, data: bytes) -> None:
        """Make a file of this content, in place of any other of its name."""
        ...

    async def delete(self, name: str) -> None:
        """Have no file of this name."""
        ...

    async def sweep(self, prefix: str) -> None:
        """Have nothing left of what somebody died over: files whose names begin so. Nobody may be writing one."""
        ...


class Checkpoints:
    """The durable versions of one lineage: `load` first, then `write` version after version; where it `is_due`,
    `write_whole` and `thin`.

    `replace` begins another lineage.

    Args:
        n_kept: Whole versions, at most.
    """

    def __init__(self, files: Files, schema: Schema, n_kept: int = N_KEPT) -> None:
        self._files = files
        self._schema = schema
        self._n_kept = n_kept
        self._last_full = 0

    async def write(self, packed: bytes, version: int) -> None:
        """Make one packed delta (or first snapshot) durable."""
        await self._files.write(f"v{version:010d}.delta", packed)

    def is_due(self, version: int) -> bool:
        """Whether it is time to write this one whole."""
        return version - self._last_full >= FULL_EVERY

    async def write_whole(self, packed: bytes, version: int) -> None:
        """Make a packed version durable as a whole."""
        await self._files.write(f"v{version:010d}.full", packed)

    async def thin(self, version: int, kept: Collection[int] = ()) -> None:
        """After this version was written whole: drop what the whole one before it no longer needs.

        Args:
            kept: Versions that are not dropped, however many there are.
        """
        before, self._last_full = self._last_full, version
        for number in await self._numbers("delta"):
            if number <= before:
                await self._files.delete(f"v{number:010d}.delta")
        wholes = await self._numbers("full")
        for number in set(wholes) - thinned(wholes, self._n_kept) - set(kept):
            await self._files.delete(f"v{number:010d}.full")

    async def replace(self, full: Delta) -> None:
        """Have no version but this one, which is newer than all."""
        await self._files.write(f"v{full.version:010d}.full", snapshots.pack(full))
        self._last_full = full.version
        for kind in ("delta", "full"):
            for number in await self._numbers(kind):
                if number < full.version:
                    await self._files.delete(f"v{number:010d}.{kind}")

    async def begin_again(self, full: Delta, after: int) -> None:
        """Go on with this version, and drop those since another one, of which it has the content."""
        await self._files.write(f"v{full.version:010d}.full", snapshots.pack(full))
        self._last_full = full.version
        for kind in ("delta", "full"):
            for number in await self._numbers(kind):
                if after < number < full.version:
                    await self._files.delete(f"v{number:010d}.{kind}")

    async def wholes(self) -> list[int]:
        """Versions that are written whole, ascending."""
        return sorted(await self._numbers("full"))

    async def load(self) -> Delta | None:
        """The newest version that can be put together from sound files; None if there is none.

        Deltas beyond it stand on something unreadable: they are dropped, lest a later version be built on them. So is
        what a writer that was killed has left half written.
        """
        await self._files.sweep("v")  # no more: somebody else may be at what is `LEFT`
        loaded: Delta | None = None
        wholes = (await self.wholes())[::-1]
        self._last_full = max(wholes, default=0)
        for number in wholes:
            loaded = await self._read(f"v{number:010d}.full")
            if loaded is not None:
                break
        loaded = await self._roll_forward(loaded)
        for number in await self._numbers("delta"):
            if number > (loaded.version if loaded else 0):
                logger.warning("checkpoint v%010d.delta is dropped: the version before it can't be read", number)
                await self._files.delete(f"v{number:010d}.delta")
        return loaded

    async def numbers(self) -> list[int]:
        """Versions that there are files for, ascending; see `at`."""
        found, deltas = [], set(await self._numbers("delta"))
        for whole in await self.wholes():
            found.append(whole)
            while found[-1] + 1 in deltas:
                found.append(found[-1] + 1)
        if 1 in deltas:  # the first one is whole
            found += itertools.takewhile(deltas.__contains__, itertools.count(1))
        return sorted(set(found))

    async def at(self, version: int) -> Delta:
        """A version whole, put together anew.

        Raises:
            UnknownVersion: If it is not kept, or a file that it needs cannot be read.
        """
        wholes = [number for number in await self._numbers("full") if number <= version]
        full = await self._read(f"v{max(wholes):010d}.full") if wholes else None
        for number in range(full.version + 1 if full else 1, version + 1):
            delta = await self._read(f"v{number:010d}.delta")
            if delta is None:
                break
            full = delta if full is None else snapshots.merge(full, delta)
        if full is None or full.version != version:
            kept = await self.numbers()
            raise UnknownVersion(f"version {version} is not kept; kept are {spans(kept)}")
        return full

    async def before_last(self) -> Delta | None:
        """The last version but one that was written whole, or the last, or the first there ever was; None if there is
        none. Nothing is dropped: a hub may be at work.
        """
        names = [f"v{number:010d}.full" for number in (await self.wholes())[-2:]]
        for name in names or ["v0000000001.delta"] * (1 in await self._numbers("delta")):
            found = await self._read(name)
            if found is not None:
                return found
        return None

    async def erase(self, people: NDArray[np.uint64], positions: Ends) -> int:
        """Have no row that one of these people owns in any version that does not reach these positions of the log;
        returns how many files were written anew.

        Each file takes the place of what it was by itself (see `learners.erasing`), so whatever ends this in between,
        all versions can be read, and doing it again does the rest. What cannot be read goes: nobody can go on from it,
        nor say what it holds. Others may write versions meanwhile, but drop none.
        """
        n_written = 0
        for name in sorted(name for name in await self._files.names() if _is_version(name)):
            packed = await self._files.read(name)
            try:
                changed = await asyncio.to_thread(_without, packed, people, positions)
            except CorruptSnapshot as error:
                logger.error("checkpoint %s is dropped, it cannot be said whom it is about: %s", name, error)
                await self._files.delete(name)
                continue
            if changed is not None:
                await self._files.write(name, changed)
                n_written += 1
        return n_written

    async def left(self) -> bytes | None:
        """A packed version that was left for whoever commits here; None if there is none."""
        return await self._files.read(LEFT) if LEFT in await self._files.names() else None

    async def drop_left(self) -> None:
        """Have none, once it is adopted or refused."""
        await self._files.delete(LEFT)

    async def _roll_forward(self, full: Delta | None) -> Delta | None:
        version = full.version if full else 0
        for number in sorted(n for n in await self._numbers("delta") if n > version):
            delta = await self._read(f"v{number:010d}.delta") if number == version + 1 else None
            if delta is None:
                break
            full = delta if full is None else snapshots.merge(full, delta)
            version = number
        return full

    async def _read(self, name: str) -> Delta | None:
        try:
            delta = snapshots.unpack(await self._files.read(name))
            snapshots.check_schema(delta, self._schema)
        except (LearnerError, FileNotFoundError) as error:
            logger.warning("checkpoint %s is skipped: %s", name, error)
            return None
        return delta

    async def _numbers(self, kind: str) -> list[int]:
        names = await self._files.names()
        return [int(name[1:11]) for name in names if name.startswith("v") and name.endswith(f".{kind}")]


def _is_version(name: str) -> bool:
    return name.startswith("v") and name.endswith((".delta", ".full"))


def _without(packed: bytes, people: NDArray[np.uint64], positions: Ends) -> bytes | None:
    """A packed version without what people own; None if it has nothing of them, or is of after their erasure.

    Raises:
        CorruptSnapshot: If it cannot be read.
    """
    delta = snapshots.unpack(packed)
    if is_past(delta.progress.positions, positions) or not holds(delta, people):
        return None
    return snapshots.pack(without(delta, people))


def thinned(numbers: Iterable[int], n_kept: int) -> set[int]:
    """Of whole versions the newest, and for each power of two times `FULL_EVERY` the oldest not further back."""
    newest_first = sorted(numbers, reverse=True)
    newest = newest_first[0]
    kept = {newest}
    for power in range(n_kept - 1):
        kept.add(min(number for number in newest_first if newest - number <= FULL_EVERY << power))
    return kept


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers, as people write them: 3, 7-9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs) or "none"
