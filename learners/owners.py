"""Whose a row of an embedding table is: the one person who has ever met its key, or everybody's once a second one has.

People are hashes of their ids (`features.schema.hash64`). No numba: who only keeps versions needs none.

Legend: N rows or keys.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
NOBODY: Final = np.uint64(0)
"""Has been met by nobody since owners are noted."""
EVERYBODY: Final = np.uint64(2**64 - 1)


def is_one_of(owners_N: U64, people: U64) -> NDArray[np.bool_]:
    """Which rows [N] one of these people owns."""
    found: NDArray[np.bool_] = np.isin(owners_N, people) & (owners_N != NOBODY) & (owners_N != EVERYBODY)
    return found


def owned(keys_N: U64, people_N: U64) -> tuple[U64, U64]:
    """Present keys, ascending, each once; and who met each, `EVERYBODY` for several.

    Args:
        people_N: Who met each key.
    """
    order = np.argsort(keys_N, kind="stable")
    order = order[np.searchsorted(keys_N[order], 1) :]  # absent keys are 0
    keys, people = keys_N[order], people_N[order]
    if not len(keys):
        return keys, people
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    one, other = np.minimum.reduceat(people, starts), np.maximum.reduceat(people, starts)
    return keys[starts], np.where(one == other, one, EVERYBODY)
