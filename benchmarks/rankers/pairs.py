"""Decayed counts of pairs: what followed what, and how lately. Open addressing in arrays, for numba.

All half-lives of a pair share one instant. The arrays are made for as many pairs as a stream can hold and never grow.

Legend: P places, H half-lives.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: any pattern of keys leaves one of places


class Pairs(NamedTuple):
    """The arrays."""

    key_P: npt.NDArray[np.uint64]
    count_PH: npt.NDArray[np.float32]
    seen_ms_P: npt.NDArray[np.int64]
    rate_per_ms_H: npt.NDArray[np.float64]


def pairs(n_most: int, half_lives_s: Sequence[float]) -> Pairs:
    """Room for so many pairs, half of it free."""
    n_places = 1 << max(4, (2 * n_most).bit_length())
    rates = np.log(2.0) / (1000.0 * np.array(half_lives_s, dtype=np.float64))
    zeros_ms = np.zeros(n_places, np.int64)
    return Pairs(np.zeros(n_places, np.uint64), np.zeros((n_places, len(rates)), np.float32), zeros_ms, rates)


@njit(cache=True)
def place_of(slot_key: Any, key: Any) -> Any:
    """Where a key is among slots whose number is a power of two, or the free slot (0) where it would be."""
    last = np.uint64(len(slot_key) - 1)
    at = (key * SPREAD >> np.uint64(32)) & last
    while slot_key[at] != 0 and slot_key[at] != key:
        at = (at + np.uint64(1)) & last
    return at


@njit(cache=True)
def add_pair(known: Pairs, first: int, second: int, now_ms: int, weight: float) -> None:
    """Count a pair."""
    key = _key(first, second)
    at = place_of(known.key_P, key)
    for h in range(len(known.rate_per_ms_H)):
        faded = np.exp(known.rate_per_ms_H[h] * (known.seen_ms_P[at] - now_ms))
        known.count_PH[at, h] = known.count_PH[at, h] * faded + weight
    known.key_P[at] = key
    known.seen_ms_P[at] = now_ms


@njit(cache=True)
def add_counts(known: Pairs, first: int, second: int, now_ms: int, weight: float, out_H: Any) -> None:
    """Add a pair's decayed counts, times a weight, to `out_H`."""
    at = place_of(known.key_P, _key(first, second))
    if known.key_P[at] != 0:
        for h in range(len(out_H)):
            faded = np.exp(known.rate_per_ms_H[h] * (known.seen_ms_P[at] - now_ms))
            out_H[h] += weight * faded * known.count_PH[at, h]


@njit(cache=True)
def _key(first: int, second: int) -> Any:
    return np.uint64(first + 1) << np.uint64(32) | np.uint64(second + 2)
