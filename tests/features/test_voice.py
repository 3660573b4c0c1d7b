"""What one person can make others hear: the bound, whatever is sent."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import SchemaError
from features.events import EVENT, Entry, LoggedEvent, StreamId, encode_body
from features.item_table import ItemTable
from features.schema import Counter, Schema, Voice, schema_from_dict
from features.state import HEADER, apply_update, unpack, update_for
from features.voice import Voices
from tests.features.examples import T0_MS

HOUR_MS = 3_600_000
TYPES = ("view", "click", "cart")
SCHEMA = Schema(
    event_types=TYPES,
    context=("device",),
    attributes=(),
    n_recent=4,
    successor_span=2,
    voice=Voice(per_item=2, burst=5.0, per_hour=6.0, late_s=600.0, max_value=50.0),
    counters=(
        Counter(name="all", entity="user", types=TYPES, half_lives_s=(1800.0, 86400.0)),
        Counter(name="all", entity="item", types=TYPES, half_lives_s=(600.0, 1800.0, 86400.0)),
        Counter(name="by", entity="item", types=TYPES, half_lives_s=(86400.0,), split="device", n_buckets=4),
        Counter(name="value", entity="item", types=TYPES, half_lives_s=(86400.0,), use_value=True),
    ),
)
FREE = Voice(per_item=2**31, burst=1e12, late_s=1e9, max_value=1e12)


def click(item: str, ts_ms: int = T0_MS, kind: str = "click", value: float = 1.0, **context: str) -> LoggedEvent:
    return LoggedEvent(kind, "u", item, ts_ms, value, dict(context), None, None)


def logged(events: Iterable[LoggedEvent], schema: Schema = SCHEMA) -> list[Entry]:
    """Entries of what people did, in this order."""
    states, entries = dict[str, bytes](), []
    for number, event in enumerate(events):
        before = states.get(event.user, b"")
        entries.append(Entry(StreamId(T0_MS, number), 0, EVENT, encode_body(event), before))
        states[event.user] = apply_update(before, update_for(event, schema), schema)
    return entries


def heard(events: Sequence[LoggedEvent], schema: Schema = SCHEMA) -> list[LoggedEvent]:
    """Those that have a voice."""
    voices, entries = Voices(schema), logged(events, schema)
    return [event for event, entry in zip(events, entries, strict=True) if voices.has_voice(event, entry.state)]


def rows_of(entries: Iterable[Entry], schema: Schema = SCHEMA) -> dict[str, bytes]:
    table = ItemTable(schema)
    table.fold(entries)
    return dict(zip(table.ids[1:], table.pack_all(range(1, len(table) + 1)), strict=True))


def most_heard(schema: Schema, hours: float) -> float:
    """The stated bound of what a person can make others hear of the types of a counter."""
    voice = schema.voice
    return min(
        (1 + voice.burst + voice.per_hour * h) * (1 + hours * math.log(2) / h) * 2 ** (voice.late_s / 3600 / h)
        for group in schema.user_groups
        for h in (s / 3600 for s in group.counter.half_lives_s)
    )


anything = st.lists(
    st.builds(
        LoggedEvent,
        type=st.sampled_from(TYPES),
        user=st.just("u"),
        item=st.sampled_from(["x", "x", "x", "a", "b", "an item with a name of more than 31 bytes"]),
        ts_ms=st.one_of(
            st.integers(T0_MS, T0_MS + 60_000),
            st.integers(T0_MS, T0_MS + 12 * HOUR_MS),
            st.integers(T0_MS - 168 * HOUR_MS, T0_MS),
        ),
        value=st.one_of(st.floats(0, 100), st.floats(0, 1e12)),
        context=st.sampled_from([{}, {"device": "tv"}, {"device": "phone"}]),
        id=st.none(),
        decision=st.none(),
    ),
    max_size=80,
)


@given(anything)
@settings(deadline=None)
def test_of_what_comes_one_after_the_other_few_are_heard_of_one_type_on_one_item(events: list[LoggedEvent]) -> None:
    voices = Voices(SCHEMA)
    is_heard = [voices.has_voice(event, entry.state) for event, entry in zip(events, logged(events), strict=True)]
    for start in range(len(events)):
        window = slice(start, start + SCHEMA.n_recent + 1)
        of_x = [
            kind
            for event, is_so in zip(events[window], is_heard[window], strict=True)
            if is_so and event.item == "x"
            for kind in [event.type]
        ]
        assert all(of_x.count(kind) <= SCHEMA.voice.per_item for kind in TYPES)


@given(anything)
@settings(deadline=None)
def test_within_any_time_no_more_is_heard_than_stated(events: list[LoggedEvent]) -> None:
    at = sorted(event.ts_ms for event in heard(events))
    for n, first in enumerate(at):
        for hours in (0.0, 0.1, 1.0, 12.0, 200.0):
            assert sum(ms <= first + hours * HOUR_MS for ms in at[n:]) <= most_heard(SCHEMA, hours) + 1e-3


@given(anything)
@settings(deadline=None)
def test_an_items_counters_gain_no_more_from_one_person_than_stated(events: list[LoggedEvent]) -> None:
    """At every moment, of a half-life that people's counters have, or a shorter one; of values the largest counts."""
    voice, table = SCHEMA.voice, ItemTable(SCHEMA)
    entries = logged(events)
    for n in range(len(entries)):
        table.fold(entries[n : n + 1])
        for group in SCHEMA.item_groups:
            worth = voice.max_value if group.counter.use_value else 1.0
            for place, seconds in enumerate(group.counter.half_lives_s):
                h = max(seconds, 1800.0) / 3600
                bound = (1 + voice.burst + voice.per_hour * h) * 2 ** (voice.late_s / 3600 / h)
                every = range(group.start + place, group.start + group.n_values, len(group.half_lives_ms))
                assert table.value[1:, list(every)].sum(axis=1).max(initial=0.0) <= worth * bound * (1 + 1e-4)


@pytest.mark.parametrize("n", [3, 10, 1000])
def test_a_flood_leaves_what_its_first_events_left_to_the_bit(n: int) -> None:
    others = [replace_user(click(item, T0_MS + ms), f"u{ms}") for ms, item in enumerate("abcxabxx")]
    flood = [click("x", T0_MS + 100 + number) for number in range(n)]
    later = [replace_user(click(item, T0_MS + 5000 + ms), f"u{ms}") for ms, item in enumerate("xab")]
    few = flood[: SCHEMA.voice.per_item]
    assert rows_of(logged([*others, *flood, *later])) == rows_of(logged([*others, *few, *later]))
    free = replace(SCHEMA, voice=FREE)
    assert rows_of(logged([*others, *flood], free), free) != rows_of(logged([*others, *few], free), free)


def replace_user(event: LoggedEvent, user: str) -> LoggedEvent:
    return LoggedEvent(event.type, user, event.item, event.ts_ms, event.value, event.context, None, None)


def test_whoever_is_not_heard_is_known_to_themselves() -> None:
    *_, last = logged([click("x", T0_MS + number) for number in range(1000)])
    after = apply_update(last.state, update_for(click("y", T0_MS + 2000), SCHEMA), SCHEMA)
    known = unpack(after, SCHEMA)
    assert [item for item, _, _ in known.recent] == ["y", "x", "x", "x"]
    assert np.frombuffer(known.counters[8:12], np.float32)[0] > 900


def test_who_pauses_is_heard_again() -> None:
    flood = [click(f"i{number}", T0_MS + number) for number in range(40)]
    assert len(heard(flood)) == 9  # 1 + 5 + 6 * half an hour
    rest_ms = T0_MS + round(1800_000 * math.log2(40 / 8)) + 1000
    assert heard([*flood, click("x", rest_ms - 60_000)])[-1].item != "x"
    assert heard([*flood, click("x", rest_ms + 60_000)])[-1].item == "x"


def test_turns_between_items_and_types_do_not_get_round_the_pace() -> None:
    turns = [click(f"i{n % 6}", T0_MS + n, TYPES[n % 3], device=f"d{n}") for n in range(1000)]
    assert len(heard(turns)) == 9


def test_dates_in_the_past_do_not_get_round_the_pace() -> None:
    """Five old events push the newest ones out of the history; the counters remember."""
    flood = []
    for n in range(200):
        flood += [click(f"old{i}", T0_MS - (3 + i) * 24 * HOUR_MS) for i in range(5)]
        flood.append(click("x", T0_MS + n))
    assert sum(event.item == "x" for event in heard(flood)) <= most_heard(SCHEMA, 0.0)
    assert all(event.item == "x" or n < 5 for n, event in enumerate(heard(flood)))


def test_an_event_a_little_late_is_heard_and_one_much_too_late_is_not() -> None:
    assert len(heard([click("x"), click("y", T0_MS - 600_000)])) == 2
    assert len(heard([click("x"), click("y", T0_MS - 600_001)])) == 1


def test_where_no_counter_tells_a_pace_repetition_alone_counts() -> None:
    alone = replace(SCHEMA, counters=())
    assert len(heard([click("x", T0_MS + n) for n in range(100)], alone)) == 2
    assert len(heard([click(f"i{n}", T0_MS - n * HOUR_MS) for n in range(100)], alone)) == 100


def test_a_value_counts_up_to_the_largest_that_does() -> None:
    huge, largest = ([click("x", value=value)] for value in (1e12, 50.0))
    assert rows_of(logged(huge)) == rows_of(logged(largest))


def test_everybody_has_a_voice_of_their_own() -> None:
    crowd = [replace_user(click("x", T0_MS + number), f"u{number}") for number in range(200)]
    assert heard(crowd) == crowd


def test_limits_are_no_part_of_the_fingerprint_but_of_the_declaration() -> None:
    other = replace(SCHEMA, voice=FREE)
    assert other.fingerprint == SCHEMA.fingerprint
    assert schema_from_dict(SCHEMA.as_dict()) == SCHEMA != schema_from_dict(other.as_dict()) == other
    assert schema_from_dict({"voice": {"per_item": 7}}).voice == Voice(per_item=7)


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ({"per_item": 0}, "voice.per_item"),
        ({"late_s": -1.0}, "voice.late_s"),
        ({"loudness": 3}, "unknown field 'loudness'"),
    ],
)
def test_a_limit_out_of_range_is_refused_by_name(voice: dict[str, float], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema_from_dict({"voice": voice})


def test_a_state_that_is_none_tells_nothing() -> None:
    voices = Voices(SCHEMA)
    whole = logged([click("x")] * 9)[-1].state
    assert all(voices.has_voice(click("x"), whole[:size]) for size in range(HEADER.size + SCHEMA.user_block_bytes))
    assert not voices.has_voice(click("x"), whole)
