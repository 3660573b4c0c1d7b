"""What goes over the wire and into the log, and its validation: once, at the edge, one event at a time.

`Event` is what a caller sends; `Entry` is what the log holds. An entry is one of six kinds, and everything the
system knows is a fold over five of them: an event, a decision (a ranking that was shown), the attributes of an item,
those of a user, the erasure of a person. The sixth is an event in quarantine: it is kept, and changes nothing.

The module does not know where the log is kept, nor what features are made of an event.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from features.decoding import decoder
from features.errors import InvalidInput, SchemaMismatch
from features.schema import Attribute, Schema

ID_BYTES: Final = 256
VALUE_MAX: Final = 1e12  # far from float32 overflow in every counter
AGE_MAX_MS: Final = 7 * 86_400_000
AHEAD_MAX_MS: Final = 60_000
EPOCH_MAX_MS: Final = 4_102_444_800_000  # the year 2100: catches seconds and microseconds sent as milliseconds
CONTEXT_MAX: Final = 64
ATTRIBUTES_BYTES: Final = 16_384  # packed: every entry of a person carries them, and every replica an item's
WHOLE: Final = range(-(2**63), 2**64)  # integers that the log can hold

EVENT, DECISION, ITEM, USER, ERASURE, QUARANTINED = b"e", b"d", b"i", b"u", b"x", b"q"

Scalar = str | int | float | bool | None


class Event(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody did something with an item."""

    type: str
    user: str
    item: str
    id: str | None = None
    ts_ms: int | None = None
    decision: str | None = None
    value: float = 1.0
    context: dict[str, Scalar] = {}
    source: str | None = None
    """Who tells: an app, a pipeline."""


class Attributes(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is declared about an item or a user; a field not sent is unknown."""

    attributes: dict[str, Scalar | list[str]]


Id = Annotated[str, msgspec.Meta(min_length=1)]
Instant = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Value = Annotated[float, msgspec.Meta(ge=0.0, le=VALUE_MAX)]
"""What folds rely on: an entry that was damaged is not decoded to something else, and none of them counts with it."""


class LoggedEvent(msgspec.Struct, array_like=True, frozen=True):
    """Body of an event entry. `ts_ms` is always known here."""

    type: str
    user: Id
    item: Id
    ts_ms: Instant
    value: Value
    context: dict[str, Scalar]
    id: str | None
    decision: str | None
    source: str | None = None


class LoggedAttributes(msgspec.Struct, array_like=True, frozen=True):
    """Body of an item or user entry."""

    entity: Id
    attributes: dict[str, Scalar | list[str]]
    ts_ms: int


class LoggedErasure(msgspec.Struct, array_like=True, frozen=True):
    """Body of an erasure."""

    user: Id
    ts_ms: int


class LoggedDecision(msgspec.Struct, array_like=True, frozen=True):
    """Body of a decision: what was shown, and what the model saw when it chose.

    `propensities` are conditional: the chance of each item to stand at its position, given those above it. `inputs`
    holds the dense inputs of the shown items, float16 [n_items, n_features], row after row.
    """

    decision: str
    user: Id
    ts_ms: Instant
    version: int
    context: dict[str, Scalar]
    items: list[Id]
    propensities: list[float]
    inputs: bytes
    is_degraded: bool = False
    """Made with something of the features missing."""


class StreamId(NamedTuple):
    """Position in one partition of the log; `ms` is log time."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: bytes | str) -> "StreamId":
        """Read `ms-seq`."""
        ms, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(ms), int(seq or 0))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


START: Final = StreamId(0, 0)
BEYOND: Final = StreamId(1 << 62, 0)  # no entry comes after it
Positions = dict[int, StreamId]


class Entry(NamedTuple):
    """One entry of the log: where it stands, what it is, and the user's packed state from just before it."""

    id: StreamId
    partition: int
    kind: bytes
    body: bytes
    state: bytes


_event_of = decoder(msgspec.json, Event)
_attributes_of = decoder(msgspec.json, Attributes)
encode_body = msgspec.msgpack.Encoder().encode
decode_event = decoder(msgspec.msgpack, LoggedEvent)
decode_attributes = decoder(msgspec.msgpack, LoggedAttributes)
decode_erasure = decoder(msgspec.msgpack, LoggedErasure)
decode_decision = decoder(msgspec.msgpack, LoggedDecision)


def parse_event(raw: bytes | msgspec.Raw) -> Event:
    """Decode one event from JSON.

    Raises:
        InvalidInput: With the path of the field that is missing, unknown or of the wrong type.
    """
    try:
        return _event_of(raw)
    except msgspec.MsgspecError as error:
        raise invalid_from(error) from None


def parse_attributes(raw: bytes | msgspec.Raw) -> Attributes:
    """Decode `{"attributes": {…}}` from JSON.

    Raises:
        InvalidInput: With the path of the bad field.
    """
    try:
        return _attributes_of(raw)
    except msgspec.MsgspecError as error:
        raise invalid_from(error) from None


def logged_event(body: bytes, schema: Schema) -> LoggedEvent:
    """Decode an event that was logged, for a fold under a schema.

    Raises:
        msgspec.DecodeError: If it is none.
        SchemaMismatch: If it was logged under a schema with other types of events.
    """
    event = decode_event(body)
    if event.type not in schema.type_index:
        raise SchemaMismatch(f"event of type {event.type!r:.64}, expected one of {', '.join(schema.event_types)}")
    return event


def invalid_from(error: msgspec.MsgspecError) -> InvalidInput:
    """Split `Expected …, got … - at `$.x`` into message and path."""
    message, _, path = str(error).partition(" - at ")
    path = path.strip("`") or "$"
    if "unknown field" in message:
        path = f"{path}.{message.rsplit('`', 2)[-2]}"
    return InvalidInput(message, path)


def check_id(value: str, path: str) -> None:
    """Refuse an id that is not 1 to 256 bytes of UTF-8.

    Raises:
        InvalidInput: At `path`.
    """
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput("Expected valid Unicode, got a lone surrogate", path) from None
    if not 1 <= size <= ID_BYTES:
        raise InvalidInput(f"Expected 1 to {ID_BYTES} bytes of UTF-8, got {size}", path)


def check_context(context: Mapping[str, Scalar], path: str) -> None:
    """Refuse a context with too many fields, one with a long name or text, or a number that is not finite.

    Raises:
        InvalidInput: At the field.
    """
    if len(context) > CONTEXT_MAX:
        raise InvalidInput(f"Expected at most {CONTEXT_MAX} fields, got {len(context)}", path)
    for name, value in context.items():
        check_name(name, path)
        check_number(value, f"{path}.{name}")
        if isinstance(value, str) and len(value) > ID_BYTES:
            raise InvalidInput(f"Expected at most {ID_BYTES} characters, got {len(value)}", f"{path}.{name}")


def check_name(name: str, path: str) -> None:
    """Refuse a field whose name is longer than an id may be.

    Raises:
        InvalidInput: At `path`, and the beginning of the name.
    """
    if len(name) > ID_BYTES:
        raise InvalidInput(f"Expected a name of at most {ID_BYTES} characters, got {len(name)}", f"{path}.{name[:64]}")


def check_number(value: object, path: str) -> None:
    """Refuse a number that the log can't hold; anything else is let through.

    Raises:
        InvalidInput: At `path`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("Expected a finite number", path)
    if isinstance(value, int) and value not in WHOLE:
        raise InvalidInput("Expected an integer of 64 bits", path)


def check_attributes(attributes: Mapping[str, Scalar | list[str]], declared: Sequence[Attribute]) -> None:
    """Refuse a declared attribute of the wrong kind, and more than can be carried along.

    Undeclared ones are kept for display and may be anything.

    Raises:
        InvalidInput: At the attribute.
    """
    if len(attributes) > CONTEXT_MAX:
        raise InvalidInput(f"Expected at most {CONTEXT_MAX} attributes, got {len(attributes)}", "$.attributes")
    for name, value in attributes.items():
        check_name(name, "$.attributes")
        check_number(value, f"$.attributes.{name}")
    _check_size(attributes)
    for attribute in declared:
        value = attributes.get(attribute.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "number": is_number and abs(value) <= VALUE_MAX,  # type: ignore[arg-type]
            "tags": isinstance(value, list | str),
            "category": isinstance(value, str | int | bool),
        }[attribute.kind]
        if value is not None and not fits:
            raise InvalidInput(f"Expected a {attribute.kind}, got {value!r:.64}", f"$.attributes.{attribute.name}")


def _check_size(attributes: Mapping[str, Scalar | list[str]]) -> None:
    """Refuse attributes that are too many bytes in all.

    Raises:
        InvalidInput: At the largest.
    """
    try:
        size = {name: len(encode_body(value)) for name, value in attributes.items()}
    except UnicodeEncodeError:
        raise InvalidInput("Expected valid Unicode, got a lone surrogate", "$.attributes") from None
    total = sum(size.values())
    if total > ATTRIBUTES_BYTES:
        largest = max(size, key=lambda name: size[name])
        message = f"Expected at most {ATTRIBUTES_BYTES} bytes in all, got {total}, {size[largest]} of them here"
        raise InvalidInput(message, f"$.attributes.{largest}")


def check_event(event: Event, schema: Schema, now_ms: int, *, any_time: bool = False) -> LoggedEvent:
    """Judge one decoded event against the schema and the clock, and make it ready for the log.

    Args:
        now_ms: Time of arrival; it stands in for a missing `ts_ms`.
        any_time: True when history is lived through (event clock): only the range of a calendar is checked.
    Raises:
        InvalidInput: With the path of the bad field.
    """
    if event.type not in schema.event_types:
        known = ", ".join(schema.event_types)
        raise InvalidInput(f"Unknown event type {event.type[:64]!r}, expected one of: {known}", "$.type")
    check_id(event.user, "$.user")
    check_id(event.item, "$.item")
    if event.id is not None:
        check_id(event.id, "$.id")
    if event.source is not None:
        check_id(event.source, "$.source")
    if not 0 <= event.value <= VALUE_MAX:
        raise InvalidInput(f"Expected a number from 0 to {VALUE_MAX:g}, got {event.value}", "$.value")
    check_context(event.context, "$.context")
    ts_ms = now_ms if event.ts_ms is None else event.ts_ms
    check_time(ts_ms, now_ms, any_time=any_time)
    return LoggedEvent(
        event.type, event.user, event.item, ts_ms, event.value, event.context, event.id, event.decision, event.source
    )


def check_time(ts_ms: int, now_ms: int, *, any_time: bool) -> None:
    """Refuse an instant that is not of now, or with `any_time` not of the calendar.

    Raises:
        InvalidInput: At `$.ts_ms`.
    """
    if any_time:
        if not 0 < ts_ms < EPOCH_MAX_MS:
            raise InvalidInput(f"Expected epoch milliseconds before the year 2100, got {ts_ms}", "$.ts_ms")
    elif not now_ms - AGE_MAX_MS <= ts_ms <= now_ms + AHEAD_MAX_MS:
        raise InvalidInput(
            f"Expected epoch milliseconds between a week ago and a minute ahead of {now_ms}, got {ts_ms}", "$.ts_ms"
        )


def event_from_row(row: Mapping[str, Any], reserved: frozenset[str] = frozenset(Event.__struct_fields__)) -> Event:
    """Build an event from a row of a table: integer ids become decimal strings, other columns context.

    Raises:
        InvalidInput: With the path of the bad field.
    """
    fields = {name: value for name, value in row.items() if name in reserved and value is not None}
    for name in ("user", "item", "id"):
        if isinstance(fields.get(name), int):
            fields[name] = str(fields[name])
    others = {name: value for name, value in row.items() if name not in reserved and value is not None}
    fields["context"] = {**fields.get("context", {}), **others}
    try:
        return msgspec.convert(fields, Event)
    except msgspec.ValidationError as error:
        raise invalid_from(error) from None
