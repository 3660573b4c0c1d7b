"""Embedding tables without collisions that grow with the stream.

A table maps 64-bit keys to rows. Row 0 is the *fallback*: it stands for every key the table has not met, and is trained
whenever such a key is. A new row starts as a copy of it plus a little noise that is a function of the key alone; so a
score hardly changes at the moment its item becomes known, and rows do not depend on the order in which keys arrive.

Rows are trained by row-wise Adagrad: one accumulator a row, the mean square of its gradients. The price of a row is
4 D + 13 bytes and 32 to 64 more in the index that finds it. Nothing is ever dropped here; memory grows with the keys.

The table knows neither what keys mean nor where gradients come from.

Legend: N rows, D embedding.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners import kernels

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

FALLBACK: Final = 0
NOISE: Final = 0.1  # half-width of a new row's noise: enough to tell rows apart, too little to outrank counters
EPSILON: Final = 1e-8
SLICE: Final = 2048  # rows loaded at once: under half a millisecond with their keys


class EmbeddingTable:
    """`lookup` rows, train them with `adagrad`, `take_touched` for what has changed."""

    def __init__(self, n_embedding: int, capacity: int = 1024) -> None:
        self.n_embedding = n_embedding
        self.clear(capacity)

    def __len__(self) -> int:
        """Number of rows, the fallback among them."""
        return self._n_rows

    def clear(self, capacity: int = 1024) -> None:
        """Forget every key; what is left is the fallback row."""
        self._index = KeyIndex(capacity)
        self._n_rows = 1
        self.weight = torch.zeros(capacity, self.n_embedding)
        self.accumulator = torch.zeros(capacity)
        self.key = np.zeros(capacity, dtype=np.uint64)
        self._is_touched = np.zeros(capacity, dtype=bool)
        self.arrays: tuple[U64, I64, F32] = (*self._index.slots, self.weight.numpy())
        """The table as `learners.kernels` take it, by the same memory; another one once it has grown."""
        self.weight[FALLBACK] = torch.from_numpy(noise(self.key[:1], self.n_embedding)[0])
        self._is_touched[FALLBACK] = True

    def lookup(self, keys: U64, grow: bool = False) -> I64:
        """Rows of keys, in their shape; `FALLBACK` for absent (0) and unknown ones.

        Args:
            grow: Make rows for keys that have none.
        """
        if grow:
            self._grow(keys)
        return self._index.get(keys)

    def adagrad(self, rows_N: Tensor, gradient_ND: Tensor, rate: float) -> None:
        """One step of row-wise Adagrad; each row at most once.

        a_n += mean_d g_nd^2;  w_nd -= rate g_nd / sqrt(a_n)
        Source: Duchi et al., JMLR 2011; one accumulator a row as in Naumov et al., 2019 (DLRM).
        """
        accumulated_N = self.accumulator[rows_N] + gradient_ND.square().mean(dim=1)
        self.accumulator[rows_N] = accumulated_N
        self.weight[rows_N] -= gradient_ND * (rate / (accumulated_N.sqrt() + EPSILON))[:, None]
        self._is_touched[rows_N.numpy()] = True

    def take_touched(self) -> I64:
        """Rows that are new or were trained since the last take, ascending."""
        rows = np.flatnonzero(self._is_touched)
        self._is_touched[rows] = False
        return rows

    def load(self, rows_N: NDArray[np.integer], keys_N: U64, values_ND: F32, accumulators_N: F32 | None) -> None:
        """Put rows in their places at once; see `load_slices`."""
        for _ in self.load_slices(rows_N, keys_N, values_ND, accumulators_N):
            pass

    def load_slices(
        self, rows_N: NDArray[np.integer], keys_N: U64, values_ND: F32, accumulators_N: F32 | None
    ) -> Iterator[None]:
        """Put rows in their places, a slice before each yield; they do not count as touched.

        Args:
            rows_N: Without gaps: every row beyond the table's end is preceded by all rows in between.
            accumulators_N: None where nobody trains.
        """
        if len(rows_N):
            yield from self._reserve(int(rows_N[-1]) + 1)
        for start in range(0, len(rows_N), SLICE):
            part = slice(start, start + SLICE)
            rows, keys = rows_N[part], keys_N[part]
            self._index.put(keys, rows)
            self.key[rows] = keys
            at = torch.from_numpy(rows.astype(np.int64))
            self.weight[at] = torch.from_numpy(values_ND[part].copy())
            if accumulators_N is not None:
                self.accumulator[at] = torch.from_numpy(accumulators_N[part].copy())
            self._is_touched[rows] = False
            self._n_rows = max(self._n_rows, int(rows[-1]) + 1)
            yield

    def _grow(self, keys: U64) -> None:
        unknown = keys[(self.lookup(keys) == FALLBACK) & (keys != 0)]
        fresh = unknown[np.sort(np.unique(unknown, return_index=True)[1])]  # in order of appearance
        if not len(fresh):
            return
        start, stop = self._n_rows, self._n_rows + len(fresh)
        for _ in self._reserve(stop):
            pass
        self._index.put(fresh, np.arange(start, stop))
        self.key[start:stop] = fresh
        self.weight[start:stop] = self.weight[FALLBACK] + torch.from_numpy(
            noise(self.key[start:stop], self.n_embedding)
        )
        self._is_touched[start:stop] = True
        self._n_rows = stop

    def _reserve(self, n_rows: int) -> Iterator[None]:
        """Make room; what is there moves in slices."""
        if n_rows <= len(self.key):
            return
        capacity = max(n_rows + n_rows // 8, 2 * len(self.key))
        weight, accumulator = torch.zeros(capacity, self.n_embedding), torch.zeros(capacity)
        key, is_touched = np.zeros(capacity, dtype=np.uint64), np.zeros(capacity, dtype=bool)
        index = KeyIndex(capacity)
        for start in range(0, self._n_rows, SLICE):
            part = slice(start, min(start + SLICE, self._n_rows))
            weight[part], accumulator[part] = self.weight[part], self.accumulator[part]
            key[part], is_touched[part] = self.key[part], self._is_touched[part]
            index.put(key[part], np.arange(part.start, part.stop))
            yield
        self._index = index
        self.weight, self.accumulator, self.key, self._is_touched = weight, accumulator, key, is_touched
        self.arrays = (*index.slots, weight.numpy())


class KeyIndex:
    """From 64-bit keys to rows; room for `capacity` keys."""

    def __init__(self, capacity: int) -> None:
        n_slots = 1 << (2 * capacity - 1).bit_length()
        self.slots = np.zeros(n_slots, dtype=np.uint64), np.zeros(n_slots, dtype=np.int64)

    def get(self, keys: U64) -> I64:
        """Rows, in the shape of the keys; `FALLBACK` for absent and unknown ones."""
        rows = np.empty(keys.size, dtype=np.int64)
        kernels.get(*self.slots, keys.ravel(), rows)
        return rows.reshape(keys.shape)

    def put(self, keys_N: U64, rows_N: NDArray[np.integer]) -> None:
        """Enter keys with their rows; absent ones are left out."""
        kernels.put(*self.slots, keys_N, rows_N.astype(np.int64))


def noise(keys_N: U64, n_embedding: int) -> F32:
    """Uniform values [N, D] in ±`NOISE` that depend on the key and the place only (splitmix64)."""
    places = np.arange(1, n_embedding + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = keys_N[:, None] + places
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unit = (x ^ (x >> np.uint64(31))) / 2.0**64
    values: F32 = (NOISE * (2.0 * unit - 1.0)).astype(np.float32)
    return values
