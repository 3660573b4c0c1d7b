"""Whether an event counts for others: who floods is heard by nobody but themselves.

    entry ──► a person's state ──► always
          └─► has_voice? ──► rows of items, examples, rewards

Whatever a person does is in that person's own state, and so in the very next answer to that person. In rows of items,
and in what is learned, an event counts while three things are so before it (`schema.Voice`):

    repetition   of the newest `n_recent` events, fewer than `per_item` are of its type and on its item
    pace         each of the person's counters, decayed to its time, is below burst + per_hour * half-life in hours
    time         it is at most `late_s` older than the newest that a counter of the person has counted

All of this stands in the state that an entry carries. So who reads the log decides the same from the entry alone,
whoever it is and wherever reading begins. Repetition forgets what many other events have pushed out, pace does not; and
pace without time could be got round by dating events back.

Pace and time know the counters of people that are not split and do not add values; what none of them counts has none.

The bound. Of N events of a person one after the other, `per_item` * ceil(N / (n_recent + 1)) at most are heard of one
type on one item. Within t hours at most

    (1 + burst + per_hour * h) * (1 + t * log(2) / h) * 2 ** (late_s / (3600 * h))

are heard of the types that a counter of half-life h hours counts, whichever half-life gives the least; and what they
add to an item's counter of this half-life or a shorter one is never more than the first and the last factor.

Legend: C values of a person's counters.
"""

from typing import Any, Final

import numpy as np

from features.compiling import compiled
from features.events import LoggedEvent
from features.history import BROKEN, next_entry
from features.schema import FORMAT, Schema
from features.state import HEADER, LISTS

N_LISTS: Final = LISTS.size
HOUR_MS: Final = 3_600_000.0


class Voices:
    """`has_voice` of events under one schema; stateless."""

    def __init__(self, schema: Schema) -> None:
        self._header = HEADER.pack(FORMAT, schema.fingerprint)
        self._block = slice(HEADER.size, HEADER.size + schema.user_block_bytes)
        self._least = self._block.stop + LISTS.size
        self._type_index = schema.type_index
        self.per_item = schema.voice.per_item
        self.late_ms = round(1000 * schema.voice.late_s)
        self.pace = pace_of(schema)
        """[C, 4]"""

    def has_voice(self, event: LoggedEvent, state: bytes) -> bool:
        """Whether an event counts for others.

        Args:
            state: The person's from just before it, packed. What is none tells nothing: whoever folds it finds out.
        """
        if len(state) < self._least or not state.startswith(self._header):
            return True
        if not keeps_pace(np.frombuffer(state[self._block], np.uint32), event.ts_ms, self.pace, self.late_ms):
            return False
        item = event.item.encode()
        if item not in state:
            return True
        found = np.frombuffer(state, np.uint8), self._block.stop, np.frombuffer(item, np.uint8)
        return bool(repetitions(*found, self._type_index.get(event.type, -1), len(self._type_index)) < self.per_item)


def pace_of(schema: Schema) -> Any:
    """[C, 4] of every value that tells a pace: words of its instant and its own, half-life in ms, and the limit."""
    voice, found = schema.voice, list[tuple[float, ...]]()
    for group in schema.user_groups:
        if group.counter.split is None and not group.counter.use_value:
            for place, half_life_ms in enumerate(group.half_lives_ms):
                limit = voice.burst + voice.per_hour * half_life_ms / HOUR_MS
                found.append((group.offset // 4, group.offset // 4 + 2 + place, half_life_ms, limit))
    return np.array(found, dtype=np.float64).reshape(-1, 4)


@compiled()
def repetitions(state: Any, lists: Any, item: Any, kind: Any, n_types: int) -> Any:
    """How many events of a type on an item a packed state remembers.

    Args:
        lists: Where the numbers of the lists begin.
        item: Bytes of its id.
        kind: Number of the type.
        n_types: Types of events that there are.
    """
    n_recent = np.int64(state[lists]) | np.int64(state[lists + 1]) << 8
    at, n_same = lists + N_LISTS + 2 * n_recent, 0
    for _ in range(n_recent):
        start, length, other, _, at = next_entry(state, at, len(state), n_types)
        if at == BROKEN:
            return 0
        is_same = other == kind and length == len(item)
        for i in range(length if is_same else 0):
            is_same &= state[start + i] == item[i]
        n_same += is_same
    return n_same


@compiled()
def keeps_pace(word_W: Any, ts_ms: Any, pace_C4: Any, late_ms: int) -> bool:
    """Whether a person with these counters may be heard at an instant: pace and time.

    Args:
        pace_C4: See `pace_of`.
    """
    value_W = word_W.view(np.float32)
    for c in range(len(pace_C4)):
        at, half_life_ms, limit = int(pace_C4[c, 0]), pace_C4[c, 2], pace_C4[c, 3]
        ms = np.int64(word_W[at]) | (np.int64(word_W[at + 1]) << np.int64(32))
        if ts_ms < ms - late_ms:
            return False
        value = np.float64(value_W[int(pace_C4[c, 1])])
        if value >= limit and value * np.exp2(-max(ts_ms - ms, 0) / half_life_ms) >= limit:
            return False
    return True
