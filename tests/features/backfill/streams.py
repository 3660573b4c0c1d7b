"""Streams to fold at once, and the same lived through event by event."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from features.events import EVENT, Entry, StreamId, check_event, encode_body, event_from_row
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.schema import Counter, Schema, Voice
from features.state import apply_update, update_for
from features.store import all_of, event_record
from tests.features.examples import KEYS, T0_MS

SCHEMA = Schema(
    n_recent=4,
    n_successors=3,
    successor_span=2,
    successor_window_s=600.0,
    context=("device", "size"),
    attributes=(),
    voice=Voice(per_item=2, burst=3.0, per_hour=2.0, late_s=600.0, max_value=1e4),
    counters=(
        Counter(name="click", entity="user", types=("click",), half_lives_s=(60.0, 3600.0)),
        Counter(name="spent", entity="user", types=("cart", "purchase"), half_lives_s=(1800.0,), use_value=True),
        Counter(
            name="device",
            entity="user",
            types=("view", "click"),
            half_lives_s=(600.0, 9.0),
            split="device",
            n_buckets=5,
        ),
        Counter(name="views", entity="item", types=("view", "click"), half_lives_s=(600.0, 60.0)),
        Counter(name="spent", entity="item", types=("cart",), half_lives_s=(600.0,), use_value=True),
        Counter(name="size", entity="item", types=("view",), half_lives_s=(900.0,), split="size", n_buckets=3),
    ),
)
KINDS = {
    "ts_ms": pa.int64(),
    "type": pa.string(),
    "user": pa.string(),
    "item": pa.string(),
    "id": pa.string(),
    "value": pa.float64(),
    "device": pa.string(),
    "size": pa.int32(),
}

rows = st.fixed_dictionaries(
    {
        "ts_ms": st.one_of(st.integers(T0_MS, T0_MS + 50), st.integers(T0_MS, T0_MS + 3_600_000)),
        "type": st.sampled_from(SCHEMA.event_types),
        "user": st.sampled_from(["u1", "u2", "somebody else", "ü"]),
        "item": st.sampled_from(["a", "b", "c", "d", "an item with a name of more than 31 bytes", "i" * 256]),
        "id": st.none(),
        "value": st.one_of(st.none(), st.floats(0, 1e6)),
        "device": st.sampled_from([None, "phone", "desk"]),
        "size": st.sampled_from([None, 1, 2, 300]),
    }
)


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """A replay file's content."""
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in KINDS.items()})


async def lived(rows: Sequence[dict[str, Any]]) -> MemoryStore:
    """What one sender makes of these rows, in this order."""
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    for row in rows:
        event = check_event(event_from_row(row), SCHEMA, 0, any_time=True)
        all_of(await store.apply([event_record(event, SCHEMA, KEYS)]))
    return store


def folded_rows(rows: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """Item rows that these rows make, one after the other."""
    table, states = ItemTable(SCHEMA), dict[str, bytes]()
    for row in rows:
        event = check_event(event_from_row(row), SCHEMA, 0, any_time=True)
        before = states.get(event.user, b"")
        table.fold([Entry(StreamId(event.ts_ms, 0), 0, EVENT, encode_body(event), before)])
        states[event.user] = apply_update(before, update_for(event, SCHEMA), SCHEMA)
    return packed(table)


async def states_in(store: MemoryStore, users: Sequence[str]) -> dict[str, bytes]:
    """States of users."""
    states, _ = await store.read(users, [])
    return dict(zip(users, all_of(states), strict=True))


async def rows_in(store: MemoryStore) -> dict[str, bytes]:
    """Item rows that a projector would make of the log."""
    entries = sorted(await store.read_log({}, count=1 << 30))
    table = ItemTable(SCHEMA)
    table.fold(entries)
    return packed(table)


def packed(table: ItemTable) -> dict[str, bytes]:
    """All rows of a table."""
    return dict(zip(table.ids[1:], table.pack_all(range(1, len(table) + 1)), strict=True))
