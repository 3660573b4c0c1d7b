"""The embedding table of who only scores: its rows change between two scorings, all at once.

    prepare(keys, values), …    rows are written where nobody looks     in slices, off the request path
    flip()                      their keys lead to them                 one compiled loop
    settle() or revert()        what they led to before is free again, or what they lead to now

So new rows need room beside those that answer, but only as many as there are, not a second table. Where `max_spare` of
them do not suffice, the rest waits as the bytes that came, a third of their size, and is written over the old rows in
the flip, which then takes that much longer and cannot be reverted: nothing is ever scored half with one version and
half with another, and memory stays what it was meant to be.

Row 0 is the fallback, for every key that has no row.

Legend: N keys, D embedding.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiling import compiled
from features.index import AHEAD, I64, U64, KeyIndex, fetch_slot, place_of
from learners.editions import Part, restored
from learners.embeddings import FALLBACK, lined_up, noise

F32 = NDArray[np.float32]
SLICE: Final = 2048  # rows at once: under half a millisecond with their keys
NO_ROWS: Final = np.zeros(0, dtype=np.int64)


class ServingTable:
    """Find rows with `lookup` or, in a compiled loop, by `arrays`; change them as told above.

    Args:
        max_rows: With a key; the address space for them is reserved at once, memory taken as it is used.
        max_spare: Rows that may be prepared at once.
    """

    def __init__(self, n_embedding: int, max_rows: int, max_spare: int) -> None:
        self.n_embedding = n_embedding
        self._max_rows, self._max_spare = max_rows, max_spare
        self.weight = lined_up(max_rows + max_spare + 1, n_embedding)
        self.weight[FALLBACK] = noise(np.zeros(1, dtype=np.uint64), n_embedding)[0]
        self._key = np.zeros(len(self.weight), dtype=np.uint64)
        self._index = KeyIndex(512)
        self._n_used = 1
        self._free = self._used = NO_ROWS
        self._is_kept: NDArray[np.bool_] | None = None
        self._clear_change()

    @property
    def arrays(self) -> tuple[U64, U64, F32]:
        """The table as `learners.kernels` take it, by the same memory; the index may be another after `prepare`."""
        return self._index.slots, self._index.old, self.weight

    @property
    def n_live(self) -> int:
        """Keys that have a row."""
        return self._n_used - 1 - len(self._free) - len(self._used) - self._n_prepared

    def lookup(self, keys: U64) -> I64:
        """Rows of keys, in their shape; `FALLBACK` for absent (0) and unknown ones."""
        return self._index.get(keys)

    def begin(self, fallback: F32, gone: U64, *, is_whole: bool) -> None:
        """Start a change.

        Args:
            gone: Keys that have no row afterwards, but those that are prepared.
            is_whole: Whether keys that are not prepared have none either.
        """
        self._fallback = fallback.copy()
        self._gone = gone[self.lookup(gone) != FALLBACK]
        self._is_kept = np.zeros(self._n_used, dtype=bool) if is_whole else None

    def prepare(self, part: Part) -> Iterator[None]:
        """Take in rows, a slice before each yield."""
        for start in range(0, len(part.keys), SLICE):
            some = slice(start, start + SLICE)
            keys, values = part.keys[some], part.values(some)
            rows, at = self.lookup(keys), np.arange(start, start + len(keys))
            if self._is_kept is not None:
                is_same = (rows != FALLBACK) & (self.weight[rows] == values).all(axis=1)
                self._is_kept[rows[is_same]] = True
                keys, values, rows, at = keys[~is_same], values[~is_same], rows[~is_same], at[~is_same]
            n_fit = max(min(len(keys), self._max_spare - self._n_prepared), 0)
            self._write(keys[:n_fit], rows[:n_fit], values[:n_fit])
            if n_fit < len(keys):
                self._waiting.append((part, at[n_fit:]))
            yield

    def flip(self) -> None:
        """Let the keys lead to what was prepared. Nothing else may happen between its beginning and its end."""
        if self._is_kept is not None:
            self._gone = self._not_kept()
        slots, old = self._index.slots, self._index.old
        keys, rows = np.concatenate([np.zeros(0, np.uint64), *self._keys]), np.concatenate([NO_ROWS, *self._rows])
        self._changed = np.concatenate([self._gone, keys])
        self._before = np.concatenate([np.zeros(len(self._gone), np.int64), rows])
        exchange(slots, old, self._changed, self._before)
        self._fallback, self.weight[FALLBACK] = self.weight[FALLBACK].copy(), self._fallback
        if self._waiting:
            self._let_go()
            for part, at in self._waiting:
                self._overwrite(part.keys[at], restored(part.scales[at], part.codes[at]))

    def settle(self) -> Iterator[None]:
        """Let go of what the keys led to before, and leave nothing of it in memory; a slice before each yield."""
        self._let_go()
        gone = self._gone
        self._clear_change()
        while len(self._used):
            self._wipe(SLICE)
            yield
        for start in range(0, len(gone), SLICE):
            some = gone[start : start + SLICE]
            self._index.drop(some[self.lookup(some) == FALLBACK])
            yield

    def revert(self) -> None:
        """Instead of `settle`: everything is as it was before the flip.

        Raises:
            RuntimeError: If rows were overwritten.
        """
        if self._waiting:
            raise RuntimeError("rows were overwritten; there is nothing to go back to")
        # Backwards: a key that was gone and has another row was exchanged twice.
        changed, before = self._changed[::-1].copy(), self._before[::-1].copy()
        exchange(self._index.slots, self._index.old, changed, before)
        self.weight[FALLBACK] = self._fallback
        self.drop_change()

    def drop_change(self) -> None:
        """Instead of `flip`: what was prepared is forgotten."""
        added, keys = self._rows, np.concatenate([np.zeros(0, np.uint64), *self._keys])
        self._clear_change()
        self._used = np.concatenate([self._used, *added])
        self._index.drop(keys[self.lookup(keys) == FALLBACK])

    def _let_go(self) -> None:
        """Have the rows that keys led to before."""
        self._used = np.concatenate([self._used, self._before[self._before != FALLBACK]])
        self._before = NO_ROWS

    def _wipe(self, n_rows: int) -> None:
        """Free some of the rows that are of no more use: nothing is left of what they were."""
        some, self._used = self._used[:n_rows], self._used[n_rows:]
        self.weight[some], self._key[some] = 0.0, 0
        self._free = np.concatenate([self._free, some])

    def _clear_change(self) -> None:
        self._keys: list[U64] = []
        self._rows: list[I64] = []
        self._waiting: list[tuple[Part, I64]] = []
        self._gone = np.zeros(0, dtype=np.uint64)
        self._changed, self._before = self._gone, NO_ROWS
        self._is_kept = None
        self._fallback = self.weight[FALLBACK].copy()
        self._n_prepared = 0

    def _write(self, keys: U64, rows: I64, values: F32) -> None:
        """Write rows where nobody looks; their keys are in the index, leading where they led before."""
        at = self._take(len(keys))
        self.weight[at], self._key[at] = values, keys
        is_new = rows == FALLBACK
        self._index.put(keys[is_new], rows[is_new])
        self._keys.append(keys.copy())
        self._rows.append(at)
        self._n_prepared += len(keys)

    def _overwrite(self, keys: U64, values: F32) -> None:
        """Write rows over those that are there."""
        rows = self.lookup(keys)
        is_new = rows == FALLBACK
        rows[is_new] = self._take(int(np.count_nonzero(is_new)))
        self._index.put(keys[is_new], rows[is_new])
        self.weight[rows], self._key[rows] = values, keys

    def _take(self, n: int) -> I64:
        """Rows that are free."""
        if n > len(self._free):
            self._wipe(len(self._used))
        n_again = min(n, len(self._free))
        n_new = n - n_again
        if self._n_used + n_new > len(self.weight):
            raise RuntimeError(f"{self._n_used + n_new - 1} rows of a table of {self._max_rows}")
        split = len(self._free) - n_again
        self._free, again = self._free[:split], self._free[split:]
        new = np.arange(self._n_used, self._n_used + n_new)
        self._n_used += n_new
        return np.concatenate([again, new])

    def _not_kept(self) -> U64:
        """Keys of the rows that answer and are not among what is everything; what was prepared is put back later."""
        assert self._is_kept is not None
        is_live = np.zeros(self._n_used, dtype=bool)
        is_live[1:] = True
        is_live[self._free] = is_live[self._used] = False
        for rows in self._rows:
            is_live[rows] = False
        is_live[: len(self._is_kept)] &= ~self._is_kept
        return self._key[: self._n_used][is_live]


@compiled()
def exchange(slots: Any, old: Any, key_N: Any, row_N: Any) -> None:
    """Let present keys lead to these rows, one after the other; gets the rows that they led to."""
    for n in range(len(key_N)):
        if n + AHEAD < len(key_N):
            fetch_slot(slots, key_N[n + AHEAD])
        at = place_of(slots, key_N[n])
        if slots[at, 0] != 0:
            before = np.int64(slots[at, 1])
            slots[at, 1] = np.uint64(row_N[n])
        else:
            at = place_of(old, key_N[n])
            before = np.int64(old[at, 1])
            old[at, 1] = np.uint64(row_N[n])
        row_N[n] = before
