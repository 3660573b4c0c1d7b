"""Embedding tables without collisions that live for ever: they grow with the stream, and forget what nobody meets.

A table maps 64-bit keys to rows. Row 0 is the *fallback*: it stands for every key that has no row, and is trained
whenever such a key is. A new row starts as a copy of it plus a little noise that is a function of the key alone; so a
score hardly changes at the moment its item becomes known, and rows do not depend on the order in which keys arrive.

A key gets a row at its n-th meeting (`TableConfig`). A row not met for long is freed by a hand that goes round the
table, a bounded number of rows a step; when all rows are taken, the least useful of a few under the hand makes room. A
key that no row is free for stays on the fallback. All of it follows from the keys and the time of the log.

Where it is told who meets a key (`knows_people`), a row also says who *owns* it: the one person who has ever met its
key, or everybody, once a second one has. What one person owns goes with that person (`erase`).

Rows are trained by row-wise Adagrad: one accumulator a row, the mean square of its gradients.

Memory for `max_rows` is reserved at once and taken from the machine by the page as rows are used; so no row ever moves.
The price of a row is 4 D + 24 bytes, 4 more once it is touched, 8 where there are owners, and 32 to 64 in the index
that finds it.

The table knows neither what keys mean nor where gradients come from.

Legend: N rows, D embedding, C counters.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.index import I64, LINE, U64, KeyIndex
from learners import upkeep
from learners.owners import is_one_of

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]

FALLBACK: Final = 0
SLICE: Final = 2048  # rows loaded at once: what that takes beside them stays in the caches
N_COUNTERS: Final = 1 << 20  # of admission: a megabyte; halved when there is one meeting for every two
META: Final = np.dtype([("key", "u8"), ("accumulator", "f4"), ("uses", "f4"), ("met_s", "u4"), ("flags", "u4")])
"""Of a row, side by side: a step that meets a row reads one line of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Who has a row, and for how long."""

    max_rows: int = 10_000_000
    """Rows of a table, the fallback among them; 2.4 GB with embeddings of 32 and the index, once all are used."""
    expire_s: float = 90 * 86_400.0
    """Log time after which a row that was not met is freed."""
    admit_after: int = 1
    """Meetings after which a key has a row."""

    def __post_init__(self) -> None:
        for name, low, high in (("max_rows", 2, 2**31), ("expire_s", 1.0, 1e10), ("admit_after", 1, 255)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"table.{name}: expected {low} to {high}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of a table goes on beside its rows: the hand, the free rows, and meetings of keys without a row."""

    hand: int
    n_free: int
    free: int
    """The first free row; each names the next one. 0 for none."""
    n_counted: int
    places: U32
    """Of the counters that follow; none if these are all."""
    counts: U8


class EmbeddingTable:
    """`meet` keys and train rows with `adagrad` in every step; `take_touched` for what has changed.

    Args:
        n_expected: Keys that there is room for in the index from the start.
        knows_people: Whether rows have owners.
    """

    def __init__(
        self,
        n_embedding: int,
        config: TableConfig | None = None,
        n_expected: int = 512,
        *,
        knows_people: bool = False,
    ) -> None:
        self.n_embedding = n_embedding
        self.config = config or TableConfig()
        self.knows_people = knows_people
        self.clear(n_expected)

    def __len__(self) -> int:
        """Number of rows that were ever used, the fallback and free ones among them."""
        return int(self._state[upkeep.N_ROWS])

    @property
    def n_live(self) -> int:
        """Number of rows with a key, and the fallback."""
        return len(self) - int(self._state[upkeep.N_FREE])

    @property
    def arrays(self) -> tuple[U64, U64, F32]:
        """The table as `learners.kernels` take it, by the same memory; the index may be another after a step."""
        return self._index.slots, self._index.old, self.weight

    def clear(self, n_expected: int = 512, max_rows: int | None = None) -> None:
        """Forget every key; what is left is the fallback row."""
        self.max_rows = max_rows or self.config.max_rows
        self._index = KeyIndex(n_expected)
        self.weight = lined_up(self.max_rows, self.n_embedding)
        meta = np.zeros(self.max_rows, dtype=META)
        self.key, self.accumulator, self.uses = meta["key"], meta["accumulator"], meta["uses"]
        self.met_s, self._flags = meta["met_s"], meta["flags"]
        self._touched = np.zeros(self.max_rows, dtype=np.uint32)
        self.owner = np.zeros(self.max_rows if self.knows_people else 0, dtype=np.uint64)
        """[N] the person who alone has met a row's key, or see `learners.owners`; empty where nobody says."""
        self._rows = (
            *(self.weight, self.key, self.accumulator, self.uses, self.met_s, self._flags),
            *(self._touched, self.owner),
        )
        self._state = np.zeros(6, dtype=np.int64)
        self._state[[upkeep.N_ROWS, upkeep.HAND]] = 1
        self._counts = np.zeros(N_COUNTERS if self.config.admit_after > 1 else 0, dtype=np.uint8)
        self._counted: list[I64] | None = []
        self.weight[FALLBACK] = noise(self.key[:1], self.n_embedding)[0]

    def lookup(self, keys: U64) -> I64:
        """Rows of keys, in their shape; `FALLBACK` for absent (0) and unknown ones."""
        return self._index.get(keys)

    def meet(self, keys: U64, now_s: int, people: U64 | None = None) -> None:
        """Take in the meetings of one step: rows for keys that earned one, and a turn of the hand.

        Args:
            now_s: Log time; never less than before.
            people: Who met each key, if the table knows people.
        """
        self._index.reserve(keys.size)
        index = self._index.slots, self._index.old, self._index.state
        limits = self.max_rows, self.config.expire_s, self.config.admit_after
        counted = np.empty(keys.size, dtype=np.int64)
        n_counted = upkeep.meet(index, self._rows, self._state, self._counts, counted, limits, keys.ravel(), now_s)
        if n_counted < 0:
            self._counted = None
        elif n_counted and self._counted is not None:
            self._counted.append(counted[:n_counted])
        if self.knows_people and people is not None:
            upkeep.own(index, self._rows, keys.ravel(), people)

    def erase(self, people: U64) -> None:
        """Free the rows that one of these people owns; it looks at every row."""
        rows = np.flatnonzero(is_one_of(self.owner[: len(self)], people))
        upkeep.free((self._index.slots, self._index.old, self._index.state), self._rows, self._state, rows)

    def adagrad(self, rows_N: I64, gradient_ND: F32, rate: float) -> None:
        """One step of row-wise Adagrad; each row at most once.

        a_n += mean_d g_nd^2;  w_nd -= rate g_nd / sqrt(a_n)
        Source: Duchi et al., JMLR 2011; one accumulator a row as in Naumov et al., 2019 (DLRM).
        """
        upkeep.adagrad(self._rows, self._state, rows_N, gradient_ND, np.float32(rate))

    def add(self, rows_N: I64, change_ND: F32, squares_N: F32) -> None:
        """Add what somebody else's steps did to rows and accumulators; each row at most once."""
        upkeep.add(self._rows, self._state, rows_N, change_ND, squares_N)

    def take_touched(self) -> I64:
        """Rows that are new, were met, trained or freed since the last take, ascending."""
        rows = np.sort(self._touched[: self._state[upkeep.N_TOUCHED]]).astype(np.int64)
        self._flags[rows] &= ~upkeep.TOUCHED
        self._state[upkeep.N_TOUCHED] = 0
        return rows

    def keeping(self) -> Keeping:
        """What goes on beside the rows, all of it."""
        return self._keeping(np.zeros(0, dtype=np.uint32), self._counts.copy())

    def take_keeping(self) -> Keeping:
        """The same, but of the counters only those that changed since the last take."""
        counted, self._counted = self._counted, []
        if counted is None or not len(self._counts):
            return self.keeping()
        places = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *counted]))
        return self._keeping(places.astype(np.uint32), self._counts[places])

    def load(self, rows_N: NDArray[np.integer], keys_N: U64, values_ND: F32) -> None:
        """Put rows in their places; they do not count as touched.

        What a row held before is forgotten; a row without a key is free.

        Args:
            rows_N: Ascending, without gaps: every row beyond the table's end is preceded by all rows in between.
        """
        for start in range(0, len(rows_N), SLICE):
            part = slice(start, start + SLICE)
            rows, keys = rows_N[part].astype(np.int64), keys_N[part]
            before = self.key[rows]
            # A key may have gone from one row to another in the same delta; only where it still is, is it forgotten.
            is_gone = (before != keys) & (self.lookup(before) == rows)
            self._index.drop(before[is_gone])
            self._index.put(keys, rows)
            self._state[upkeep.N_ROWS] = max(len(self), int(rows[-1]) + 1)
            self.key[rows], self.weight[rows] = keys, values_ND[part]

    def resume(
        self, accumulators_N: F32, uses_N: F32, met_s_N: U32, kept: Keeping, owners_N: U64 | None = None
    ) -> None:
        """After `load` of all rows: go on as the table that they and this are from."""
        n = len(self)
        if self.knows_people and owners_N is not None:
            self.owner[:n] = owners_N
        self.accumulator[:n], self.uses[:n], self.met_s[:n] = accumulators_N, uses_N, met_s_N
        self._state[[upkeep.HAND, upkeep.N_FREE, upkeep.FREE]] = kept.hand, kept.n_free, kept.free
        if len(kept.counts) == len(self._counts):
            self._counts[:], self._state[upkeep.N_COUNTED] = kept.counts, kept.n_counted
        self.take_touched()

    def _keeping(self, places: U32, counts: U8) -> Keeping:
        hand, n_free, free, n_counted = (
            int(self._state[name]) for name in (upkeep.HAND, upkeep.N_FREE, upkeep.FREE, upkeep.N_COUNTED)
        )
        return Keeping(hand, n_free, free, n_counted, places, counts)


def lined_up(n_rows: int, n_embedding: int) -> F32:
    """Zeros [N, D] that begin with a line of memory: a row of 32 then fills two lines, and not parts of three."""
    memory = np.zeros(4 * n_rows * n_embedding + LINE, dtype=np.uint8)
    start = -memory.ctypes.data % LINE
    values: F32 = memory[start : start + 4 * n_rows * n_embedding].view(np.float32).reshape(n_rows, n_embedding)
    return values


def noise(keys_N: U64, n_embedding: int) -> F32:
    """Uniform values [N, D] in ±`upkeep.NOISE` that depend on the key and the place only."""
    values: F32 = np.array([[upkeep.noise_of(key, d) for d in range(n_embedding)] for key in keys_N], dtype=np.float32)
    return values
