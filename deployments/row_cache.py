"""Item rows a replica holds on to: an `ItemTable` with the age of every row.

Most rows that are read again have not changed; their bytes are recognised by a digest and not loaded twice. Items that
nobody knows are remembered too, so that they are not asked for again at once. Beyond `MAX_ITEMS` the cache starts
afresh: rows cost about 2.5 kB each.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

import xxhash

from features.item_table import ItemTable
from features.schema import Schema

MAX_ITEMS: Final = 200_000


class RowCache:
    """`stale` says which items to read, `load` takes what was read; candidates are gathered from `table`."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.reset()

    def __len__(self) -> int:
        return len(self.table)

    def reset(self) -> None:
        """Forget everything."""
        self.table = ItemTable(self._schema)
        self._read_s: dict[str, float] = {}
        self._digests: dict[str, int] = {}

    def make_room(self) -> None:
        """Start afresh if too much is held; only between two batches, for a batch gathers what it loaded."""
        if len(self) > MAX_ITEMS:
            self.reset()

    def stale(self, items: Iterable[str], age_s: float) -> list[str]:
        """Those of the items that were never read, or longer than `age_s` ago."""
        oldest_s = time.monotonic() - age_s
        read_s = self._read_s
        return [item for item in items if read_s.get(item, -1e9) <= oldest_s]

    def load(self, items: Sequence[str], packed: Sequence[bytes]) -> None:
        """Take rows as read just now.

        Raises:
            SchemaMismatch, CorruptState: As `ItemTable.load`.
        """
        changed: dict[str, bytes] = {}
        for item, data in zip(items, packed, strict=True):
            digest = xxhash.xxh3_64_intdigest(data)
            if self._digests.get(item) != digest:
                self._digests[item] = digest
                self.table.row(item)
                changed[item] = data
        self.table.load(list(changed), list(changed.values()))
        self._read_s.update(dict.fromkeys(items, time.monotonic()))
