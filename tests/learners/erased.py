"""A log in which somebody is erased, who had values that nobody else has."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from features.encoding import Encoder, Request
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    Entry,
    LoggedDecision,
    LoggedErasure,
    LoggedEvent,
    StreamId,
    encode_body,
)
from features.item_table import ItemTable
from features.schema import bucket
from features.state import apply_update, unpack, update_for, with_attributes
from learners import snapshots
from learners.embeddings import TableConfig
from learners.online import OnlineLearner
from learners.snapshots import Delta
from tests.learners.examples import CONFIG, KEYS, SCHEMA, click, stream
from tests.people import traces_of

PERSON: Final = "mme-de-merteuil"
OWN_DEVICE: Final = "ivory-secretaire"
OWN_AGE: Final = "as-old-as-she-says"
TRACES: Final = traces_of(PERSON, (f"device={OWN_DEVICE}", f"age={OWN_AGE}"))
SPLIT: Final = next(group for group in SCHEMA.item_groups if group.counter.split == "device")
STRANGE: Final = next(
    name
    for name in (f"strange-{number}" for number in range(100))
    if bucket(SPLIT, {"device": name}) == bucket(SPLIT, {"device": OWN_DEVICE})
)
"""A device that nobody has; what is counted by devices is counted together with the person's."""
SMALL: Final = replace(CONFIG, table=TableConfig(max_rows=400))
PARTITION: Final = KEYS.user_partition(PERSON)
FEATURES: Final = len(Encoder(SCHEMA).dense_names)


def lived(n: int = 600, seed: int = 0, *, comes_back: bool = False) -> list[Entry]:
    """Clicks of many people, one in six of the person's, some with a decision before them; after two thirds of them the
    person is erased, and may come back at once, with the same attributes."""
    events, states, entries = stream(n, seed), dict[str, bytes](), list[Entry]()
    rng = np.random.default_rng(seed)
    is_there = True
    states[PERSON] = own_state()

    def append(ms: int, partition: int, kind: bytes, body: Any, state: bytes) -> None:
        entries.append(Entry(StreamId(ms, len(entries)), partition, kind, encode_body(body), state))

    for number, event in enumerate(events):
        if number == 2 * n // 3:
            append(event.ts_ms, PARTITION, ERASURE, LoggedErasure(PERSON, event.ts_ms), b"")
            states[PERSON] = own_state() if comes_back else b""
            is_there = comes_back
        one = event
        if is_there and rng.random() < 1 / 6:
            one = click(PERSON, event.item, event.ts_ms, OWN_DEVICE)
        partition, before = KEYS.user_partition(one.user), states.get(one.user, b"")
        if rng.random() < 0.3:
            one = msgspec.structs.replace(one, decision=f"d{number}")
            append(one.ts_ms, partition, DECISION, shown_to(one, f"d{number}"), before)
        append(one.ts_ms, partition, EVENT, one, before)
        states[one.user] = apply_update(before, update_for(one, SCHEMA), SCHEMA)
    return entries


def shown_to(event: LoggedEvent, name: str) -> LoggedDecision:
    """What was shown to who then clicked."""
    items = [event.item, *(item for item in ("i1", "i5", "i9") if item != event.item)]
    inputs = np.zeros((len(items), FEATURES), dtype=np.float16).tobytes()
    return LoggedDecision(name, event.user, event.ts_ms - 5, 1, event.context, items, [1.0] * len(items), inputs)


def own_state(age: str = OWN_AGE) -> bytes:
    """Of somebody with an attribute and no past."""
    return with_attributes(b"", msgspec.msgpack.encode({"age": age}), SCHEMA)


def at_erasure(entries: list[Entry]) -> int:
    """Number of the entry with which the person is erased."""
    return next(number for number, entry in enumerate(entries) if entry.kind == ERASURE)


def asked(age: str, device: str, now_ms: int) -> Request:
    """Somebody with these values asks for some items."""
    return Request(unpack(own_state(age), SCHEMA), {"device": device}, now_ms, [f"i{number}" for number in range(12)])


def scores(model: Any, table: ItemTable, age: str, device: str, now_ms: int) -> bytes:
    """Of somebody with these values, to the bit."""
    scored: bytes = model.score(Encoder(SCHEMA).encode(table, [asked(age, device, now_ms)])).tobytes()
    return scored


def read(entries: list[Entry], learner: OnlineLearner | None = None) -> OnlineLearner:
    """What a learner makes of them; what is pending stays so."""
    learner = learner or OnlineLearner(SCHEMA, SMALL)
    for entry in entries:
        learner.read(entry)
    return learner


def settled(learner: OnlineLearner) -> OnlineLearner:
    """With all that it has read learned from, and no more log time gone by than that takes."""
    while not learner.is_settled:
        learner.close_tick(learner.reader._tick_end_ms + 1000)
    return learner


def versions(entries: list[Entry], every: int = 8) -> Iterator[tuple[OnlineLearner, Delta]]:
    """A learner as it goes on, and what each version has changed."""
    learner, version = OnlineLearner(SCHEMA, SMALL), 0
    for number, entry in enumerate(entries):
        learner.read(entry)
        if learner.is_settled and number >= every * version:
            version += 1
            yield learner, snapshots.unpack(snapshots.pack(learner.take_delta(version, version - 1 or None)))


def merged(deltas: list[Delta]) -> Delta:
    """The newest of them, whole."""
    full = snapshots.unpack(snapshots.pack(deltas[0]))
    for delta in deltas[1:]:
        full = snapshots.merge(full, delta)
    return full
