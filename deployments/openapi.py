"""The HTTP interface as OpenAPI 3.1: routes, and what is answered. What may be sent is in `openapi_bodies`."""

from functools import cache
from typing import Any, Final

from deployments.audit import MAX_SHOWN
from deployments.openapi_bodies import ID, bodies, rows
from features.erasures import STEPS
from features.schema import Schema

_REF: Final = "#/components/schemas/{name}"


@cache
def openapi(schema: Schema) -> dict[str, Any]:
    """The description served at `/v1/openapi.json`, where these features are."""
    components = bodies(schema) | _ANSWERS
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": "1"},
        "security": [{"key": []}],
        "paths": {
            "/v1/rank": {"post": _rank()},
            "/v1/events": {
                "post": _lines("Event", _operation("Send events", "Events", {202: "Receipt"}, (422,)))
                | {"parameters": [_SOURCE_OF]}
            },
            "/v1/items": {
                "post": _lines("ItemWithId", _operation("Set attributes of items", "Items", {202: "Receipt"}, (422,)))
            },
            "/v1/items/{id}": _by_id(
                put=_operation("Set an item's attributes", "ItemAttributes", {202: "Written"}, (422,)),
                get=_operation("Show an item", None, {200: "Item"}, (404, 422)),
            ),
            "/v1/users/{id}": _by_id(
                get=_operation("Show what is known about a person", None, {200: "User"}, (422,)),
                put=_operation("Set a person's attributes", "UserAttributes", {202: "Written"}, (422,)),
                delete=_operation(
                    "Erase a person: the state at once, then all the rest", None, {202: "ToErase"}, (422,)
                ),
            ),
            "/v1/users/{id}/export": _by_id(get=_export()),
            "/v1/erasures/{id}": _by_id(get=_operation("Show how far an erasure is", None, {200: "Erasure"}, (404,))),
            "/v1/model": {"get": _operation("Show the current model", None, {200: "Model"})},
            "/v1/model/versions": {
                "get": _operation("Show versions, and what became of them", None, {200: "Versions"})
            },
            "/v1/model/rollback": {
                "post": _optional(
                    _operation("Answer with a version that is kept, until resumed", "Rollback", {200: "Pinned"}, (422,))
                )
            },
            "/v1/model/resume": {
                "post": _optional(_operation("Follow the newest version again", "Resume", {200: "Resumed"}, (422,)))
            },
            "/v1/sources": {"get": _operation("Show what each source has sent", None, {200: "Sources"})},
            "/v1/sources/quarantine": {
                "post": _operation(
                    "Keep what a source sends, and nothing else", "Quarantine", {200: "Quarantined"}, (422,)
                )
            },
            "/v1/sources/release": {
                "post": _operation("Have what a source sends count again", "Release", {200: "Quarantined"}, (404, 422))
            },
            "/v1/log": {"get": _operation("Show how full the log is, and how far it is archived", None, {200: "Log"})},
            "/v1/audit": {
                "get": _operation("Show what was done with power, newest first", None, {200: "Actions"}, (422,))
                | {"parameters": [_LAST]}
            },
            "/v1/health": {"get": _public(_operation("Show whether the store answers", None, {200: "Health"}))},
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
    "schema": ID,
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
    "RankAnswers": _object({"answers": _list({"oneOf": [_ref("RankAnswer"), _ref("Error")]})}),
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
    "Pinned": _object({"version": _WHOLE, "state": {"enum": ["pinned"]}}),
    "Resumed": _object({"version": _WHOLE}),
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


_REFUSALS: Final = {
    400: "Path, header or body cannot be read",
    401: "No key, or one that opens nothing",
    403: "The key does not open this",
    404: "No such thing",
    408: "The body did not come in time",
    413: "The body is too large, counted after decompression",
    415: "The body is compressed in another way than gzip",
    422: "A field breaks a rule; `path` names it",
    429: "Refused by load, the key's rate is used up, or the log is full; Retry-After says for how long",
    503: "What this cannot do without is away; Retry-After says for how long",
}
_ALWAYS: Final = (400, 401, 403, 408, 413, 415, 429, 503)
_RETRY_AFTER: Final = {"retry-after": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Final = {401: {"www-authenticate": {"schema": {"enum": ["Bearer"]}}}, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def _operation(
    summary: str, body: str | None, answers: dict[int, str], refusals: tuple[int, ...] = ()
) -> dict[str, Any]:
    """An operation, with what it takes and gives; before it is looked at, any may be refused."""
    responses: dict[str, Any] = {str(status): _content("Success", name) for status, name in answers.items()}
    for status in sorted({*_ALWAYS, *refusals}):
        responses[str(status)] = _content(_REFUSALS[status], "Error")
        if status in _HEADERS:
            responses[str(status)]["headers"] = _HEADERS[status]
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True} | _content("", body)
        del operation["requestBody"]["description"]
    return operation


def _rank() -> dict[str, Any]:
    """One request or many, in either format; an answer has the format of its request."""
    operation = _operation("Rank candidates for a person, or for many at once", "RankBody", {200: "RankResult"}, (422,))
    for holder in (operation["requestBody"], *operation["responses"].values()):
        holder["content"]["application/msgpack"] = holder["content"]["application/json"]
    return operation


def _lines(name: str, operation: dict[str, Any]) -> dict[str, Any]:
    """The same, which also takes one of these a line."""
    operation["requestBody"]["content"]["application/x-ndjson"] = {"schema": rows(name)}
    return operation


def _public(operation: dict[str, Any]) -> dict[str, Any]:
    """The same, for which nobody needs a key."""
    for status in ("401", "403", "429"):
        del operation["responses"][status]
    return operation | {"security": []}


def _optional(operation: dict[str, Any]) -> dict[str, Any]:
    """The same, which also takes nothing."""
    operation["requestBody"]["required"] = False
    return operation


def _export() -> dict[str, Any]:
    """One object a line."""
    operation = _operation(
        "Say everything that is known of a person: the state, then every entry", None, {200: "Known"}, (422,)
    )
    content = operation["responses"]["200"]["content"]
    content["application/x-ndjson"] = content.pop("application/json")
    return operation


def _content(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _by_id(**operations: dict[str, Any]) -> dict[str, Any]:
    parameter = {"name": "id", "in": "path", "required": True, "schema": ID}
    return {"parameters": [parameter], **operations}
