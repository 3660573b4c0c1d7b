"""Decoders fail in one way, whatever is wrong."""

import pickle
from types import ModuleType

import msgspec
import pytest

from features.decoding import decoder
from features.errors import SchemaMismatch
from features.events import LoggedEvent, decode_event, encode_body, logged_event
from tests.features.examples import SCHEMA, event

DEPTH = 100_000


@pytest.mark.parametrize(
    ("module", "data"),
    [
        (msgspec.json, b"\xff"),
        (msgspec.json, b'["\xff"]'),
        (msgspec.json, b"[" * DEPTH),
        (msgspec.msgpack, b"\x91\xa2\xff\xfe"),
        (msgspec.msgpack, b"\x91" * DEPTH),
        (msgspec.msgpack, b"\xdd\xff\xff\xff\xff"),
        (msgspec.msgpack, b""),
    ],
)
def test_what_is_no_value_is_a_decode_error(module: ModuleType, data: bytes) -> None:
    for kind in (object, list[object]):
        with pytest.raises(msgspec.DecodeError):
            decoder(module, kind)(data)


def test_a_decoder_travels() -> None:
    """Actors are pickled by value, with what they refer to."""
    assert pickle.loads(pickle.dumps(decode_event))(encode_body(event())) == event()


@pytest.mark.parametrize(
    "fields",
    [{"value": float("nan")}, {"value": -1.0}, {"value": 1e13}, {"ts_ms": -1}, {"ts_ms": 1 << 63}, {"item": ""}],
)
def test_what_folds_could_not_bear_is_not_decoded(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        logged_event(encode_body(event(**fields)), SCHEMA)


def test_an_event_of_an_undeclared_type_was_logged_under_another_schema() -> None:
    body = encode_body(event(type="nod"))
    assert isinstance(decode_event(body), LoggedEvent)
    with pytest.raises(SchemaMismatch, match="'nod', expected one of view, "):
        logged_event(body, SCHEMA)
