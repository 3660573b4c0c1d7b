"""Small streams with a planted pattern, as log entries, and learners small enough to run them in no time."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from features.encoding import Encoder, Inputs, Request
from features.events import (
    DECISION,
    EVENT,
    ITEM,
    Entry,
    LoggedAttributes,
    LoggedDecision,
    LoggedEvent,
    StreamId,
    encode_body,
)
from features.item_table import ItemTable
from features.keys import Keys
from features.schema import Attribute, Counter, Schema, Voice
from features.state import apply_update, unpack, update_for
from learners.model import ModelConfig
from learners.online import LearnerConfig, OnlineLearner

T0_MS = 1_764_000_000_000
KEYS = Keys(n_partitions=4)
SCHEMA = Schema(
    event_types=("click", "like"),
    context=("device",),
    n_recent=8,
    n_successors=6,
    voice=Voice(per_item=9),  # a few people and a few items: everybody is heard, but who floods
    successor_span=3,
    counters=(
        Counter(name="click", entity="item", types=("click", "like"), half_lives_s=(60.0, 3600.0)),
        Counter(name="by_device", entity="item", types=("click",), half_lives_s=(600.0,), split="device", n_buckets=4),
        Counter(name="click", entity="user", types=("click",), half_lives_s=(600.0,)),
    ),
    attributes=(
        Attribute(name="genre", entity="item", kind="tags", max_tags=3),
        Attribute(name="price", entity="item", kind="number"),
        Attribute(name="age", entity="user", kind="category"),
    ),
)
CONFIG = LearnerConfig(
    model=ModelConfig(n_embedding=8, n_hidden=16), batch_size=32, batch_span_s=20.0, person_share=1.0
)


def click(user: str, item: str, ts_ms: int, device: str = "mobile", value: float = 1.0) -> LoggedEvent:
    """A checked click."""
    return LoggedEvent("click", user, item, ts_ms, value, {"device": device}, None, None)


def stream(n: int, seed: int = 0, n_items: int = 40) -> list[LoggedEvent]:
    """Clicks, one every half second or so; who clicked 2k goes on to 2k + 1 nine times in ten."""
    rng = np.random.default_rng(seed)
    last: dict[str, int] = {}
    events, now_ms = [], T0_MS
    for _ in range(n):
        now_ms += int(rng.integers(100, 900))
        user = f"u{rng.integers(12)}"
        before = last.get(user, 1)
        follows = before % 2 == 0 and rng.random() < 0.9
        item = before + 1 if follows else int(rng.integers(n_items))
        last[user] = item
        events.append(click(user, f"i{item}", now_ms, str(rng.choice(["mobile", "desktop"]))))
    return events


def log(events: Iterable[LoggedEvent], schema: Schema = SCHEMA) -> list[Entry]:
    """Entries in log order, each with its user's state from just before it."""
    states: dict[str, bytes] = {}
    entries = []
    for number, event in enumerate(events):
        before = states.get(event.user, b"")
        partition = KEYS.user_partition(event.user)
        entries.append(Entry(StreamId(event.ts_ms, number), partition, EVENT, encode_body(event), before))
        states[event.user] = apply_update(before, update_for(event, schema), schema)
    return entries


def shown(n: int, seed: int = 0, n_items: int = 12, wrong_from: int | None = None) -> list[Entry]:
    """Decisions over four of the items, one every half second, and clicks on what they show, as logged.

    An item is clicked with a probability of 0.02 to 0.4, by its number; most clicks come within seconds, some after a
    minute. One decision in ten is logged after its first click.

    Args:
        wrong_from: Clicks come from three sources, each with decisions of its own; from this decision on `s1` tells of
            clicks on what was not clicked, and of none that were. None: nobody says who tells.
    """
    rng = np.random.default_rng(seed)
    encoder, table = Encoder(SCHEMA), ItemTable(SCHEMA)
    moments: list[tuple[int, bytes, object, str]] = []
    for number in range(n):
        now_ms, user = T0_MS + 500 * number, f"u{rng.integers(9)}"
        items = [f"i{k}" for k in rng.choice(n_items, 4, replace=False)]
        inputs = encoder.encode(table, [Request(unpack(b"", SCHEMA), {}, now_ms, items)])
        packed = inputs.dense[0].astype(np.float16).tobytes()
        decision = LoggedDecision(f"d{number}", user, now_ms, 1, {"device": "mobile"}, items, [1.0] * 4, packed)
        moments.append((now_ms + (4000 if number % 10 == 0 else 50), DECISION, decision, user))
        source = None if wrong_from is None else f"s{number % 3}"
        is_wrong = source == "s1" and number >= (wrong_from or 0)
        for item in items:
            if (rng.random() < 0.02 + 0.38 * int(item[1:]) / n_items) != is_wrong:
                delay_ms = int(rng.exponential(2000.0 if rng.random() < 0.9 else 60_000.0))
                ts_ms = now_ms + 1 + delay_ms
                event = LoggedEvent("click", user, item, ts_ms, 1.0, {"device": "mobile"}, None, f"d{number}", source)
                moments.append((ts_ms, EVENT, event, user))
    states: dict[str, bytes] = {}
    entries = []
    for number, (ms, kind, body, user) in enumerate(sorted(moments, key=lambda moment: moment[0])):
        before = states.get(user, b"")
        entries.append(Entry(StreamId(ms, number), KEYS.user_partition(user), kind, encode_body(body), before))
        if isinstance(body, LoggedEvent):
            states[user] = apply_update(before, update_for(body, SCHEMA), SCHEMA)
    return entries


def item_entry(item: str, ts_ms: int, **values: object) -> Entry:
    """Attributes of an item, as logged."""
    body = encode_body(LoggedAttributes(item, values, ts_ms))  # type: ignore[arg-type]
    return Entry(StreamId(ts_ms, 0), KEYS.user_partition(item), ITEM, body, b"")


def learned(entries: Sequence[Entry], learner: OnlineLearner | None = None) -> OnlineLearner:
    """A learner that has read these entries and settled."""
    learner = learner or OnlineLearner(SCHEMA, CONFIG)
    for entry in entries:
        learner.read(entry)
    if entries:
        learner.close_tick(entries[-1].id.ms + 3_600_000)
    return learner


class Reader(Protocol):
    """One learner, or a team of them."""

    def read(self, entry: Entry) -> None: ...
    def close_tick(self, end_ms: int) -> None: ...


R = TypeVar("R", bound=Reader)


def ticked(reader: R, entries: Sequence[Entry], tick_ms: int = 200) -> R:
    """Read as the actor does: every tick is closed when the next one begins."""
    end_ms = 0
    for entry in entries:
        if entry.id.ms >= end_ms:
            end_ms = entry.id.ms // tick_ms * tick_ms
            reader.close_tick(end_ms)
            end_ms += tick_ms
        reader.read(entry)
    return reader


def inputs_of(learner: OnlineLearner, n_requests: int = 3, n_candidates: int = 10) -> Inputs:
    """Requests of users with a past, for the learner's own rows."""
    return learner.encoder.encode(learner.table, requests(n_requests, n_candidates))


def requests(n_requests: int, n_candidates: int) -> list[Request]:
    """Each by another user who clicked i4 and i7; the last candidates are unheard of."""
    now_ms = T0_MS + 600_000
    found = []
    for b in range(n_requests):
        state = b""
        for item, ts_ms in ((4 + b, now_ms - 9000), (7 + b, now_ms - 2000)):
            event = click(f"r{b}", f"i{item}", ts_ms)
            state = apply_update(state, update_for(event, SCHEMA), SCHEMA)
        candidates = [f"i{(b + 4 * k) % 45}" for k in range(n_candidates)]
        found.append(Request(unpack(state, SCHEMA), {"device": "mobile"}, now_ms, candidates))
    return found
