"""Item rows in columns: the fold of the log over items, and the shape in which they are kept, shipped and gathered.

The projector folds the log into a table and ships touched rows as bytes; a serving replica loads those bytes into its
own table as a cache; a learner folds for itself. So there is one definition of what an event does to an item, and one
place where candidates' counters are gathered from.

An event that has a voice (`features.voice`) on item x by a user whose latest items were p1, p2, … adds to x's counters,
and to the *successors* of each pk (x with weight 1/k). A full successor set gives up the one that followed least
lately. Row 0 is the item nobody has heard of: all zeros.

The table knows neither the store nor partitions. Price: fixed-width columns, about 2.5 kB an item by default, most of
it successors; packed rows drop the unused ones.

Legend: N rows, G counter groups, V counter values, S successors, H successor half-lives, A attribute keys, M numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features import history, kernels
from features.decoding import decoder
from features.errors import CorruptState, SchemaMismatch
from features.events import EVENT, ITEM, Entry, LoggedEvent, decode_attributes, logged_event
from features.history import History, Recent
from features.index import KeyIndex
from features.schema import FORMAT, Attribute, Schema, bucket_of, duration, hash64
from features.state import HEADER, history_in
from features.voice import Voices

UNKNOWN: Final = kernels.UNKNOWN
SLICE: Final = 512  # rows packed at once
_decode_map = decoder(msgspec.msgpack, dict[str, Any])


class Past(NamedTuple):
    """What was known of people at their instants."""

    seen: history.Arrays  # [B, W]
    before: NDArray[np.int64]  # [B, P] rows of the items whose successors a request looks at


class ItemTable:
    """Counters, attributes and successors of items.

    `fold` log entries, or `load` packed rows; `find` rows by id; read the columns (`ms`, `value`, `successor_key`, …)
    by row number; `take_touched` for what has changed.
    """

    def __init__(self, schema: Schema, capacity: int = 1024) -> None:
        self.schema = schema
        self.voices = Voices(schema)
        self.rows: dict[str, int] = {"": UNKNOWN}
        self.ids: list[str] = [""]
        self._index = KeyIndex(capacity)
        self.attributes: dict[int, dict[str, Any]] = {}
        self._layout(schema)
        self._is_touched = np.zeros(0, dtype=bool)
        self.fixed = np.zeros(0, self._fixed_type)
        self.successors = np.zeros((0, schema.n_successors), self._successor_type)
        self._allocate(max(capacity, 2))

    def __len__(self) -> int:
        return len(self.ids) - 1

    def find(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Row numbers; `UNKNOWN` for items without one."""
        return np.fromiter(map(self.rows.get, ids, repeat(UNKNOWN)), np.int64)

    def row(self, item: str) -> int:
        """The row of an item, made if there is none."""
        found = self.rows.get(item)
        if found is not None:
            return found
        row = len(self.ids)
        if row == len(self.fixed):
            self._allocate(2 * row)
        self.rows[item] = row
        self.ids.append(item)
        key = hash64(item)
        self.key[row] = key
        self._index.put(self.key[row : row + 1], np.array([row]))
        return row

    def rows_of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row numbers by key, in the shape of the keys; `UNKNOWN` for absent ones and items without a row."""
        return self._index.get(keys)

    def fold(self, entries: Iterable[Entry]) -> None:
        """Fold log entries, in order; those that say nothing about items, or have no voice, change nothing."""
        events: list[tuple[LoggedEvent, History]] = []
        for entry in entries:
            if entry.kind == EVENT:
                event, recent = logged_event(entry.body, self.schema), history_in(entry.state, self.schema)
                if self.voices.has_voice(event, entry.state):
                    events.append((event, recent))
            elif entry.kind == ITEM:
                self.fold_events(events)
                events = []
                body = decode_attributes(entry.body)
                self.set_attributes(body.entity, body.attributes)
        self.fold_events(events)

    def fold_events(
        self,
        events: Sequence[tuple[LoggedEvent, History]],
        *,
        takes: Callable[[str], bool] | None = None,
    ) -> None:
        """Fold events that have a voice, in order.

        Args:
            events: Each with the user's history from just before it.
            takes: Which items' rows still lack these events; None: all of them.
        """
        if not events:
            return
        histories = [recent for _, recent in events]
        seen = history.arrays_of(histories, self.schema.n_recent)
        changes = self.changes([event for event, _ in events], seen, lambda e: histories[e].items(), takes)
        kernels.fold_all(changes, self.columns, self.groups)
        self.note_touched(changes)

    def changes(
        self,
        events: Sequence[LoggedEvent],
        seen: history.Arrays,
        items_of: Callable[[int], Sequence[Recent]],
        takes: Callable[[str], bool] | None = None,
    ) -> kernels.Changes:
        """What events will do to the rows, as arrays; makes the rows they need, and changes none.

        Args:
            seen: The users' histories from just before them.
            items_of: One of these, taken apart.
            takes: As `fold_events`.
        """
        row_E = np.array([self.row(event.item) for event in events], dtype=np.int64)
        key_E = self.key[row_E]
        ms_E = np.array([event.ts_ms for event in events], dtype=np.int64)
        before_EP = self._made(self.keys_before(seen, ms_E, key_E), items_of, takes)
        if takes is not None:
            row_E = np.where([takes(event.item) for event in events], row_E, UNKNOWN)
        return kernels.Changes(
            row_E,
            key_E,
            ms_E,
            np.minimum([event.value for event in events], self.schema.voice.max_value),
            self._buckets(events),
            before_EP,
        )

    def past(self, seen: history.Arrays, ms_B: NDArray[np.int64]) -> Past:
        """What was known of people with these histories at their instants."""
        return Past(seen, self.rows_of(self.keys_before(seen, ms_B)))

    def keys_before(
        self, seen: history.Arrays, ms_B: NDArray[np.int64], own_B: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        """Keys [B, P] of the items that count as coming before an item of each history; 0 where there are fewer.

        Args:
            ms_B: The instants.
            own_B: Keys of the items; None: of whatever will come.
        """
        found = np.zeros((len(ms_B), self.schema.successor_span), dtype=np.uint64)
        own_B = np.zeros(len(ms_B), dtype=np.uint64) if own_B is None else own_B
        history.before(ms_B, own_B, seen.key, seen.ms, self.schema.successor_window_s * 1000.0, found)
        return found

    def note_touched(self, changes: kernels.Changes) -> None:
        """Note which rows these events have changed."""
        self._is_touched[changes.row] = self._is_touched[changes.before] = True

    def take_touched(self) -> NDArray[np.int64]:
        """Rows that have changed since the last take, other than by `load`; ascending."""
        self._is_touched[UNKNOWN] = False
        rows = np.flatnonzero(self._is_touched[: len(self.ids)])
        self._is_touched[rows] = False
        return rows

    def predecessors(self, seen: History, ts_ms: int, item: str | None = None) -> list[str]:
        """The distinct items, newest first, that count as coming before `item` at an instant."""
        oldest_ms = ts_ms - self.schema.successor_window_s * 1000.0
        ids = dict.fromkeys(other for other, _, ms in seen.items() if ms >= oldest_ms and other != item)
        return list(ids)[: self.schema.successor_span]

    def set_attributes(self, item: str, attributes: dict[str, Any]) -> None:
        """Replace an item's attributes; those the schema does not declare are kept for display only."""
        row = self.row(item)
        self.attributes[row] = attributes
        keys, numbers = attribute_inputs(self.schema.item_attributes, attributes)
        self.attribute_key[row] = keys
        self.number[row] = numbers
        self._is_touched[row] = True

    def pack(self, row: int) -> bytes:
        """One row as bytes."""
        (packed,) = self.pack_all([row])
        return packed

    def pack_all(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Rows as bytes."""
        header = HEADER.pack(FORMAT, self.schema.fingerprint)
        n_fixed, n_each = self.fixed.itemsize, self._successor_type.itemsize
        for start in range(0, len(rows), SLICE):
            part = rows[start : start + SLICE]
            is_used_NS = self.successor_key[part] != 0
            fixed, used = plain(self.fixed)[part].tobytes(), plain(self.successors)[part][is_used_NS].tobytes()
            at = 0
            for n, (row, n_used) in enumerate(zip(part, is_used_NS.sum(axis=1).tolist(), strict=True)):
                attributes = self.attributes.get(row)
                end = at + n_used * n_each
                yield b"".join(
                    (
                        header,
                        fixed[n * n_fixed : (n + 1) * n_fixed],
                        n_used.to_bytes(2, "little"),
                        used[at:end],
                        msgspec.msgpack.encode(attributes) if attributes else b"",
                    )
                )
                at = end

    def load(self, items: Sequence[str], packed: Sequence[bytes]) -> NDArray[np.int64]:
        """Load packed rows, replacing what was there; empty bytes leave the item as it is.

        Returns:
            Row number of each item; `UNKNOWN` for one that was neither packed nor known.
        Raises:
            SchemaMismatch: If a row was written under another schema.
            CorruptState: If a row is cut short, or its attributes do not parse.
        """
        present = [(self.row(item), data) for item, data in zip(items, packed, strict=True) if data]
        if present:
            head, size = HEADER.size, self.fixed.itemsize
            for _, data in present:
                self._check(data)
            block = b"".join(data[head : head + size] for _, data in present)
            self.fixed[[row for row, _ in present]] = np.frombuffer(block, self.fixed.dtype)
            for row, data in present:
                self._load_variable(row, data, head + size)
        return self.find(items)

    def describe(self, row: int, now_ms: int) -> dict[str, Any]:
        """A row in words, for people: decayed counters, attributes, when it was first and last seen."""
        counters: dict[str, float] = {}
        for group in self.schema.item_groups:
            if group.counter.split is None:
                for index, half_life_s in enumerate(group.counter.half_lives_s):
                    value = float(self.value[row, group.start + index])
                    decay = 2.0 ** (min(0, int(self.ms[row, group.index]) - now_ms) / (1000.0 * half_life_s))
                    counters[f"{group.counter.name}.{duration(half_life_s)}"] = value * decay
        return {
            "first_seen_ms": int(self.first_ms[row]) or None,
            "last_seen_ms": int(self.last_ms[row]) or None,
            "counters": counters,
            "attributes": self.attributes.get(row, {}),
        }

    def _layout(self, schema: Schema) -> None:
        groups = schema.item_groups
        half_lives = [list(group.half_lives_ms) * group.counter.n_buckets for group in groups]
        self.half_life_ms = np.array([ms for row in half_lives for ms in row], dtype=np.float64)
        self.group_of_value = np.repeat(np.arange(len(groups)), [group.n_values for group in groups])
        self._plain_buckets = np.array(
            [[0 if name in g.counter.types else kernels.UNCHANGED for g in groups] for name in schema.event_types],
            dtype=np.int64,
        ).reshape(len(schema.event_types), len(groups))
        self.groups = kernels.Groups(
            np.array([g.start for g in groups] + [len(self.half_life_ms)], dtype=np.int64),
            np.array([len(g.half_lives_ms) for g in groups], dtype=np.int64),
            self.half_life_ms,
            np.array([g.counter.use_value for g in groups], dtype=np.bool_),
            np.array(schema.successor_half_lives_s) * 1000.0,
        )
        n_keys = sum(attribute.width for attribute in schema.item_attributes)
        n_numbers = sum(attribute.kind == "number" for attribute in schema.item_attributes)
        self._fixed_type = np.dtype(
            [
                ("key", "<u8"),
                ("first_ms", "<i8"),
                ("last_ms", "<i8"),
                ("ms", "<i8", (len(groups),)),
                ("value", "<f4", (len(self.half_life_ms),)),
                ("attribute_key", "<u8", (n_keys,)),
                ("number", "<f4", (n_numbers,)),
            ]
        )
        self._successor_type = np.dtype(
            [("key", "<u8"), ("ms", "<i8"), ("value", "<f4", (len(schema.successor_half_lives_s),))]
        )

    def _allocate(self, capacity: int) -> None:
        fixed = np.zeros(capacity, self._fixed_type)
        fixed["number"] = np.nan
        successors = np.zeros((capacity, self.schema.n_successors), self._successor_type)
        n_rows = len(self.fixed)
        fixed[:n_rows], successors[:n_rows] = self.fixed, self.successors
        self.fixed, self.successors = fixed, successors
        self._is_touched = np.append(self._is_touched, np.zeros(capacity - n_rows, dtype=bool))
        self.key, self.first_ms, self.last_ms = fixed["key"], fixed["first_ms"], fixed["last_ms"]
        self.ms, self.value = fixed["ms"], fixed["value"]
        self.attribute_key, self.number = fixed["attribute_key"], fixed["number"]
        self.successor_key, self.successor_ms = successors["key"], successors["ms"]
        self.successor_value = successors["value"]
        self.columns = kernels.Items(
            *(self.key, self.first_ms, self.last_ms, self.ms, self.value, self.attribute_key, self.number),
            *(self.successor_key, self.successor_ms, self.successor_value),
        )

    def _made(
        self,
        keys_EP: NDArray[np.uint64],
        items_of: Callable[[int], Sequence[Recent]],
        takes: Callable[[str], bool] | None,
    ) -> NDArray[np.int64]:
        """Rows of the items before some events, made where there are none."""
        row_EP = self.rows_of(keys_EP)
        for e, p in zip(*np.nonzero((row_EP == UNKNOWN) & (keys_EP != 0)), strict=True):
            (item, *_) = (item for item, _, _ in items_of(int(e)) if hash64(item) == keys_EP[e, p])
            if takes is None or takes(item):
                row_EP[e, p] = self.row(item)
        if takes is not None:
            is_taken = [row == UNKNOWN or takes(self.ids[row]) for row in row_EP.ravel().tolist()]
            row_EP[~np.reshape(is_taken, row_EP.shape)] = UNKNOWN
        return row_EP

    def _buckets(self, events: Sequence[LoggedEvent]) -> NDArray[np.int64]:
        """Buckets [E, G] that the events add to."""
        bucket_EG: NDArray[np.int64] = self._plain_buckets[[self.schema.type_index[event.type] for event in events]]
        for group in self.schema.item_groups:
            name, n = group.counter.split, group.counter.n_buckets
            if name is not None:
                values = [event.context.get(name) for event in events]
                column = [kernels.NO_BUCKET if value is None else bucket_of(value, n) for value in values]
                bucket_EG[:, group.index] = np.where(bucket_EG[:, group.index] == 0, column, kernels.UNCHANGED)
        return bucket_EG

    def _check(self, data: bytes) -> None:
        least = HEADER.size + self.fixed.itemsize + 2
        if len(data) < HEADER.size:
            raise CorruptState(f"item row: expected at least {least} bytes, got {len(data)}")
        version, fingerprint = HEADER.unpack_from(data)
        if version != FORMAT or fingerprint != self.schema.fingerprint:
            raise SchemaMismatch(
                f"item row: written as format {version} under schema {fingerprint:016x}, "
                f"expected {FORMAT} under {self.schema.fingerprint:016x}"
            )
        if len(data) < least:
            raise CorruptState(f"item row: expected at least {least} bytes, got {len(data)}")

    def _load_variable(self, row: int, data: bytes, at: int) -> None:
        n_used = int.from_bytes(data[at : at + 2], "little")
        start, end = at + 2, at + 2 + n_used * self._successor_type.itemsize
        if len(data) < end or n_used > self.schema.n_successors:
            raise CorruptState(f"item row: expected {end} bytes for {n_used} successors, got {len(data)}")
        self.successors[row, :n_used] = np.frombuffer(data[start:end], self._successor_type)
        self.successors[row, n_used:] = np.zeros((), self._successor_type)
        if end < len(data):
            try:
                self.attributes[row] = _decode_map(data[end:])
            except msgspec.DecodeError as error:
                raise CorruptState(f"item row: attributes: {error}") from None
        else:
            self.attributes.pop(row, None)


def plain(records: NDArray[Any]) -> NDArray[np.void]:
    """The same records as mere bytes, which numpy copies ten times as fast."""
    return records.view(np.dtype((np.void, records.itemsize)))


def attribute_inputs(
    declared: Sequence[Attribute], attributes: dict[str, Any]
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Keys [A] (0: absent) and numbers [M] (NaN: absent) of declared attributes; values of another kind are absent."""
    keys: list[int] = []
    numbers: list[float] = []
    for attribute in declared:
        value = attributes.get(attribute.name)
        if attribute.kind == "number":
            numbers.append(float(value) if isinstance(value, int | float) else np.nan)
            continue
        tags = value if isinstance(value, list) else [] if value is None else [value]
        found = [hash64(f"{attribute.name}={tag}") for tag in tags[: attribute.width]]
        keys += found + [0] * (attribute.width - len(found))
    return np.array(keys, dtype=np.uint64), np.array(numbers, dtype=np.float32)
