"""What a history came to, put into a store that goes on living.

    hold rows ─► states, partition by partition ─► rows ─► rows of nothing go ─► release rows at the cut

The *cut* is the position of the log that the history reaches. States take in what comes after it as they are written
(`features.backfill.tail`); rows are those of the cut, and the projector folds on from there. Attributes stay those that
are stored. So whatever is written twice is the same, and whoever is interrupted begins again.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.backfill.pieces import Folder
from features.backfill.tail import READ_COUNT, Tail, user_of
from features.errors import CorruptState, SchemaMismatch, StoreRefused
from features.events import BEYOND, START, Positions
from features.item_table import UNKNOWN, ItemTable
from features.schema import Schema, hash64
from features.state import history_in
from features.store import BulkStore, FeatureStore, all_of
from features.ticks import Log

USERS_AT_ONCE: Final = 64  # for a fraction of a millisecond the server answers nobody else
ROWS_AT_ONCE: Final = 32
READER: Final = "backfill"


async def begin(store: FeatureStore, bulk: BulkStore, name: str, cut: Positions, *, is_deep: bool = False) -> bool:
    """Keep the log from the cut on; True if the run of this name has begun there before, and nobody since.

    Args:
        is_deep: What is gone from the store is read in its archive.
    Raises:
        StoreRefused: As `check_erased` and `check_whole`.
    """
    mine, before = f"{READER} {name}", await bulk.readers()
    await bulk.note_reader(mine, cut)
    if before.get(mine) == cut:
        return True
    try:
        await check_erased(bulk, cut)
        if not is_deep:
            await check_whole(store, bulk, cut)
    except StoreRefused:
        await bulk.forget_reader(mine)
        raise
    for other in before:
        if other.startswith(f"{READER} ") and other != mine:
            await bulk.forget_reader(other)
    return False


async def end(bulk: BulkStore, name: str) -> None:
    """Let the log be trimmed again."""
    await bulk.forget_reader(f"{READER} {name}")


async def check_erased(bulk: BulkStore, cut: Positions) -> None:
    """See that nobody was erased after the cut of an archive: what was made of it may know that person.

    Raises:
        StoreRefused: If somebody was, and the log does not tell of it any more.
    """
    for partition, at in (await bulk.erased_to()).items():
        if START < cut.get(partition, START) < at:
            raise StoreRefused(
                f"log partition {partition}: somebody was erased at {at}, and the archive that this was made of ended "
                f"before, at {cut[partition]}: delete it, bring the archive up to now and begin anew"
            )


async def check_whole(store: FeatureStore, bulk: BulkStore, cut: Positions) -> None:
    """See that no event after the cut is gone from the log. Attributes and decisions may be.

    Raises:
        StoreRefused: If one is: nobody could count it any more.
    """
    gone = {p: at for p, at in (await bulk.trimmed()).items() if at > cut.get(p, START)}
    if not gone:
        return
    first = await _first_known(store, gone)
    async for users in bulk.users():
        there = [user for user in users if bulk.keys.user_partition(user) in gone]
        states, _ = await store.read(there, [])
        for user, state in zip(there, all_of(states), strict=True):
            if has_events(first.get(user, state), store.schema):
                partition = bulk.keys.user_partition(user)
                raise StoreRefused(
                    f"log partition {partition}: entries up to {gone[partition]} are gone from the log, and the "
                    f"history ends at {cut.get(partition, START)}: events that lie between would be lost. Let the "
                    "archive be a part of the history"
                )


async def _first_known(store: FeatureStore, after: Positions) -> dict[str, bytes]:
    """State of each user just before the first entry after these positions; no other partition is looked at."""
    found: dict[str, bytes] = {}
    read = dict.fromkeys(range(store.keys.n_partitions), BEYOND) | after
    while entries := await store.read_log(read, count=READ_COUNT):
        for entry in entries:
            user = user_of(entry)
            if user is not None:
                found.setdefault(user, entry.state)
            read[entry.partition] = entry.id
    return found


def has_events(state: bytes, schema: Schema) -> bool:
    """Whether somebody has done something, or it can't be known."""
    try:
        return bool(history_in(state, schema))
    except (SchemaMismatch, CorruptState):
        return True


async def write_people(
    store: FeatureStore,
    bulk: BulkStore,
    folder: Folder,
    pieces: Sequence[str],
    partition: int,
    cut: Positions,
    log: Log | None = None,
) -> int:
    """Write the states of a partition's users; returns how many.

    Args:
        log: The store's, with its archive; None: entries after the cut are in the store.
    Raises:
        StoreRefused: If entries after the cut are gone from the log since `begin`.
    """
    gone = START if log else (await bulk.trimmed()).get(partition, START)
    tail = Tail(store, bulk, partition, max(gone, cut.get(partition, START)), log)
    n = 0
    for batch in _batches(folder, pieces, partition):
        for start in range(0, batch.num_rows, USERS_AT_ONCE):
            part = batch.slice(start, USERS_AT_ONCE)
            await tail.put(dict(zip(part["user"].to_pylist(), part["state"].to_pylist(), strict=True)))
            n += part.num_rows
    return n


async def write_rows(
    store: FeatureStore, bulk: BulkStore, folder: Folder, pieces: Sequence[str], partition: int, holder: str
) -> int:
    """Write the rows of an item partition; returns how many.

    Raises:
        ProjectionConflict: If another has taken hold of them.
    """
    n = 0
    for batch in _batches(folder, pieces, partition):
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            part = batch.slice(start, ROWS_AT_ONCE)
            rows = dict(zip(part["item"].to_pylist(), part["row"].to_pylist(), strict=True))
            await bulk.put_rows(partition, await _with_attributes(store, rows), holder)
            n += part.num_rows
    return n


async def drop_other_rows(store: FeatureStore, bulk: BulkStore, kept: NDArray[np.uint64], holder: str) -> int:
    """Leave nothing but their attributes to all items but these; returns how many.

    Args:
        kept: hash64 of the items, ascending.
    """
    n = 0
    async for items in bulk.items():
        others = [item for item in items if not _holds(kept, hash64(item))]
        by_partition: dict[int, dict[str, bytes]] = {}
        for item, row in (await _with_attributes(store, dict.fromkeys(others, b""))).items():
            by_partition.setdefault(bulk.keys.item_partition(item), {})[item] = row
        for partition, rows in by_partition.items():
            await bulk.put_rows(partition, rows, holder)
        n += len(others)
    return n


async def _with_attributes(store: FeatureStore, rows: dict[str, bytes]) -> dict[str, bytes]:
    """Rows with the attributes that are stored; these also know entries that are gone from the log."""
    items = list(rows)
    _, stored = await store.read([], items)
    before, now = ItemTable(store.schema, len(items) + 1), ItemTable(store.schema, len(items) + 1)
    for item, row in zip(items, all_of(stored), strict=True):
        with suppress(SchemaMismatch, CorruptState):  # what the log says is all that can be known
            before.load([item], [row])
    with_some = [item for item in items if before.attributes.get(before.rows.get(item, UNKNOWN))]
    now.load(with_some, [rows[item] for item in with_some])
    for item in with_some:
        now.set_attributes(item, before.attributes[before.rows[item]])
    return rows | {item: now.pack(now.rows[item]) for item in with_some}


def items_in(folder: Folder, pieces: Sequence[str]) -> NDArray[np.uint64]:
    """hash64 of all items that have a row in these pieces, ascending."""
    columns = [items for piece in pieces for items in folder.read_column(piece, "item")]
    hashes = [np.fromiter(map(hash64, items.to_pylist()), np.uint64, len(items)) for items in columns]
    return np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, dtype=np.uint64)


def _holds(ascending: NDArray[np.uint64], value: int) -> bool:
    at = int(np.searchsorted(ascending, np.uint64(value)))
    return at < len(ascending) and int(ascending[at]) == value


def _batches(folder: Folder, pieces: Sequence[str], partition: int) -> Iterator[pa.RecordBatch]:
    for piece in pieces:
        yield from folder.read_piece(piece, partition)
