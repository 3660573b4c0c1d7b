"""A history folded at once is what the same events come to one by one, byte for byte."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.backfill.checking import check
from features.backfill.items import fold_items, merged
from features.backfill.people import Folded, fold_people, in_order
from features.backfill.pieces import Part
from tests.features.backfill.streams import SCHEMA, folded_rows, lived, packed, rows, rows_in, states_in, table_of
from tests.features.examples import KEYS

Rows = list[dict[str, Any]]


def folded(some: Rows) -> Folded:
    return fold_people(check(table_of(some), SCHEMA, KEYS).table, SCHEMA, KEYS)


def in_time_order(some: Rows) -> Rows:
    return sorted(some, key=lambda row: int(row["ts_ms"]))


def parts_of(table: pa.Table, size: int = 1000) -> list[Part]:
    """Rows as the parts of a piece."""
    batches = table.combine_chunks().to_batches(max_chunksize=size)
    return [Part(one["at_ms"][0].as_py(), one.num_rows, partial(_same, one)) for one in batches if one.num_rows]


def _same(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


def cut(shares: pa.Table, n_pieces: int, size: int, seed: int) -> list[Part]:
    """Shares as they would come from several shards of users, in batches."""
    piece_S = np.random.default_rng(seed).integers(n_pieces, size=shares.num_rows)
    return [part for n in range(n_pieces) for part in parts_of(shares.filter(pa.array(piece_S == n)), size)]


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
def test_rows_are_those_of_events_one_by_one(some: Rows, n_pieces: int, size: int, seed: int) -> None:
    table = fold_items(cut(folded(some).shares, n_pieces, size, seed), SCHEMA, size)
    assert packed(table) == folded_rows(in_time_order(some))


@given(st.lists(rows, min_size=1, max_size=40, unique_by=lambda row: row["ts_ms"]))
@settings(deadline=None)
async def test_rows_are_those_of_the_projector_where_no_two_events_are_of_one_instant(some: Rows) -> None:
    table = fold_items(parts_of(folded(some).shares), SCHEMA)
    assert packed(table) == await rows_in(await lived(in_time_order(some)))


@given(st.lists(rows, min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
@settings(deadline=None)
def test_merging_gives_every_share_once_and_in_order(some: Rows, n_pieces: int, size: int, seed: int) -> None:
    shares = folded(some).shares
    whole = pa.concat_tables(merged(cut(shares, n_pieces, size, seed), size))
    assert whole.num_rows == shares.num_rows
    by_all = [(name, "ascending") for name in ("at_ms", "row", "place")]
    assert whole.sort_by(by_all).equals(shares.sort_by(by_all))
    assert in_order(whole).equals(whole)


def test_merging_holds_few_rows_beyond_those_of_overlapping_parts() -> None:
    n_read = 0

    def part(first: int) -> Part:
        def read() -> pa.RecordBatch:
            nonlocal n_read
            n_read += 1000
            numbers = pa.array(np.arange(first, first + 1000))
            return pa.record_batch({"at_ms": numbers, "row": numbers})

        return Part(first, 1000, read)

    n_rows = n_held = 0
    for table in merged([part(first) for first in range(0, 100_000, 1000)] * 3, 5000):
        n_held = max(n_held, n_read - n_rows)
        n_rows += table.num_rows
    assert n_rows == 300_000
    assert n_held <= 5000 + 3000


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
