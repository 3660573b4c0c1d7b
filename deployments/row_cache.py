"""Item rows a replica holds on to: an `ItemTable` that knows of every row how fresh it is.

The store tells which rows are written (`began`, `changed`, `heard`); a row that has been read and not written since is
not read again. As long as nothing is heard a row is read again when it has reached the age asked for, as it is in any
case when it was read before the listening began. So a row is never older than that age, whether the store talks or not.

Rows that are read again and have not changed are recognised by a digest and not loaded twice. Items that nobody knows
have a row of zeros here. Beyond `MAX_ITEMS` the cache starts afresh: rows cost about 2.5 kB each.

Instants are `time.monotonic` seconds. It knows neither requests nor the store.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from features.item_table import ItemTable
from features.schema import Schema

MAX_ITEMS: Final = 200_000
NEVER_S: Final = -np.inf


class RowCache:
    """`is_stale` says which rows to read; `asking` before the read, `load` what came; look at `table`."""

    def __init__(self, schema: Schema, now_s: Callable[[], float] = time.monotonic) -> None:
        self._schema = schema
        self._now_s = now_s
        self._began_s, self._heard_s = np.inf, NEVER_S
        self.reset()

    def __len__(self) -> int:
        return len(self.table)

    def reset(self) -> None:
        """Forget every row."""
        self.table = ItemTable(self._schema)
        self._read_s = np.full(len(self.table.fixed), NEVER_S)
        self._digests = np.zeros(len(self._read_s), dtype=np.uint64)
        self._asked_s = NEVER_S
        self._changed: set[str] | None = None

    def make_room(self) -> None:
        """Start afresh if too much is held; only between two batches, for a batch looks at what it loaded."""
        if len(self) > MAX_ITEMS:
            self.reset()

    def is_stale(self, rows: NDArray[np.int64], age_s: float) -> NDArray[np.bool_]:
        """Which rows may be older than `age_s`; rows of no item always are."""
        oldest_s = self._now_s() - age_s
        is_told = self._heard_s >= oldest_s
        stale: NDArray[np.bool_] = self._read_s[rows] <= (min(oldest_s, self._began_s) if is_told else oldest_s)
        return stale

    def asking(self) -> None:
        """Note that rows are about to be read: what is written meanwhile may be missing in the reply."""
        self._asked_s, self._changed = self._now_s(), set()

    def load(self, items: Sequence[str], packed: Sequence[bytes]) -> None:
        """Take rows as they were read since `asking`.

        Raises:
            SchemaMismatch, CorruptState: As `ItemTable.load`.
        """
        rows = np.array([self.table.row(item) for item in items], dtype=np.int64)
        self._fit()
        digests = np.array([xxhash.xxh3_64_intdigest(data) for data in packed], dtype=np.uint64)
        changed = np.flatnonzero(self._digests[rows] != digests).tolist()
        self.table.load([items[n] for n in changed], [packed[n] for n in changed])
        self._digests[rows] = digests
        self._read_s[rows] = self._asked_s
        if self._changed:
            self._read_s[self.table.find(self._changed)] = NEVER_S
        self._changed = None

    def began(self) -> None:
        """From now on changes are told."""
        self._began_s, self._heard_s = self._now_s(), NEVER_S

    def changed(self, items: Sequence[str]) -> None:
        """These rows were written."""
        self._read_s[self.table.find(items)] = NEVER_S
        if self._changed is not None:
            self._changed.update(items)

    def heard(self, until_s: float) -> None:
        """Every row written before this instant has been told."""
        self._heard_s = until_s

    def _fit(self) -> None:
        n_more = len(self.table.fixed) - len(self._read_s)
        if n_more > 0:
            self._read_s = np.concatenate([self._read_s, np.full(n_more, NEVER_S)])
            self._digests = np.concatenate([self._digests, np.zeros(n_more, dtype=np.uint64)])
