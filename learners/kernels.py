"""Compiled loops of the network's front end: from 64-bit keys to rows, and from rows to means.

An index is two arrays of one power-of-two length, `slot_key` and `slot_row`, by open addressing and at most half full;
a slot whose key is 0 is free. Compiled by numba at the first call, cached on disk beside this file.

Legend: N keys, A keys of one mean, R rows, D embedding.
"""

from typing import Any, Final

import numpy as np
from numba import njit

SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: any pattern of keys leaves one of places


@njit(cache=True)
def place_of(slot_key: Any, key: Any) -> Any:
    """Where a key is in the index, or the free slot where it would be."""
    last = np.uint64(len(slot_key) - 1)
    at = (key * SPREAD >> np.uint64(32)) & last
    while slot_key[at] != 0 and slot_key[at] != key:
        at = (at + np.uint64(1)) & last
    return at


@njit(cache=True)
def put(slot_key: Any, slot_row: Any, key_N: Any, row_N: Any) -> None:
    """Enter keys with their rows; absent keys (0) are left out."""
    for n in range(len(key_N)):
        if key_N[n] != 0:
            at = place_of(slot_key, key_N[n])
            slot_key[at] = key_N[n]
            slot_row[at] = row_N[n]


@njit(cache=True)
def get(slot_key: Any, slot_row: Any, key_N: Any, out_N: Any) -> None:
    """Rows of keys; 0 for absent and unknown ones."""
    for n in range(len(key_N)):
        if key_N[n] == 0:
            out_N[n] = 0
        else:
            at = place_of(slot_key, key_N[n])
            out_N[n] = slot_row[at] if slot_key[at] != 0 else 0


@njit(cache=True, error_model="numpy")
def add_means(slot_key: Any, slot_row: Any, key_NA: Any, weight_RD: Any, out_ND: Any) -> None:
    """Add to each output the mean of the embeddings of its present keys; nothing where none is."""
    for n in range(key_NA.shape[0]):
        n_present = 0
        for a in range(key_NA.shape[1]):
            n_present += key_NA[n, a] != 0
        if n_present:
            share = np.float32(1.0) / np.float32(n_present)
            for a in range(key_NA.shape[1]):
                key = key_NA[n, a]
                if key != 0:
                    at = place_of(slot_key, key)
                    row = slot_row[at] if slot_key[at] != 0 else 0
                    for d in range(weight_RD.shape[1]):
                        out_ND[n, d] += share * weight_RD[row, d]
