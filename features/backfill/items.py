"""The second pass: everything that the items of a shard take, folded into their rows in order.

Shares come from many pieces, each in order. They are merged some rows at a time, so that an item which everybody acts
on takes no more memory than any other; in memory are the rows of the shard's items (2.5 kB each).

The fold is the compiled loop that the projector runs, so rows come out as the projector would have written them; but
for events of one millisecond, which stand in the log in the order of their partitions too.

Legend: S shares, P predecessors.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final

import numpy as np
import pyarrow as pa

from features import kernels
from features.backfill.kernels import NONE
from features.backfill.people import buckets_of, in_order
from features.backfill.pieces import TIME, Part
from features.item_table import UNKNOWN, ItemTable
from features.schema import Schema

ROWS: Final = 100_000  # so many are sorted and folded in a tenth of a second


def fold_items(parts: Iterable[Part], schema: Schema, n_rows: int = ROWS) -> ItemTable:
    """Fold shares of some items.

    Args:
        parts: Of shares, each in order.
        n_rows: As `merged`.
    """
    table = ItemTable(schema)
    for shares in merged(parts, n_rows):
        _fold(table, shares, schema)
    return table


def merged(parts: Iterable[Part], n_rows: int = ROWS) -> Iterator[pa.Table]:
    """All rows in order, some at a time.

    Args:
        parts: Each in order.
        n_rows: In memory, and those of all parts that overlap in time.
    """
    waiting: list[pa.RecordBatch | pa.Table] = []
    n_waiting = 0
    for part in sorted(parts, key=attrgetter("first_ms")):
        if n_waiting >= n_rows:
            # No part that is still to be read has anything before this instant.
            ready, rest = _cut(waiting, part.first_ms)
            waiting, n_waiting = [rest], rest.num_rows
            if ready.num_rows:
                yield in_order(ready)
        waiting.append(part.read())
        n_waiting += part.n_rows
    if n_waiting:
        yield in_order(_cut(waiting, None)[0])


def _cut(waiting: Sequence[pa.RecordBatch | pa.Table], ms: int | None) -> tuple[pa.Table, pa.Table]:
    """The rows from before an instant (None: all), and the others."""
    whole = pa.concat_tables([pa.table(one) if isinstance(one, pa.RecordBatch) else one for one in waiting])
    is_before = np.ones(whole.num_rows, dtype=bool) if ms is None else whole[TIME].to_numpy() < ms
    return whole.filter(pa.array(is_before)), whole.filter(pa.array(~is_before))


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
        np.minimum(shares["value"].to_numpy(), schema.voice.max_value),
        buckets_of(shares, schema.item_groups, schema).astype(np.int64),
        before_SP,
    )
    kernels.fold_all(changes, table.columns, table.groups)
