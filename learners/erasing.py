"""Versions without a person, after they were made: whoever goes on from one, or goes back to it, knows nothing of them.

A version names nobody: what it holds of a person are the rows of values that this one person alone has met (see
`learners.embeddings`). In their place comes a row that no key leads to, empty, which expires like any other. So a row
keeps its number, the list of free rows stays what it is, and each file of a lineage can be changed by itself, in any
order: a delta laid over a whole version makes the same of it, whichever of the two was changed before.

No Ray, no files. Legend: N rows.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.schema import hash64
from learners.owners import NOBODY, is_one_of
from learners.snapshots import Delta, Rows

U64 = NDArray[np.uint64]
Ends = Mapping[int, tuple[int, int]]
"""Log positions, (ms, seq) by partition."""


def is_past(reached: Ends, positions: Ends) -> bool:
    """Whether what was read up to here holds all entries at these positions."""
    return all(tuple(reached.get(partition, (0, 0))) >= tuple(at) for partition, at in positions.items())


def holds(delta: Delta, people: U64) -> bool:
    """Whether one of these people owns a row of it."""
    return any(rows.owners is not None and bool(is_one_of(rows.owners, people).any()) for rows in delta.tables.values())


def without(delta: Delta, people: U64) -> Delta:
    """The same version without the rows that one of these people owns."""
    tables = {name: _without(rows, people) for name, rows in delta.tables.items()}
    return msgspec.structs.replace(delta, tables=tables)


def _without(rows: Rows, people: U64) -> Rows:
    if rows.owners is None:
        return rows
    at = np.flatnonzero(is_one_of(rows.owners, people))
    if not len(at):
        return rows
    keys, values, owners = rows.keys.copy(), rows.values.copy(), rows.owners.copy()
    keys[at], values[at], owners[at] = nobodys_keys(rows.rows[at]), 0.0, NOBODY
    upkeep = rows.upkeep
    if upkeep is not None:
        accumulators, uses = upkeep.accumulators.copy(), upkeep.uses.copy()
        accumulators[at] = uses[at] = 0.0
        upkeep = msgspec.structs.replace(upkeep, accumulators=accumulators, uses=uses)
    return msgspec.structs.replace(rows, keys=keys, values=values, owners=owners, upkeep=upkeep)


def nobodys_keys(rows_N: NDArray[np.integer]) -> U64:
    """For each row of a table a key of its own that no value has."""
    return np.array([hash64(f"\0nobody\0{row}") for row in rows_N.tolist()], dtype=np.uint64)
