"""What the edge lets in, and that every refusal names its field."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput
from features.events import (
    AGE_MAX_MS,
    AHEAD_MAX_MS,
    ATTRIBUTES_BYTES,
    Event,
    LoggedEvent,
    StreamId,
    check_attributes,
    check_event,
    decode_decision,
    decode_event,
    encode_body,
    event_from_row,
    parse_attributes,
    parse_event,
)
from features.schema import Schema
from tests.features.examples import T0_MS

SCHEMA = Schema()
GOOD: dict[str, Any] = {"type": "click", "user": "u1", "item": "a"}


def parsed(**fields: Any) -> Event:
    return parse_event(msgspec.json.encode({**GOOD, **fields}))


def checked(**fields: Any) -> LoggedEvent:
    return check_event(parsed(**fields), SCHEMA, T0_MS)


def test_what_is_left_out_has_its_default() -> None:
    assert checked() == LoggedEvent("click", "u1", "a", T0_MS, 1.0, {}, None, None)


def test_everything_that_is_sent_is_kept() -> None:
    fields = {"id": "e1", "ts_ms": T0_MS - 5, "decision": "d", "value": 2.5, "context": {"n": 1, "s": "x"}}
    fields["source"] = "web"
    event = checked(**fields)
    assert {name: getattr(event, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type": 1}, "$.type"),
        ({"user": None}, "$.user"),
        ({"item": ["a"]}, "$.item"),
        ({"id": 7}, "$.id"),
        ({"source": 7}, "$.source"),
        ({"ts_ms": "now"}, "$.ts_ms"),
        ({"ts_ms": 1.5}, "$.ts_ms"),
        ({"value": "1"}, "$.value"),
        ({"context": []}, "$.context"),
        ({"context": {"a": {}}}, "$.context[...]"),
        ({"colour": "red"}, "$.colour"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parsed(**fields)
    assert caught.value.path == path


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(InvalidInput, match=missing):
        parse_event(msgspec.json.encode({name: value for name, value in GOOD.items() if name != missing}))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"NaN", b'{"value": NaN}', b"\xff"])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_event(raw)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type": "sneeze"}, "$.type"),
        ({"user": ""}, "$.user"),
        ({"user": "x" * 257}, "$.user"),
        ({"item": ""}, "$.item"),
        ({"item": "ä" * 129}, "$.item"),
        ({"id": ""}, "$.id"),
        ({"source": ""}, "$.source"),
        ({"value": -0.1}, "$.value"),
        ({"value": 1e13}, "$.value"),
        ({"ts_ms": T0_MS - AGE_MAX_MS - 1}, "$.ts_ms"),
        ({"ts_ms": T0_MS + AHEAD_MAX_MS + 1}, "$.ts_ms"),
        ({"context": {str(n): n for n in range(65)}}, "$.context"),
        ({"context": {"device": "x" * 257}}, "$.context.device"),
        ({"context": {"x" * 257: 1}}, f"$.context.{'x' * 64}"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(**fields)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "x" * 256},
        {"item": "ä" * 128},
        {"value": 0},
        {"value": 1e12},
        {"ts_ms": T0_MS - AGE_MAX_MS},
        {"ts_ms": T0_MS + AHEAD_MAX_MS},
        {"context": {str(n): n for n in range(64)}},
    ],
)
def test_the_edge_of_a_range_is_within_it(fields: dict[str, Any]) -> None:
    checked(**fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_wherever_they_come_from(value: float) -> None:
    for event, path in (
        (Event(**GOOD, value=value), "$.value"),
        (Event(**GOOD, context={"price": value}), "$.context.price"),
    ):
        with pytest.raises(InvalidInput) as caught:
            check_event(event, SCHEMA, T0_MS)
        assert caught.value.path == path


@pytest.mark.parametrize(("value", "edge"), [(2**64, 2**64 - 1), (-(2**63) - 1, -(2**63))])
def test_integers_that_the_log_cannot_hold_are_refused_with_their_path(value: int, edge: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(context={"n": value})
    assert caught.value.path == "$.context.n"
    with pytest.raises(InvalidInput) as caught:
        check_attributes({"n": value}, ())
    assert caught.value.path == "$.attributes.n"
    assert decode_event(encode_body(checked(context={"n": edge}))).context == {"n": edge}
    check_attributes({"n": edge}, ())


def test_a_lone_surrogate_is_refused_with_its_path() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_event(Event(type="click", user="\ud800", item="a"), SCHEMA, T0_MS)
    assert caught.value.path == "$.user"


def test_history_may_be_of_any_time_in_the_calendar() -> None:
    event = parsed(ts_ms=1_000_000_000_000)
    assert check_event(event, SCHEMA, T0_MS, any_time=True).ts_ms == 1_000_000_000_000
    for ts_ms in (0, -1, T0_MS * 1000):
        with pytest.raises(InvalidInput) as caught:
            check_event(parsed(ts_ms=ts_ms), SCHEMA, T0_MS, any_time=True)
        assert caught.value.path == "$.ts_ms"


@given(st.builds(StreamId, st.integers(0, 2**48), st.integers(0, 2**64 - 1)))
def test_a_position_reads_back(position: StreamId) -> None:
    assert StreamId.parse(str(position)) == StreamId.parse(str(position).encode()) == position


@given(st.text(min_size=1, max_size=9), st.floats(0, 1e12), st.dictionaries(st.text(max_size=3), st.booleans()))
def test_a_logged_event_reads_back(user: str, value: float, context: dict[str, Any]) -> None:
    event = LoggedEvent("click", user, "a", T0_MS, value, context, None, "d", "web")
    assert decode_event(encode_body(event)) == event


def test_an_event_of_before_sources_names_none() -> None:
    assert decode_event(msgspec.msgpack.encode(["click", "u1", "a", T0_MS, 1.0, {}, None, None])).source is None


def test_a_decision_of_before_it_was_said_counts_as_made_with_all_features() -> None:
    packed = msgspec.msgpack.encode(["d1", "u1", T0_MS, 3, {}, ["a"], [1.0], b"\0\0"])
    assert not decode_decision(packed).is_degraded


def test_attributes_are_checked_with_their_path() -> None:
    assert parse_attributes(b'{"attributes": {"tags": ["a"], "price": 1.5}}').attributes["tags"] == ["a"]
    with pytest.raises(InvalidInput) as caught:
        parse_attributes(b'{"attributes": {}, "colour": 1}')
    assert caught.value.path == "$.colour"


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({"title": "x" * ATTRIBUTES_BYTES, "price": 1.0}, "$.attributes.title"),
        ({"price": 1.0, "tags": [f"tag {n}" for n in range(10_000)]}, "$.attributes.tags"),
        ({f"field {n}": "x" * 300 for n in range(64)}, "$.attributes.field 0"),
        ({"x" * 257: 1}, f"$.attributes.{'x' * 64}"),
        ({"title": "\ud800"}, "$.attributes"),
    ],
)
def test_attributes_that_are_too_large_are_refused_at_the_largest(attributes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_attributes(attributes, ())
    assert caught.value.path == path


def test_attributes_may_be_as_large_as_stated() -> None:
    check_attributes({"title": "x" * (ATTRIBUTES_BYTES - 3)}, ())


def test_a_row_of_a_table_becomes_an_event_with_its_other_columns_as_context() -> None:
    row = {**GOOD, "user": 42, "item": 7, "ts_ms": T0_MS, "id": None, "device": "m", "price": 2.5, "os": None}
    event = event_from_row(row)
    assert (event.user, event.item, event.id, event.context) == ("42", "7", None, {"device": "m", "price": 2.5})


def test_a_bad_row_names_its_column() -> None:
    with pytest.raises(InvalidInput) as caught:
        event_from_row({**GOOD, "value": "much"})
    assert caught.value.path == "$.value"
