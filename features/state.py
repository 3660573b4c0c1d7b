"""A user's state as packed bytes, and the update of it: the reference that the server-side function agrees with
bit for bit.

Layout, little endian:

    u8   format          u64  schema fingerprint
    counter block        per group: i64 ms, float32 values (see `schema.Group`)
    u16  n_recent        u32  bytes of the recent entries        u32  bytes of the context
    u16 x n_recent       length of each entry, newest first
    entries              msgpack [item, type number, ts_ms], newest first
    context              msgpack map of the declared context fields of the newest entry's event
    attributes           msgpack map, to the end; empty when there are none

Counters decay when read and when added to, in float64 by the C library's `pow`; what is stored is rounded to float32.
A group whose `ms` is 0 has never counted. Nothing here knows a store.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.compiling import compiled
from features.decoding import decoder
from features.errors import CorruptState, SchemaMismatch
from features.events import EVENT, USER, Entry, LoggedEvent, decode_attributes, encode_body, logged_event
from features.history import NOTHING, Arrays, History, Recent, checked, joined, read
from features.schema import FORMAT, Schema, bucket, duration

HEADER: Final = struct.Struct("<BQ")
LISTS: Final = struct.Struct("<HII")
N_LISTS: Final = LISTS.size
_encode = msgspec.msgpack.Encoder().encode
_decode_map = decoder(msgspec.msgpack, dict[str, Any])


@dataclass(frozen=True, slots=True)
class Add:
    """Add `amount` to one bucket of one group; the whole group decays to the later of the two instants."""

    offset: int
    half_lives_ms: tuple[float, ...]
    n_buckets: int
    bucket: int
    amount: float


@dataclass(frozen=True, slots=True)
class Update:
    """What one event does to its user's state: slots, not features, so that the server can apply it unaware."""

    ts_ms: int
    adds: tuple[Add, ...]
    recent: bytes
    """The packed entry to put in front of the recent items."""
    context: bytes
    """The packed context that takes the place of the one before."""


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's state, taken apart."""

    counters: bytes
    history: History
    attributes: dict[str, Any]
    context: dict[str, Any]
    """Of the event that made the newest of `history`; declared fields only."""

    @property
    def recent(self) -> list[Recent]:
        """The history taken apart, newest first."""
        return self.history.items()


@dataclass(frozen=True, slots=True)
class Parts:
    """Packed state, cut up."""

    counters: bytes
    lengths: bytes
    entries: bytes
    context: bytes
    attributes: bytes

    def join(self, schema: Schema) -> bytes:
        """Packed state again."""
        lists = LISTS.pack(len(self.lengths) // 2, len(self.entries), len(self.context))
        header = HEADER.pack(FORMAT, schema.fingerprint)
        return b"".join((header, self.counters, lists, self.lengths, self.entries, self.context, self.attributes))


def empty_state(schema: Schema) -> bytes:
    """The state of somebody nobody has seen."""
    return HEADER.pack(FORMAT, schema.fingerprint) + bytes(schema.user_block_bytes) + LISTS.pack(0, 0, 0)


def update_for(event: LoggedEvent, schema: Schema) -> Update:
    """Derive from the schema what an event changes."""
    adds = []
    for group in schema.user_groups:
        if event.type not in group.counter.types:
            continue
        chosen = bucket(group, event.context)
        if chosen is None:
            continue
        amount = event.value if group.counter.use_value else 1.0
        adds.append(Add(group.offset, group.half_lives_ms, group.counter.n_buckets, chosen, amount))
    recent = _encode((event.item, schema.type_index[event.type], event.ts_ms))
    context = {name: event.context[name] for name in schema.context if event.context.get(name) is not None}
    return Update(event.ts_ms, tuple(adds), recent, _encode(context) if context else b"")


def unpack(state: bytes, schema: Schema) -> UserState:
    """Take packed state apart; empty bytes are the state of a stranger.

    Raises:
        SchemaMismatch: If it was written under another schema.
        CorruptState: If the bytes do not parse.
    """
    if not state:
        return UserState(bytes(schema.user_block_bytes), NOTHING, {}, {})
    lists, lengths, entries, context, end = _cuts(state, schema)
    try:
        return UserState(
            state[HEADER.size : lists],
            checked((entries - lengths) // 2, state[entries:context], len(schema.event_types)),
            _decode_map(state[end:]) if end < len(state) else {},
            _decode_map(state[context:end]) if context < end else {},
        )
    except msgspec.DecodeError as error:
        raise CorruptState(f"user state: {error}") from None


def history_in(state: bytes, schema: Schema) -> History:
    """The history alone of what `unpack` takes apart."""
    if not state:
        return NOTHING
    _, lengths, entries, context, _ = _cuts(state, schema)
    return checked((entries - lengths) // 2, state[entries:context], len(schema.event_types))


def histories_in(states: Sequence[bytes], schema: Schema) -> tuple[Arrays, NDArray[np.bool_]]:
    """`history_in` of many states, as `history.arrays_of` gives them; and of which it would give one."""
    data, start_B = joined(states)
    first_B, end_B, n_B = (np.empty(len(states), dtype=np.int64) for _ in range(3))
    _find(
        data,
        start_B,
        schema.user_block_bytes,
        np.frombuffer(HEADER.pack(FORMAT, schema.fingerprint), np.uint8),
        first_B,
        end_B,
        n_B,
    )
    return read(data, first_B, end_B, n_B, schema.n_recent, len(schema.event_types))


@compiled()
def _find(data: Any, start_B: Any, n_block: int, header: Any, first_B: Any, end_B: Any, n_B: Any) -> None:
    """Where the recent entries of each state are, and how many; -1 where these bytes are no state under the schema."""
    for b in range(len(first_B)):
        start, end = start_B[b], start_B[b + 1]
        lists = start + len(header) + n_block
        first_B[b] = end_B[b] = start
        n_B[b] = 0 if start == end else -1
        if lists + N_LISTS > end:
            continue
        is_same = True
        for at in range(len(header)):
            is_same &= data[start + at] == header[at]
        n_recent, n_bytes, n_context = _number(data, lists, 2), _number(data, lists + 2, 4), _number(data, lists + 6, 4)
        first = lists + N_LISTS + 2 * n_recent
        if is_same and first + n_bytes + n_context <= end:
            first_B[b], end_B[b], n_B[b] = first, first + n_bytes, n_recent


@compiled()
def _number(data: Any, start: Any, n_bytes: int) -> Any:
    """An unsigned number, little endian."""
    found = np.int64(0)
    for at in range(n_bytes):
        found |= np.int64(data[start + at]) << (8 * at)
    return found


def split(state: bytes, schema: Schema) -> Parts:
    """Cut packed state up.

    Raises:
        SchemaMismatch: If it was written under another schema.
        CorruptState: If it is too short.
    """
    lists, lengths, entries, context, end = _cuts(state, schema)
    return Parts(
        state[HEADER.size : lists], state[lengths:entries], state[entries:context], state[context:end], state[end:]
    )


def _cuts(state: bytes, schema: Schema) -> tuple[int, int, int, int, int]:
    """Where the numbers of the lists, the lengths, the entries and the context begin, and the context ends."""
    lists = HEADER.size + schema.user_block_bytes
    if len(state) < lists + LISTS.size:
        raise CorruptState(f"user state: expected at least {lists + LISTS.size} bytes, got {len(state)}")
    version, fingerprint = HEADER.unpack_from(state)
    if version != FORMAT or fingerprint != schema.fingerprint:
        raise SchemaMismatch(
            f"user state: written as format {version} under schema {fingerprint:016x}, "
            f"expected {FORMAT} under {schema.fingerprint:016x}; migrate it or bring that schema back"
        )
    n_recent, n_bytes, n_context = LISTS.unpack_from(state, lists)
    lengths = lists + LISTS.size
    entries = lengths + 2 * n_recent
    context = entries + n_bytes
    end = context + n_context
    if len(state) < end:
        raise CorruptState(f"user state: expected at least {end} bytes, got {len(state)}")
    return lists, lengths, entries, context, end


def apply_update(state: bytes, update: Update, schema: Schema) -> bytes:
    """Fold one update into packed state; a pure function, equal to the server's bit for bit.

    Raises:
        SchemaMismatch, CorruptState: As `split`.
    """
    parts = split(state or empty_state(schema), schema)
    block, lengths, entries = bytearray(parts.counters), parts.lengths, parts.entries
    for add in update.adds:
        add_to_group(block, add, update.ts_ms)
    if len(lengths) // 2 >= schema.n_recent:
        (oldest,) = struct.unpack_from("<H", lengths, len(lengths) - 2)
        lengths, entries = lengths[:-2], entries[: len(entries) - oldest]
    lengths = struct.pack("<H", len(update.recent)) + lengths
    return Parts(bytes(block), lengths, update.recent + entries, update.context, parts.attributes).join(schema)


def with_attributes(state: bytes, attributes: bytes, schema: Schema) -> bytes:
    """Replace the attributes (a msgpack map) of packed state.

    Raises:
        SchemaMismatch, CorruptState: As `split`.
    """
    return replace(split(state or empty_state(schema), schema), attributes=attributes).join(schema)


def state_after(state: bytes, entry: Entry, schema: Schema) -> bytes:
    """What a user's packed state is after an entry of the log that changes it: an event, attributes, or the erasure.

    Raises:
        SchemaMismatch, CorruptState: As `split`, and `logged_event`.
        msgspec.DecodeError: If the entry can't be read.
    """
    if entry.kind == EVENT:
        return apply_update(state, update_for(logged_event(entry.body, schema), schema), schema)
    if entry.kind == USER:
        return with_attributes(state, encode_body(decode_attributes(entry.body).attributes), schema)
    return b""


def add_to_group(block: bytearray, add: Add, ts_ms: int) -> None:
    """Decay a group to the later of its instant and `ts_ms`, and add; a late event adds what is left of it."""
    n_half_lives = len(add.half_lives_ms)
    layout = _group_layout(add.n_buckets * n_half_lives)
    ms, *values = layout.unpack_from(block, add.offset)
    decays = [2.0 ** (-abs(ts_ms - ms) / half_life_ms) if ms else 1.0 for half_life_ms in add.half_lives_ms]
    is_late = ts_ms < ms
    if not is_late:
        values = [value * decay for value, decay in zip(values, cycle(decays), strict=False)]
    for index, decay in enumerate(decays, add.bucket * n_half_lives):
        values[index] += add.amount * decay if is_late else add.amount
    layout.pack_into(block, add.offset, max(ms, ts_ms), *values)


@cache
def _group_layout(n_values: int) -> struct.Struct:
    return struct.Struct(f"<q{n_values}f")


def describe(user: UserState, schema: Schema, now_ms: int) -> dict[str, Any]:
    """A state in words, for people: recent items, counters decayed to now, attributes."""
    counters: dict[str, float] = {}
    for group in schema.user_groups:
        (ms,) = struct.unpack_from("<q", user.counters, group.offset)
        values = struct.unpack_from(f"<{group.n_values}f", user.counters, group.offset + 8)
        half_lives_s = group.counter.half_lives_s
        for index, value in enumerate(values):
            half_life_s = half_lives_s[index % len(half_lives_s)]
            place = f"[{index // len(half_lives_s)}]" if group.counter.split else ""
            decay = 2.0 ** (min(0, ms - now_ms) / (1000.0 * half_life_s))
            counters[f"{group.counter.name}{place}.{duration(half_life_s)}"] = value * decay
    items = [{"item": item, "type": schema.event_types[kind], "ts_ms": ts_ms} for item, kind, ts_ms in user.recent]
    return {"recent": {"items": items}, "counters": counters, "attributes": user.attributes}
