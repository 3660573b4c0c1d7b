"""Laws of packed user state, and that the server's function agrees with the reference to the last bit."""

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.embedded import EmbeddedServer
from features.errors import CorruptState, SchemaMismatch
from features.events import LoggedEvent
from features.history import NOTHING, Arrays, arrays_of
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.schema import Group, Schema, bucket
from features.state import (
    HEADER,
    UserState,
    apply_update,
    empty_state,
    histories_in,
    history_in,
    unpack,
    update_for,
    with_attributes,
)
from features.store import Applied, erasure_record, event_record, user_record
from tests.features.examples import KEYS, OTHER_SCHEMA, SCHEMA, T0_MS, applied, attributes, erasure, event

HOUR_MS = 3_600_000

events = st.builds(
    LoggedEvent,
    type=st.sampled_from(SCHEMA.event_types),
    user=st.just("u1"),
    item=st.text(min_size=1, max_size=40),
    ts_ms=st.one_of(
        st.integers(T0_MS - HOUR_MS, T0_MS + HOUR_MS),
        st.integers(1, 4_102_444_800_000),
        st.sampled_from([T0_MS, T0_MS + 1]),
    ),
    value=st.one_of(st.floats(0, 1e12), st.sampled_from([0.0, 1.0, 16_777_217.0, 1e-40])),
    context=st.one_of(st.just({}), st.builds(lambda device: {"device": device}, st.text(max_size=3))),
    id=st.none(),
    decision=st.none(),
)


def fold(*folded: LoggedEvent, state: bytes = b"", schema: Schema = SCHEMA) -> bytes:
    for one in folded:
        state = apply_update(state, update_for(one, schema), schema)
    return state


def group_of(state: bytes, name: str, schema: Schema = SCHEMA) -> tuple[int, list[float]]:
    (group,) = (g for g in schema.user_groups if g.counter.name == name)
    ms, *values = struct.unpack_from(f"<q{group.n_values}f", unpack(state, schema).counters, group.offset)
    return ms, values


def recount(folded: list[LoggedEvent], group: Group, at_ms: int) -> list[float]:
    """What the counters of a group should be, summed event by event."""
    half_lives_ms = group.half_lives_ms
    sums = [0.0] * group.n_values
    for one in folded:
        chosen = bucket(group, dict(one.context))
        if one.type not in group.counter.types or chosen is None:
            continue
        amount = one.value if group.counter.use_value else 1.0
        for index, half_life_ms in enumerate(half_lives_ms):
            sums[chosen * len(half_lives_ms) + index] += amount * 2.0 ** ((one.ts_ms - at_ms) / half_life_ms)
    return sums


def test_a_stranger_is_packed_as_zeros_and_unpacked_as_nothing() -> None:
    assert unpack(b"", SCHEMA) == unpack(empty_state(SCHEMA), SCHEMA)
    assert unpack(b"", SCHEMA) == UserState(bytes(SCHEMA.user_block_bytes), NOTHING, {}, {})


@given(st.lists(st.lists(events, max_size=4), min_size=1, max_size=4), st.data())
def test_histories_of_many_states_are_those_of_each(people: list[list[LoggedEvent]], data: st.DataObject) -> None:
    """Whole states, and such as somebody cut or changed: both ways of reading agree on what is none."""
    states = [fold(*folded) for folded in people]
    at = data.draw(st.integers(0, len(states) - 1))
    harmed = bytearray(states[at][: data.draw(st.integers(0, len(states[at])))])
    for place in data.draw(st.lists(st.integers(0, max(len(harmed) - 1, 0)), max_size=2)):
        harmed[place : place + 1] = data.draw(st.binary(max_size=1))
    states[at] = bytes(harmed)
    found, is_read = histories_in(states, SCHEMA)
    for b, state in enumerate(states):
        try:
            expected = arrays_of([history_in(state, SCHEMA)], SCHEMA.n_recent)
        except (CorruptState, SchemaMismatch):
            assert not is_read[b]
            expected = Arrays.zeros(1, SCHEMA.n_recent)
        else:
            assert is_read[b]
        for array, one in zip(found, expected, strict=True):
            assert array[b].tolist() == one[0].tolist()


@given(st.lists(events, max_size=10), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_what_is_packed_is_unpacked(folded: list[LoggedEvent], declared: dict[str, str]) -> None:
    state = with_attributes(fold(*folded), msgspec.msgpack.encode(declared), SCHEMA)
    newest = [(e.item, SCHEMA.type_index[e.type], e.ts_ms) for e in reversed(folded)][: SCHEMA.n_recent]
    assert unpack(state, SCHEMA).recent == newest
    assert unpack(state, SCHEMA).attributes == declared


@given(st.lists(events, min_size=1, max_size=5))
def test_the_context_of_the_newest_event_is_kept_as_far_as_it_is_declared(folded: list[LoggedEvent]) -> None:
    last = msgspec.structs.replace(folded[-1], context={**folded[-1].context, "session": 7})
    kept = unpack(fold(*folded[:-1], last), SCHEMA).context
    assert kept == {name: last.context[name] for name in SCHEMA.context if name in last.context}


@given(st.lists(events, max_size=8), events)
def test_an_event_leaves_attributes_alone(folded: list[LoggedEvent], last: LoggedEvent) -> None:
    tail = msgspec.msgpack.encode({"segment": "a"})
    state = fold(last, state=with_attributes(fold(*folded), tail, SCHEMA))
    assert state == with_attributes(fold(*folded, last), tail, SCHEMA)


@given(st.lists(events, max_size=30))
def test_no_more_than_n_recent_items_are_kept(folded: list[LoggedEvent]) -> None:
    assert len(unpack(fold(*folded), SCHEMA).recent) == min(len(folded), SCHEMA.n_recent)


near_events = st.builds(
    event,
    type=st.sampled_from(SCHEMA.event_types),
    ts_ms=st.integers(T0_MS, T0_MS + HOUR_MS),
    value=st.floats(0.01, 100),
    context=st.sampled_from([{}, {"device": "a"}, {"device": "b"}]),
)


@given(st.lists(near_events, min_size=1, max_size=25))
def test_counters_equal_a_naive_recount(folded: list[LoggedEvent]) -> None:
    state = fold(*folded)
    for group in SCHEMA.user_groups:
        ms, values = group_of(state, group.counter.name)
        assert values == pytest.approx(recount(folded, group, ms), rel=1e-5, abs=1e-30)


@given(st.lists(near_events, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter_to_counters(folded: list[LoggedEvent], random: Any) -> None:
    shuffled = random.sample(folded, len(folded))
    for group in SCHEMA.user_groups:
        one, other = group_of(fold(*folded), group.counter.name), group_of(fold(*shuffled), group.counter.name)
        assert one[0] == other[0]
        # One rounding to float32 per event: 12 x 6e-8.
        assert one[1] == pytest.approx(other[1], rel=1e-6, abs=1e-30)


def test_a_late_event_adds_what_is_left_of_it_and_does_not_turn_the_clock_back() -> None:
    state = fold(event(ts_ms=T0_MS), event(ts_ms=T0_MS - 60_000))
    assert group_of(state, "click") == (T0_MS, pytest.approx([1.5, 1 + 2 ** (-1 / 60)]))


def test_a_count_halves_with_its_half_life() -> None:
    state = fold(event(ts_ms=T0_MS), event(ts_ms=T0_MS + 60_000))
    assert group_of(state, "click") == (T0_MS + 60_000, pytest.approx([1.5, 1 + 2 ** (-1 / 60)]))


def test_the_split_field_chooses_the_bucket_and_its_absence_counts_nothing() -> None:
    state = fold(event(context={"device": "a"}), event(context={}), event(context={"device": None}))
    (group,) = (g for g in SCHEMA.user_groups if g.counter.name == "by_device")
    chosen = bucket(group, {"device": "a"})
    assert chosen is not None
    expected = [0.0] * group.n_values
    expected[2 * chosen : 2 * chosen + 2] = [1.0, 1.0]
    assert group_of(state, "by_device") == (T0_MS, expected)


def test_the_value_is_added_where_the_schema_says() -> None:
    assert group_of(fold(event(type="cart", value=7.5)), "spent") == (T0_MS, [7.5])
    assert group_of(fold(event(type="click", value=7.5)), "click")[1] == [1.0, 1.0]


@pytest.mark.parametrize("size", [0, 1, HEADER.size, len(empty_state(SCHEMA)) - 1])
def test_bytes_that_are_too_short_are_corrupt(size: int) -> None:
    state = (fold(event()) + b"x")[:size] or b"\0"
    with pytest.raises(CorruptState, match="expected at least"):
        unpack(state, SCHEMA)


def test_entries_that_do_not_parse_are_corrupt() -> None:
    state = fold(event(item="abc"))
    with pytest.raises(CorruptState):
        unpack(state.replace(b"\xa3abc", b"\xc1abc"), SCHEMA)


@pytest.mark.parametrize("function", [lambda s: unpack(s, SCHEMA), lambda s: fold(event(), state=s)])
def test_state_of_another_schema_is_refused_by_name(function: Any) -> None:
    state = fold(event(), schema=OTHER_SCHEMA)
    with pytest.raises(SchemaMismatch, match=f"{OTHER_SCHEMA.fingerprint:016x}.*{SCHEMA.fingerprint:016x}"):
        function(state)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folded=st.lists(events, min_size=1, max_size=60))
async def test_the_server_and_the_reference_agree_to_the_last_bit(
    empty_server: EmbeddedServer, folded: list[LoggedEvent]
) -> None:
    stores = RedisStore(empty_server.url, SCHEMA, keys=KEYS), MemoryStore(SCHEMA, keys=KEYS)
    declared = user_record(attributes("u1", segment="a"), KEYS)
    states = []
    for store in stores:
        await applied(store, erasure_record(erasure("u1"), KEYS), declared)
        await applied(store, *(event_record(one, SCHEMA, KEYS) for one in folded))
        states.append((await store.read(["u1"], []))[0][0])
        await store.close()
    assert states[0] == states[1]


async def test_hundreds_of_updates_agree_to_the_last_bit(empty_server: EmbeddedServer) -> None:
    """A long run over the default schema: each state is logged, so each update is compared."""
    schema = Schema()
    on_redis, memory = RedisStore(empty_server.url, schema, keys=KEYS), MemoryStore(schema, keys=KEYS)
    ts_ms, records = T0_MS, []
    for n in range(600):
        ts_ms += (n * n * 7919) % (10 * HOUR_MS) - (4 * HOUR_MS if n % 5 == 0 else 0)
        kind = schema.event_types[n % 5]
        records.append(event_record(event("u1", f"i{n * 31 % 97}", type=kind, ts_ms=ts_ms, value=n / 7), schema, KEYS))
    for store in (on_redis, memory):
        assert all(isinstance(result, Applied) for result in await store.apply(records))
    logs = [await store.read_log({}, count=1000) for store in (on_redis, memory)]
    assert [entry.state for entry in logs[0]] == [entry.state for entry in logs[1]]
    await on_redis.close()
