"""The second pass: everything that the items of a shard take, folded into their rows in the log's one order.

Shares come from many pieces, each in order. They are merged a bounded number of rows at a time, so that an item which
everybody acts on takes no more memory than any other; in memory are the rows of the shard's items (2.5 kB each).

The fold is the compiled loop that the projector runs, so rows come out as the projector would have written them.

Legend: S shares, P predecessors.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from features import kernels
from features.backfill.kernels import NONE
from features.backfill.people import buckets_of, in_log_order
from features.item_table import UNKNOWN, ItemTable
from features.schema import Schema

ORDER = ("order_ms", "partition", "row")


def fold_items(pieces: Iterable[Iterator[pa.RecordBatch]], schema: Schema) -> ItemTable:
    """Fold shares of some items.

    Args:
        pieces: Of shares, each in order.
    """
    table = ItemTable(schema)
    for shares in merged(pieces):
        _fold(table, shares, schema)
    return table


def merged(pieces: Iterable[Iterator[pa.RecordBatch]]) -> Iterator[pa.Table]:
    """All rows in order, some at a time, holding a batch of each piece."""
    waiting = [_Piece(batches) for batches in pieces]
    while waiting := [piece for piece in waiting if piece.fill()]:
        # Up to the earliest of their ends every piece is in memory; beyond it others may lie in between.
        through = min(piece.last for piece in waiting)
        yield in_log_order(pa.Table.from_batches([piece.take(through) for piece in waiting]))


class _Piece:
    """What is in memory of a piece: the rest of a batch."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    @property
    def last(self) -> tuple[int, ...]:
        """Where in the order the last row stands; after `fill`."""
        assert self._rest is not None
        return tuple(self._rest[name][-1].as_py() for name in ORDER)

    def fill(self) -> bool:
        """Have rows in memory; False if there are no more."""
        while self._rest is None or not self._rest.num_rows:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return False
        return True

    def take(self, through: tuple[int, ...]) -> pa.RecordBatch:
        """The rows that do not come after this place in the order."""
        assert self._rest is not None
        first, end = 0, int(self._rest.num_rows)
        for name, wanted in zip(ORDER, through, strict=True):
            column = self._rest[name].to_numpy()[first:end]
            end = first + int(np.searchsorted(column, wanted, side="right"))
            first += int(np.searchsorted(column, wanted, side="left"))
        taken, self._rest = self._rest.slice(0, end), self._rest.slice(end)
        return taken


def _fold(table: ItemTable, shares: pa.Table, schema: Schema) -> None:
    items = shares["item"].combine_chunks().dictionary_encode()
    row_I = np.array([table.row(item) for item in items.dictionary.to_pylist()], dtype=np.int64)
    row_S = row_I[items.indices.to_numpy()]
    place_S = shares["place"].to_numpy().astype(np.int64)
    before_SP = np.full((len(row_S), schema.successor_span), UNKNOWN, dtype=np.int64)
    follows_S = place_S != NONE
    before_SP[follows_S, place_S[follows_S]] = row_S[follows_S]
    changes = kernels.Changes(
        np.where(follows_S, UNKNOWN, row_S),
        shares["key"].to_numpy(),
        shares["ts_ms"].to_numpy(),
        shares["value"].to_numpy(),
        buckets_of(shares, schema.item_groups, schema).astype(np.int64),
        before_SP,
    )
    kernels.fold_all(changes, table.columns, table.groups)
