"""Item rows and people's states at every moment of the last seconds of the log.

    log ──► held entries, the last seconds ──► a table of rows from before them
                     └── of each person the last entry, however old

`rows` says what the rows of some items were at an instant, and after each entry since then that touched them; `states`
the same of a person. Both follow from the log alone: rows are folded with `ItemTable`, as the projector does it and in
the same order, so the bounded sets of successors hold the same; a person's state is what the next entry of that person
carries, or the last entry's with that entry laid over.

Only who asks pays for the moments: an entry is folded once, when it leaves the seconds that are held, and again for
those rows that are asked for. Price beside that: the last entry of every person, about 2 kB, of `max_people` at most.

It knows neither decisions nor features, and no clock: time is that of the log.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from features.errors import FeatureError
from features.events import (
    ERASURE,
    EVENT,
    ITEM,
    USER,
    Entry,
    LoggedAttributes,
    LoggedEvent,
    decode_attributes,
    decode_erasure,
    logged_event,
)
from features.history import NOTHING, History, arrays_of
from features.item_table import ItemTable
from features.schema import Schema, hash64, known_hash64
from features.state import history_in, state_after

MAX_PEOPLE: Final = 1_000_000  # 2 GB

NO_KEYS: Final[frozenset[int]] = frozenset()


class Change(NamedTuple):
    """What an entry does to rows."""

    ms: int
    """Log time."""
    body: LoggedEvent | LoggedAttributes
    history: History
    """Of the event's user, from just before."""


class _Held(NamedTuple):
    ms: int
    user: int | None
    """Hash of the id: whoever is erased is named nowhere any more."""
    state: bytes | None
    """The user's, from just before the entry; None: not known."""
    change: Change | None
    keys: frozenset[int]
    """Of the items whose rows it touches."""


class Moments:
    """`add` entries in log order; ask for `rows` and `states` as of now and of the last `held_ms`.

    Args:
        table: Rows from just before the first entry; None: there are none.
        knows_people: Whether people without an entry so far have no state; else it is not known.
        max_people: Of so many the last entry is remembered.
    """

    def __init__(
        self,
        schema: Schema,
        held_ms: int,
        *,
        table: ItemTable | None = None,
        knows_people: bool = True,
        max_people: int = MAX_PEOPLE,
    ) -> None:
        self._schema = schema
        self._held_ms = held_ms
        self.table = ItemTable(schema) if table is None else table
        """Rows from before the entries that are held."""
        self._knows_people = knows_people
        self._max_people = max_people
        self._held: deque[_Held] = deque()
        self._last: OrderedDict[str, Entry] = OrderedDict()
        self.n_passed_over = 0
        """Entries that could not be read; who keeps the rows passes over them too."""
        self.known_before = ""
        """Somebody who had a state before the first entry, though nobody should have."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Take in the next entries of the log."""
        if not entries:
            return
        start = 0
        for at, entry in enumerate(entries):
            if entry.kind == ERASURE:
                self._take(entries[start:at])
                self._erase(entry)
                start = at + 1
        self._take(entries[start:])
        self._fold_before(entries[-1].id.ms - self._held_ms)

    def rows(self, items: Sequence[str], since_ms: int) -> dict[str, list[bytes]]:
        """Packed rows of items: at an instant, and after each entry since then that touched them.

        Args:
            since_ms: Log time; not before the entries that are held.
        Returns:
            For each item at least one; empty bytes where it has none.
        """
        item_of = {hash64(item): item for item in items}
        touching = [held for held in self._held if not held.keys.isdisjoint(item_of)]
        some = ItemTable(self._schema, len(items) + 2)
        some.load(items, [_packed(self.table, item) for item in items])
        takes = set(items).__contains__
        fold(some, [held.change for held in touching if held.change is not None and held.ms < since_ms], takes)
        found = {item: [_packed(some, item)] for item in items}
        for held in touching:
            if held.change is not None and held.ms >= since_ms:
                fold(some, [held.change], takes)
                for key in held.keys & item_of.keys():
                    found[item_of[key]].append(_packed(some, item_of[key]))
        return found

    def states(self, user: str, since_ms: int) -> list[bytes] | None:
        """Every state that a person had since an instant, the newest last; None if one of them is not known."""
        name = hash64(user)
        found = [held.state for held in self._held if held.user == name and held.ms >= since_ms]
        found.append(self._state(user))
        return [state for state in found if state is not None] if None not in found else None

    def _state(self, user: str) -> bytes | None:
        last = self._last.get(user)
        if last is None:
            return b"" if self._knows_people else None
        try:
            return state_after(last.state, last, self._schema)
        except FeatureError:
            return None

    def _take(self, entries: Sequence[Entry]) -> None:
        held = [found for found in map(self._hold, entries) if found is not None]
        self._held.extend(self._with_keys(held))

    def _erase(self, entry: Entry) -> None:
        """Have nothing of a person but the states of the last seconds, by a hash, as long as they may be asked for.

        What the person's events did to rows stays to be folded.
        """
        try:
            user = decode_erasure(entry.body).user
        except msgspec.DecodeError:
            self.n_passed_over += 1
            return
        name, before = hash64(user), self._state(user)  # the entry carries no state
        self._last.pop(user, None)
        held = (_nobodys(one) if one.user == name else one for one in self._held)
        self._held = deque([*held, _Held(entry.id.ms, name, before, None, NO_KEYS)])

    def _hold(self, entry: Entry) -> _Held | None:
        try:
            if entry.kind == EVENT:
                event = logged_event(entry.body, self._schema)
                self._note(event.user, entry)
                return _Held(entry.id.ms, hash64(event.user), entry.state, self._change(entry, event), NO_KEYS)
            if entry.kind == ITEM:
                item = decode_attributes(entry.body)
                change = Change(entry.id.ms, item, NOTHING)
                return _Held(entry.id.ms, None, None, change, frozenset([hash64(item.entity)]))
            if entry.kind == USER:
                user = decode_attributes(entry.body).entity
                self._note(user, entry)
                return _Held(entry.id.ms, hash64(user), entry.state, None, NO_KEYS)
        except (FeatureError, msgspec.DecodeError):
            self.n_passed_over += 1
        return None

    def _change(self, entry: Entry, event: LoggedEvent) -> Change | None:
        """None: it has no voice, or cannot be read."""
        try:
            recent = history_in(entry.state, self._schema)
            return Change(entry.id.ms, event, recent) if self.table.voices.has_voice(event, entry.state) else None
        except FeatureError:
            self.n_passed_over += 1
            return None

    def _note(self, user: str, entry: Entry) -> None:
        """Remember a person's last entry."""
        if self._knows_people and entry.state and user not in self._last:
            self.known_before = self.known_before or user
        self._last[user] = entry
        self._last.move_to_end(user)
        if len(self._last) > self._max_people:
            self._last.popitem(last=False)
            self._knows_people = False

    def _with_keys(self, held: Sequence[_Held]) -> list[_Held]:
        """The same with the keys of what events touch: their items, and those before them."""
        events = [
            (h.change.body, h.change.history) for h in held if h.change and isinstance(h.change.body, LoggedEvent)
        ]
        if not events:
            return list(held)
        own = np.array([known_hash64(event.item) for event, _ in events], dtype=np.uint64)
        ms = np.array([event.ts_ms for event, _ in events], dtype=np.int64)
        seen = arrays_of([history for _, history in events], self._schema.n_recent)
        before = self.table.keys_before(seen, ms, own)
        keys = iter(np.column_stack([own, before]).tolist())
        return [
            h._replace(keys=frozenset(next(keys)) - {0}) if h.change and isinstance(h.change.body, LoggedEvent) else h
            for h in held
        ]

    def _fold_before(self, ms: int) -> None:
        gone: list[Change] = []
        while self._held and self._held[0].ms < ms:
            change = self._held.popleft().change
            if change is not None:
                gone.append(change)
        fold(self.table, gone)


def _nobodys(held: _Held) -> _Held:
    """The same, but an event that names nobody."""
    change = held.change
    if change is None or not isinstance(change.body, LoggedEvent):
        return held
    body = msgspec.structs.replace(change.body, user="", id=None, decision=None)
    return held._replace(change=change._replace(body=body))


def fold(table: ItemTable, changes: Sequence[Change], takes: Callable[[str], bool] | None = None) -> None:
    """Fold changes into rows, in order.

    Args:
        takes: Which items' rows; None: all of them.
    """
    events: list[tuple[LoggedEvent, History]] = []
    for _, body, history in changes:
        if isinstance(body, LoggedEvent):
            events.append((body, history))
            continue
        table.fold_events(events, takes=takes)
        events = []
        if takes is None or takes(body.entity):
            table.set_attributes(body.entity, body.attributes)
    table.fold_events(events, takes=takes)


def _packed(table: ItemTable, item: str) -> bytes:
    row = table.rows.get(item)
    return table.pack(row) if row is not None else b""
