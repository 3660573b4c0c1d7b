"""What bodies may hold, beyond the types of their fields: the limits of the checks, as JSON Schema says them.

Types come from the structs that decode; ranges, lengths and names from the constants that the checks use, and from the
schema of features that is served. What JSON Schema cannot say stands in descriptions: bytes instead of characters,
instants near now, candidates in all, ids that name a decision.
"""

from typing import Any, Final

import msgspec

from deployments.rank_body import MAX_REQUESTS
from deployments.rank_request import MAX_CANDIDATES, MAX_DEADLINE_MS, RankRequest
from deployments.versions import MAX_TEXT
from features.events import CONTEXT_MAX, EPOCH_MAX_MS, ID_BYTES, VALUE_MAX, WHOLE, Event
from features.schema import Attribute, Schema

ID: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": ID_BYTES,
    "description": f"At most {ID_BYTES} bytes of UTF-8",
}
WORDS: Final = {"type": "string", "maxLength": MAX_TEXT}
MAX_ROWS: Final = 1000  # events or items of a post
_WHOLE: Final = {"type": "integer", "minimum": WHOLE.start, "maximum": WHOLE.stop - 1}
_NUMBER: Final = {"anyOf": [_WHOLE, {"type": "number", "not": {"type": "integer"}}]}
_SCALAR: Final = {"anyOf": [{"type": "string"}, *_NUMBER["anyOf"], {"type": "boolean"}, {"type": "null"}]}
_CONTEXT: Final = {
    "type": "object",
    "maxProperties": CONTEXT_MAX,
    "additionalProperties": {
        "anyOf": [{"type": "string", "maxLength": ID_BYTES}, *_NUMBER["anyOf"], {"type": "boolean"}, {"type": "null"}]
    },
    "default": {},
}


def bodies(schema: Schema) -> dict[str, Any]:
    """Component schemas of what is sent."""
    components = {**_rank(), **_event(schema)}
    for entity, declared in (("User", schema.user_attributes), ("Item", schema.item_attributes)):
        attributes = _attributes(declared)
        components[f"{entity}Attributes"] = _closed({"attributes": attributes})
        components[f"{entity}WithId"] = _closed({"id": ID, "attributes": attributes})
    return components | {
        "Events": _closed({"events": rows("Event")}),
        "Items": _closed({"items": rows("ItemWithId")}),
        "Rollback": _closed({}, {"version": {"type": ["integer", "null"]}, "reason": WORDS, "who": WORDS}),
        "Resume": _closed({}, {"reason": WORDS, "who": WORDS}),
        "Quarantine": _closed({"source": ID}, {"reason": WORDS, "who": WORDS}),
        "Release": _closed({"source": ID}, {"who": WORDS}),
    }


def rows(name: str) -> dict[str, Any]:
    """As many of these as a post may hold, each of which is judged by itself."""
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}, "minItems": 1, "maxItems": MAX_ROWS}


def _closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _rank() -> dict[str, Any]:
    request = _described(RankRequest)
    request["properties"] |= {
        "user": ID,
        "candidates": {
            "type": "array",
            "items": ID,
            "minItems": 1,
            "maxItems": MAX_CANDIDATES,
            "uniqueItems": True,
        },
        "context": _CONTEXT,
        "limit": _or_null({"type": "integer", "minimum": 1}),
        "now_ms": _or_null(
            {"type": "integer", "minimum": 1, "maximum": EPOCH_MAX_MS - 1, "description": "Under the event clock alone"}
        ),
        "deadline_ms": _or_null({"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS}),
    }
    many = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/RankRequest"},
        "minItems": 1,
        "maxItems": MAX_REQUESTS,
        "description": "Each is judged by itself",
    }
    return {
        "RankRequest": request,
        "RankRequests": _closed({"requests": many}),
        "RankBody": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("RankRequest", "RankRequests")]},
    }


def _event(schema: Schema) -> dict[str, Any]:
    event = _described(Event)
    event["properties"] |= {
        "type": {"enum": list(schema.event_types)},
        "user": ID,
        "item": ID,
        "id": _or_null(ID),
        "ts_ms": _or_null({"type": "integer", "description": "Epoch milliseconds, of the last week"}),
        "decision": _or_null({"type": "string", "description": "Of a ranking for this user"}),
        "value": {"type": "number", "minimum": 0, "maximum": VALUE_MAX, "default": 1.0},
        "context": _CONTEXT,
        "source": _or_null(ID),
    }
    return {"Event": event}


def _attributes(declared: tuple[Attribute, ...]) -> dict[str, Any]:
    """Declared ones are of their kind; others are kept for display."""
    tags = {"type": "array", "items": {"type": "string"}}
    kinds: dict[str, list[Any]] = {
        "number": [{"type": "number", "minimum": -VALUE_MAX, "maximum": VALUE_MAX}],
        "tags": [tags, {"type": "string"}],
        "category": [{"type": "string"}, {"type": "boolean"}, _WHOLE],
    }
    return {
        "type": "object",
        "maxProperties": CONTEXT_MAX,
        "properties": {each.name: {"anyOf": [*kinds[each.kind], {"type": "null"}]} for each in declared},
        "additionalProperties": {"anyOf": [*_SCALAR["anyOf"], tags]},
    }


def _described(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A struct's own schema: its fields, which of them are required, and that there are no others."""
    _, components = msgspec.json.schema_components([kind])
    described: dict[str, Any] = components[kind.__name__]
    return described


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}], "default": None}
