"""A history folded at once is what the same events come to one by one, byte for byte."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.backfill.checking import check
from features.backfill.items import fold_items, merged
from features.backfill.people import Folded, fold_people, in_log_order
from tests.features.backfill.streams import SCHEMA, lived, packed, rows, rows_in, states_in, table_of
from tests.features.examples import KEYS

Rows = list[dict[str, Any]]


def folded(some: Rows) -> Folded:
    return fold_people(check(table_of(some), SCHEMA, KEYS).table, SCHEMA, KEYS)


def in_time_order(some: Rows) -> Rows:
    return sorted(some, key=lambda row: int(row["ts_ms"]))


def cut(shares: pa.Table, n_pieces: int, size: int, seed: int) -> list[Iterator[pa.RecordBatch]]:
    """Shares as they would come from several shards of users, in batches."""
    piece_S = np.random.default_rng(seed).integers(n_pieces, size=shares.num_rows)
    return [
        iter(shares.filter(pa.array(piece_S == piece)).combine_chunks().to_batches(max_chunksize=size))
        for piece in range(n_pieces)
    ]


@given(st.lists(rows, min_size=1, max_size=40))
@settings(deadline=None)
async def test_states_are_those_of_events_one_by_one(some: Rows) -> None:
    found = folded(some).states
    store = await lived(in_time_order(some))
    users = found["user"].to_pylist()
    assert dict(zip(users, found["state"].to_pylist(), strict=True)) == await states_in(store, users)
    assert set(users) == {row["user"] for row in some}
    assert found["partition"].to_pylist() == [KEYS.user_partition(user) for user in users]


@given(st.lists(rows, min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 7), st.integers(0, 99))
@settings(deadline=None)
async def test_rows_are_those_of_the_projector(some: Rows, n_pieces: int, size: int, seed: int) -> None:
    table = fold_items(cut(folded(some).shares, n_pieces, size, seed), SCHEMA)
    assert packed(table) == await rows_in(await lived(in_time_order(some)))


@given(st.lists(rows, min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
@settings(deadline=None)
def test_merging_gives_every_share_once_and_in_order(some: Rows, n_pieces: int, size: int, seed: int) -> None:
    shares = folded(some).shares
    whole = pa.concat_tables(merged(cut(shares, n_pieces, size, seed)))
    assert whole.num_rows == shares.num_rows
    by_all = [(name, "ascending") for name in ("order_ms", "partition", "row", "place")]
    assert whole.sort_by(by_all).equals(shares.sort_by(by_all))
    assert in_log_order(whole).equals(whole)


def test_merging_holds_a_batch_of_each_piece() -> None:
    n_open = 0

    def piece(start: int) -> Iterator[pa.RecordBatch]:
        nonlocal n_open
        for first in range(start, 100_000, 1000):
            n_open += 1
            numbers = pa.array(np.arange(first, first + 1000))
            yield pa.record_batch({"order_ms": numbers, "partition": numbers, "row": numbers})

    n_rows = n_given = 0
    for table in merged([piece(0), piece(0), piece(0)]):
        n_rows += table.num_rows
        n_given = max(n_given, n_open * 1000 - (n_rows - table.num_rows))
    assert n_rows == 300_000
    assert n_given <= 6000


@given(st.lists(rows, min_size=1, max_size=20), st.data())
@settings(deadline=None)
async def test_an_id_counts_once_for_a_user(some: Rows, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from([None, "e1", "e2", "e3"]), min_size=len(some), max_size=len(some)))
    with_ids = [{**row, "id": id} for row, id in zip(some, ids, strict=True)]
    ordered = sorted(with_ids, key=lambda row: (row["ts_ms"], row["id"] is None, row["id"]))
    seen: set[tuple[str, str]] = set()
    first = []
    for row in ordered:
        if row["id"] is None or (row["user"], row["id"]) not in seen:
            first.append(row)
        seen.add((row["user"], row["id"]))
    found = folded(with_ids)
    assert (found.n_events, len(found.duplicates)) == (len(first), len(some) - len(first))
    users = found.states["user"].to_pylist()
    store = await lived([{**row, "id": None} for row in first])
    assert dict(zip(users, found.states["state"].to_pylist(), strict=True)) == await states_in(store, users)


def test_of_two_events_with_one_id_the_later_is_named() -> None:
    row = {
        "ts_ms": 5,
        "type": "click",
        "user": "u",
        "item": "a",
        "id": "e",
        "value": None,
        "device": None,
        "size": None,
    }
    assert folded([{**row, "ts_ms": 9}, row, {**row, "user": "v"}]).duplicates == [0]
