"""The first pass: everything that people of a shard did, folded into their states; and what items take from it.

States are those of `features.state`, byte for byte, as if the events had come in one by one. What items take is a table
of *shares*, two kinds of rows: an event that has a voice (`features.voice`) counts for its item (`place` NONE), and
follows each of the items before it (`place` 0, 1, …; the row belongs to the item before).

Legend: E entries, U people, G counter groups, P predecessors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.backfill import kernels
from features.backfill.checking import splits
from features.kernels import UNCHANGED
from features.keys import Keys
from features.schema import FORMAT, Group, Schema, hash64
from features.state import HEADER, LISTS
from features.voice import Voices

I64 = NDArray[np.int64]
ORDER: Final = ("at_ms", "row")  # in which one sender would have sent events, or in which the log has them


@dataclass(frozen=True, slots=True)
class Folded:
    """What a shard of people comes to."""

    states: pa.Table
    """`user` string, `partition` int16, `state` binary."""
    shares: pa.Table
    """`item` string (whose row it belongs to), `place` int8, `key` uint64 (of the event's item), and of the event
    `at_ms` and `row` (their order), `ts_ms`, `type`, `value` and the buckets."""
    n_events: int
    duplicates: list[int]
    """Rows of events that came before, by user and id, and count for nothing."""


def fold_people(events: pa.Table, schema: Schema, keys: Keys) -> Folded:
    """Fold all events of some people.

    Args:
        events: As `checking.check` gives them, of any order: they count by `at_ms`, those of one instant by id and
            `row`. What is said of people, and their erasure, may be among them (`log_rows`).
    """
    events = events.combine_chunks()
    user = events["user"].combine_chunks().dictionary_encode()
    user_E = user.indices.to_numpy().astype(np.int64)
    order, duplicates = _in_order(events, user_E)
    twice = events["row"].to_numpy()[duplicates]
    events, user_E = events.take(pa.array(order)).combine_chunks(), user_E[order]
    start_U = np.append(np.flatnonzero(np.diff(user_E, prepend=-1)), len(user_E))
    items = events["item"].combine_chunks().dictionary_encode()
    groups = schema.user_groups
    entries = kernels.Entries(
        start_U,
        events["kind"].to_numpy(),
        events["ts_ms"].to_numpy(),
        events["type"].to_numpy(),
        events["value"].to_numpy(),
        items.indices.to_numpy().astype(np.int64),
        buckets_of(events, groups, schema),
    )
    ids = user.dictionary.take(pa.array(user_E[start_U[:-1]]))
    partition_U = np.array([keys.user_partition(name) for name in ids.to_pylist()], dtype=np.int16)
    packed, is_heard_E = _pack(entries, items.dictionary, events["context"].combine_chunks(), schema)
    states = pa.table({"user": ids, "partition": pa.array(partition_U), "state": packed})
    shares = _shares(events, entries, is_heard_E, items.dictionary, schema)
    n_events = int(np.count_nonzero(entries.kind == kernels.EVENT))
    return Folded(states, shares, n_events, sorted(twice.tolist()))


def buckets_of(events: pa.Table, groups: Sequence[Group], schema: Schema) -> NDArray[np.int16]:
    """Bucket [E, G] that each event adds to, as `ItemTable.changes` has them.

    `UNCHANGED` where a group does not count the type, `NO_BUCKET` where the event lacks the field.
    """
    places = {split: number for number, split in enumerate(splits(schema))}
    type_E = events["type"].to_numpy()
    found = np.empty((events.num_rows, len(groups)), dtype=np.int16)
    for g, group in enumerate(groups):
        counter = group.counter
        is_counted = np.array([name in counter.types for name in schema.event_types])[type_E]
        bucket_E: Any = 0
        if counter.split is not None:
            bucket_E = events[f"bucket.{places[counter.split, counter.n_buckets]}"].to_numpy()
        found[:, g] = np.where(is_counted, bucket_E, UNCHANGED)
    return found


def text_of(array: pa.Array) -> kernels.Text:
    """The bytes of strings, for compiled loops."""
    start = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    return kernels.Text(start, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8))


def _in_order(events: pa.Table, user_E: I64) -> tuple[I64, I64]:
    """Row numbers by person and order, and apart from them those of events that came before."""
    at_E, row_E = events["at_ms"].to_numpy(), events["row"].to_numpy()
    ids = events["id"].combine_chunks()
    if ids.null_count == len(ids):
        return np.lexsort((row_E, at_E, user_E)), np.zeros(0, dtype=np.int64)
    keyed = pa.table({"user": user_E, "at_ms": at_E, "id": ids, "row": row_E})
    order = pa.compute.sort_indices(keyed, [(name, "ascending") for name in keyed.column_names]).to_numpy()
    code_E = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)[order]
    has_id = ~np.isnan(code_E)
    pair = user_E[order] * len(ids) + np.nan_to_num(code_E).astype(np.int64)
    is_first = ~has_id
    at = np.flatnonzero(has_id)
    _, first = np.unique(pair[at], return_index=True)
    is_first[at[first]] = True
    return order[is_first], order[~is_first]


def _pack(
    entries: kernels.Entries, items: pa.Array, contexts: pa.Array, schema: Schema
) -> tuple[pa.Array, NDArray[np.bool_]]:
    """States of people, and which events have a voice."""
    n_people = len(entries.start) - 1
    words_UW = np.zeros((n_people, schema.user_block_bytes // 4), dtype=np.uint32)
    alive = np.empty(n_people, dtype=bool)
    state = kernels.State(alive, *(np.empty(n_people, dtype=np.int64) for _ in range(3)))
    is_heard_E, voices = np.zeros(len(entries.kind), dtype=bool), Voices(schema)
    pace = voices.pace, voices.late_ms
    kernels.add_up(entries, _groups(schema), np.float64(2.0), *pace, words_UW, state, is_heard_E)
    kernels.silence(entries, schema.n_recent, voices.per_item, is_heard_E)
    # What is said of a person stands where an event has its context.
    texts = text_of(items), text_of(contexts), text_of(contexts)
    fixed = HEADER.size + schema.user_block_bytes + LISTS.size
    size_U = np.empty(n_people, dtype=np.int64)
    kernels.sizes(entries, state, *texts, schema.n_recent, fixed, size_U)
    start_U = np.concatenate(([0], np.cumsum(size_U)))
    out = np.empty(int(start_U[-1]), dtype=np.uint8)
    header = np.frombuffer(HEADER.pack(FORMAT, schema.fingerprint), np.uint8)
    kernels.pack(entries, state, *texts, schema.n_recent, header, words_UW.view(np.uint8), start_U, out)
    buffers = [None, pa.py_buffer(start_U.astype(np.int32)), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.binary(), n_people, buffers), is_heard_E


def _groups(schema: Schema) -> kernels.UserGroups:
    groups = schema.user_groups
    half_lives = [group.half_lives_ms for group in groups]
    n_half_lives = np.array([len(ms) for ms in half_lives], dtype=np.int64)
    return kernels.UserGroups(
        np.array([group.offset // 4 for group in groups], dtype=np.int64),
        n_half_lives,
        np.array([group.counter.n_buckets for group in groups], dtype=np.int64),
        np.array([group.counter.use_value for group in groups], dtype=bool),
        np.cumsum(n_half_lives) - n_half_lives,
        np.array([ms for one in half_lives for ms in one], dtype=np.float64),
    )


def _shares(
    events: pa.Table, entries: kernels.Entries, is_heard_E: NDArray[np.bool_], items: pa.Array, schema: Schema
) -> pa.Table:
    n = events.num_rows
    before_EP = np.empty((n, schema.successor_span), dtype=np.int64)
    kernels.look_back(entries, schema.n_recent, schema.successor_window_s * 1000.0, before_EP)
    event_F, place_F = np.nonzero((before_EP != kernels.NONE) & is_heard_E[:, None])
    counted_C = np.flatnonzero(is_heard_E)
    event_S = np.concatenate((counted_C, event_F))
    item_S = np.concatenate((entries.item[counted_C], before_EP[event_F, place_F]))
    place_S = np.concatenate((np.full(len(counted_C), kernels.NONE), place_F)).astype(np.int8)
    key_I = np.array([hash64(item) for item in items.to_pylist()], dtype=np.uint64)
    of_event = events.select(
        [
            "at_ms",
            "row",
            "ts_ms",
            "type",
            "value",
            *(name for name in events.column_names if name.startswith("bucket.")),
        ]
    ).take(pa.array(event_S))
    shares = of_event.append_column("item", items.take(pa.array(item_S)))
    shares = shares.append_column("place", pa.array(place_S))
    shares = shares.append_column("key", pa.array(key_I[entries.item[event_S]]))
    return in_order(shares)


def in_order(table: pa.Table) -> pa.Table:
    """Rows as one sender would have sent them; equal ones as they were."""
    return table.take(pa.array(np.lexsort([table[name].to_numpy() for name in reversed(ORDER)])))
