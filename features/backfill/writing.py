"""What a history came to, put into a store that goes on living.

    hold rows ─► states, partition by partition ─► rows ─► rows of nothing go ─► release rows at the cut

The *cut* is the position of the log that the history reaches. States take in what comes after it as they are written
(`features.backfill.tail`); rows are those of the cut, and the projector folds on from there. So whatever is written
twice is the same, and whoever is interrupted begins again.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.backfill.pieces import Folder
from features.backfill.tail import Tail
from features.errors import StoreRefused
from features.events import START, Positions
from features.schema import hash64
from features.store import BulkStore, FeatureStore

USERS_AT_ONCE: Final = 64  # a quarter of a millisecond of the server, which answers nobody else meanwhile
ROWS_AT_ONCE: Final = 32
READER: Final = "backfill"


async def begin(bulk: BulkStore, name: str, cut: Positions) -> bool:
    """Keep the log from the cut on; True if the run of this name has begun there before, and nobody since.

    Raises:
        StoreRefused: As `check_whole`.
    """
    mine, before = f"{READER} {name}", await bulk.readers()
    await bulk.note_reader(mine, cut)
    try:
        await check_whole(bulk, cut)
    except StoreRefused:
        await bulk.forget_reader(mine)
        raise
    for other in before:
        if other.startswith(f"{READER} ") and other != mine:
            await bulk.forget_reader(other)
    return before.get(mine) == cut


async def end(bulk: BulkStore, name: str) -> None:
    """Let the log be trimmed again."""
    await bulk.forget_reader(f"{READER} {name}")


async def check_whole(bulk: BulkStore, cut: Positions) -> None:
    """See that nothing after the cut is gone from the log.

    Raises:
        StoreRefused: If something is: nobody could count it any more.
    """
    for partition, gone in (await bulk.trimmed()).items():
        reached = cut.get(partition, START)
        if gone > reached:
            raise StoreRefused(
                f"log partition {partition}: entries up to {gone} are gone from the log, and the history ends at "
                f"{reached}: what lies between would be lost. Let the archive be a part of the history"
            )


async def write_people(
    store: FeatureStore, bulk: BulkStore, folder: Folder, pieces: Sequence[str], partition: int, cut: Positions
) -> int:
    """Write the states of a partition's users; returns how many."""
    tail = Tail(store, bulk, partition, cut.get(partition, START))
    n = 0
    for batch in _batches(folder, pieces, partition):
        for start in range(0, batch.num_rows, USERS_AT_ONCE):
            part = batch.slice(start, USERS_AT_ONCE)
            await tail.put(dict(zip(part["user"].to_pylist(), part["state"].to_pylist(), strict=True)))
            n += part.num_rows
    return n


async def write_rows(bulk: BulkStore, folder: Folder, pieces: Sequence[str], partition: int, holder: str) -> int:
    """Write the rows of an item partition; returns how many.

    Raises:
        ProjectionConflict: If another has taken hold of them.
    """
    n = 0
    for batch in _batches(folder, pieces, partition):
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            part = batch.slice(start, ROWS_AT_ONCE)
            rows = dict(zip(part["item"].to_pylist(), part["row"].to_pylist(), strict=True))
            await bulk.put_rows(partition, rows, holder)
            n += part.num_rows
    return n


async def drop_other_rows(bulk: BulkStore, kept: NDArray[np.uint64], holder: str) -> int:
    """Have no rows of items but these; returns how many went.

    Args:
        kept: hash64 of the items, ascending.
    """
    n = 0
    async for items in bulk.items():
        others = [item for item in items if not _holds(kept, hash64(item))]
        by_partition: dict[int, dict[str, bytes]] = {}
        for item in others:
            by_partition.setdefault(bulk.keys.item_partition(item), {})[item] = b""
        for partition, rows in by_partition.items():
            await bulk.put_rows(partition, rows, holder)
        n += len(others)
    return n


def items_in(folder: Folder, pieces: Sequence[str], n_partitions: int) -> NDArray[np.uint64]:
    """hash64 of all items that have a row in these pieces, ascending."""
    hashes = [
        np.fromiter(map(hash64, batch["item"].to_pylist()), np.uint64, batch.num_rows)
        for partition in range(n_partitions)
        for batch in _batches(folder, pieces, partition)
    ]
    return np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, dtype=np.uint64)


def _holds(ascending: NDArray[np.uint64], value: int) -> bool:
    at = int(np.searchsorted(ascending, np.uint64(value)))
    return at < len(ascending) and int(ascending[at]) == value


def _batches(folder: Folder, pieces: Sequence[str], partition: int) -> Iterator[pa.RecordBatch]:
    for piece in pieces:
        yield from folder.read_piece(piece, partition)
