"""The HTTP interface as OpenAPI 3.1, derived from the structs that decode it where there is one."""

from functools import cache
from typing import Any, Final

import msgspec

from deployments.audit import MAX_SHOWN
from deployments.rank_body import MAX_REQUESTS
from deployments.rank_request import MAX_CANDIDATES, MAX_DEADLINE_MS, RankRequest
from features.erasures import STEPS
from features.events import Attributes, Event

_REF: Final = "#/components/schemas/{name}"


@cache
def openapi() -> dict[str, Any]:
    """The description served at `/v1/openapi.json`."""
    _, components = msgspec.json.schema_components([RankRequest, Event, Attributes], ref_template=_REF)
    components["RankRequest"]["properties"]["candidates"] |= {
        "minItems": 1,
        "maxItems": MAX_CANDIDATES,
        "uniqueItems": True,
    }
    components["RankRequest"]["properties"]["deadline_ms"] |= {"minimum": 1, "maximum": MAX_DEADLINE_MS}
    components |= _ANSWERS
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": "1"},
        "security": [{"key": []}],
        "paths": {
            "/v1/rank": {"post": _rank()},
            "/v1/events": {
                "post": _operation("Send events", "Events", {202: "Receipt"}) | {"parameters": [_SOURCE_OF]}
            },
            "/v1/items": {"post": _operation("Set attributes of items", "Items", {202: "Receipt"})},
            "/v1/items/{id}": _by_id(
                put=_operation("Set an item's attributes", "Attributes", {202: "Written"}),
                get=_operation("Show an item", None, {200: "Item"}),
            ),
            "/v1/users/{id}": _by_id(
                get=_operation("Show what is known about a person", None, {200: "User"}),
                put=_operation("Set a person's attributes", "Attributes", {202: "Written"}),
                delete=_operation("Erase a person: the state at once, then all the rest", None, {202: "ToErase"}),
            ),
            "/v1/users/{id}/export": _by_id(get=_export()),
            "/v1/erasures/{id}": _by_id(get=_operation("Show how far an erasure is", None, {200: "Erasure"})),
            "/v1/model": {"get": _operation("Show the current model", None, {200: "Model"})},
            "/v1/model/versions": {
                "get": _operation("Show versions, and what became of them", None, {200: "Versions"})
            },
            "/v1/model/rollback": {
                "post": _operation("Answer with a version that is kept, until resumed", "Rollback", {200: "Pinned"})
            },
            "/v1/model/resume": {"post": _operation("Follow the newest version again", "Resume", {200: "Resumed"})},
            "/v1/sources": {"get": _operation("Show what each source has sent", None, {200: "Sources"})},
            "/v1/sources/quarantine": {
                "post": _operation("Keep what a source sends, and nothing else", "Quarantine", {200: "Quarantined"})
            },
            "/v1/sources/release": {
                "post": _operation("Have what a source sends count again", "Release", {200: "Quarantined"})
            },
            "/v1/log": {"get": _operation("Show how full the log is, and how far it is archived", None, {200: "Log"})},
            "/v1/audit": {
                "get": _operation("Show what was done with power, newest first", None, {200: "Actions"})
                | {"parameters": [_LAST]}
            },
            "/v1/health": {
                "get": _operation("Show whether the store answers", None, {200: "Health"}) | {"security": []}
            },
            "/v1/openapi.json": {"get": _operation("This description", None, {200: "Any"})},
        },
        "components": {"schemas": components, "securitySchemes": {"key": _KEY}},
    }


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(name=name)}


_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_NUMBER: Final = {"type": "number"}
_MAP: Final = {"type": "object"}
_ERROR: Final = _object({"code": _TEXT, "message": _TEXT}, {"path": _TEXT, "retryable": {"type": "boolean"}})
_MODEL: Final = {"version": _WHOLE, "trained_through_ms": _WHOLE, "age_ms": _WHOLE}
_PIN: Final = {"oneOf": [_object({"version": _WHOLE, "who": _TEXT, "why": _TEXT, "at_ms": _WHOLE}), {"type": "null"}]}
_HELD: Final = {"oneOf": [_object({"version": _WHOLE, "why": _TEXT, "since_ms": _WHOLE}), {"type": "null"}]}
_SOURCE_OF: Final = {
    "name": "headrace-source",
    "in": "header",
    "required": False,
    "description": "Source of the events that name none",
    "schema": _TEXT,
}
_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key with the scope that the operation needs; on one machine alone none is needed. Without a "
    "key that is valid the answer is 401, without the scope 403, beyond its rate 429",
}
_LAST: Final = {
    "name": "last",
    "in": "query",
    "required": False,
    "description": "So many of the newest",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_SHOWN},
}
_QUARANTINE: Final = {"oneOf": [_object({"who": _TEXT, "why": _TEXT, "since_ms": _WHOLE}), {"type": "null"}]}
_LABELS: Final = {
    "oneOf": [
        _object({"slates": _WHOLE, "agreement": _NUMBER, "in_doubt": {"type": "boolean"}}),
        {"type": "null"},
    ]
}
_SOURCE: Final = _object(
    {
        "accepted": _WHOLE,
        "quarantined": _WHOLE,
        "invalid": _WHOLE,
        "invalid_ratio": _NUMBER,
        "lag_s": {"type": ["number", "null"]},
        "same": _MAP,
        "quarantine": _QUARANTINE,
        "labels": _LABELS,
    }
)
_ANSWERS: Final[dict[str, Any]] = {
    "Any": _MAP,
    "Error": _object({"error": _ERROR}),
    "Events": _object({"events": _list(_ref("Event"))}),
    "Items": _object({"items": _list(_object({"id": _TEXT, "attributes": _MAP}))}),
    "Written": _object({"log_ms": _WHOLE}),
    "ToErase": _object({"log_ms": _WHOLE, "erasure": _TEXT}),
    "Erasure": _object(
        {
            "state": {"enum": ["under way", "done"]},
            "asked_ms": _WHOLE,
            "done_ms": {"type": ["integer", "null"]},
            "steps": _object({step: {"type": ["integer", "null"]} for step in STEPS}),
        }
    ),
    "Known": _object({"log_ms": _WHOLE}, {"user": _TEXT, "state": _ref("User"), "kind": _TEXT}),
    "Health": _object({"status": _TEXT}),
    "Receipt": _object(
        {
            "accepted": _WHOLE,
            "duplicates": _WHOLE,
            "quarantined": _WHOLE,
            "rejected": _list(_object({"index": _WHOLE, "error": _ERROR})),
            "log_ms": {"type": ["integer", "null"]},
        }
    ),
    "RankAnswer": _object(
        {
            "decision": _TEXT,
            "items": _list(_object({"id": _TEXT, "score": _NUMBER, "propensity": _NUMBER}, {"features": _MAP})),
            "model": _object(_MODEL),
            "degraded": _list({"enum": ["features", "model"]}),
        }
    ),
    "RankRequests": _object({"requests": _list(_ref("RankRequest")) | {"minItems": 1, "maxItems": MAX_REQUESTS}}),
    "RankAnswers": _object({"answers": _list({"oneOf": [_ref("RankAnswer"), _ref("Error")]})}),
    "RankBody": {"oneOf": [_ref("RankRequest"), _ref("RankRequests")]},
    "RankResult": {"oneOf": [_ref("RankAnswer"), _ref("RankAnswers")]},
    "Model": _object(
        _MODEL
        | {
            "live": _WHOLE,
            "events": _WHOLE,
            "examples": _WHOLE,
            "progressive": _MAP,
            "state": {"enum": ["live", "held", "pinned"]},
            "pinned": _PIN,
            "held": _HELD,
            "judged": _object({"reasons": _list(_TEXT), "anchor": _WHOLE, "figures": _MAP}),
            "publishing": _MAP,
        }
    ),
    "Versions": _object(
        {
            "current": _WHOLE,
            "live": _WHOLE,
            "pinned": _PIN,
            "kept": _list(_WHOLE),
            "history": _list(
                _object(
                    {
                        "what": _TEXT,
                        "first": _WHOLE,
                        "last": _WHOLE,
                        "since_ms": _WHOLE,
                        "until_ms": _WHOLE,
                        "who": _TEXT,
                        "why": _TEXT,
                    }
                )
            ),
        }
    ),
    "Rollback": _object({}, {"version": {"type": ["integer", "null"]}, "reason": _TEXT, "who": _TEXT}),
    "Pinned": _object({"version": _WHOLE, "state": {"enum": ["pinned"]}}),
    "Resume": _object({}, {"reason": _TEXT, "who": _TEXT}),
    "Resumed": _object({"version": _WHOLE}),
    "Quarantine": _object({"source": _TEXT}, {"reason": _TEXT, "who": _TEXT}),
    "Release": _object({"source": _TEXT}, {"who": _TEXT}),
    "Actions": _object(
        {
            "actions": _list(
                _object(
                    {
                        "at_ms": _WHOLE,
                        "who": _TEXT,
                        "what": _TEXT,
                        "about": _TEXT,
                        "before": {"type": ["integer", "null"]},
                        "after": {"type": ["integer", "null"]},
                        "reason": _TEXT,
                        "failed": _TEXT,
                    }
                )
            )
        }
    ),
    "Quarantined": _object({"source": _TEXT, "quarantine": _QUARANTINE}),
    "Sources": _object({"sources": {"type": "object", "additionalProperties": _SOURCE}, "problems": _list(_TEXT)}),
    "Log": _object(
        {
            "bytes": _WHOLE,
            "max_bytes": _WHOLE,
            "bytes_per_s": _NUMBER,
            "hours_left": {"type": ["number", "null"]},
            "archive": _TEXT,
            "archived_entries": _WHOLE,
            "archive_behind_s": {"type": ["number", "null"]},
            "erasures": _WHOLE,
            "erasures_wait": _TEXT,
            "problems": _list(_TEXT),
        }
    ),
    "Item": _object({"id": _TEXT, "counters": _MAP, "attributes": _MAP}),
    "User": _object({"recent": _MAP, "counters": _MAP, "attributes": _MAP}),
}


def _operation(summary: str, body: str | None, answers: dict[int, str]) -> dict[str, Any]:
    responses: dict[str, Any] = {str(status): _content("Success", name) for status, name in answers.items()}
    responses["default"] = _content("Any other answer", "Error")
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True} | _content("", body)
        del operation["requestBody"]["description"]
    return operation


def _rank() -> dict[str, Any]:
    """One request or many, in either format; an answer has the format of its request."""
    operation = _operation("Rank candidates for a person, or for many at once", "RankBody", {200: "RankResult"})
    for holder in (operation["requestBody"], operation["responses"]["200"]):
        holder["content"]["application/msgpack"] = holder["content"]["application/json"]
    operation["responses"]["429"] = _content("Refused by load; Retry-After says for how long", "Error")
    return operation


def _export() -> dict[str, Any]:
    """One object a line."""
    operation = _operation(
        "Say everything that is known of a person: the state, then every entry", None, {200: "Known"}
    )
    content = operation["responses"]["200"]["content"]
    content["application/x-ndjson"] = content.pop("application/json")
    return operation


def _content(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _by_id(**operations: dict[str, Any]) -> dict[str, Any]:
    parameter = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    return {"parameters": [parameter], **operations}
