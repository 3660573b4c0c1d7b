"""Targets: what strangers send, and what a client gets back."""

import gzip
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx
import msgspec

from deployments.client import HeadraceError, _read
from deployments.errors import ApiError
from deployments.http import MAX_BODY_BYTES, decode_segment, gunzip
from deployments.rank_body import CODECS, JSON_CODEC, RankCodec
from deployments.rank_request import RankRequest, check_request
from features.decisions import check_decision, new_decision
from features.errors import InvalidInput
from features.events import LoggedAttributes, check_event, parse_attributes, parse_event
from features.intake import attributes_record
from features.keys import Keys
from features.schema import Schema
from tests.features.examples import T0_MS
from tests.fuzz.house import TOKEN, House
from tests.fuzz.targets import Target, run_async

KEYS, SCHEMA, HOUSE = Keys(), Schema(), House()
CONTEXT: Final[dict[str, Any]] = {"device": "tv", "n": 3, "x": 0.5, "is": True, "no": None}
PLAIN_EVENT: Final = {"type": "click", "user": "u1", "item": "b", "id": "e1", "ts_ms": T0_MS, "value": 2.5}
EVENT: Final = {**PLAIN_EVENT, "context": CONTEXT}
ATTRIBUTES: Final = {"attributes": {"category": "x", "tags": ["a", "b"], "price": 1.5, "more": None}}
RANK: Final = {"user": "u1", "candidates": ["a", "b", "ä"], "context": CONTEXT, "limit": 2, "explain": True}
ROUTES: Final = (
    ("POST", "/v1/rank", b"application/json"),
    ("POST", "/v1/rank", b"application/msgpack"),
    ("POST", "/v1/events", b"application/json"),
    ("POST", "/v1/events", b"application/x-ndjson"),
    ("POST", "/v1/items", b"application/json"),
    ("POST", "/v1/items", b"application/x-ndjson"),
    ("PUT", "/v1/items/a", b""),
    ("PUT", "/v1/users/u1", b""),
    ("POST", "/v1/model/rollback", b""),
    ("POST", "/v1/model/resume", b""),
    ("POST", "/v1/sources/quarantine", b""),
    ("POST", "/v1/sources/release", b""),
    ("GET", "/v1/items/", b""),
    ("GET", "/v1/users/", b""),
    ("DELETE", "/v1/users/", b""),
    ("GET", "/v1/audit?", b""),
)
json: Final = msgspec.json.encode
msgpack: Final = msgspec.msgpack.encode


def _ranks(codec: RankCodec) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        body = codec.decode(data)
        for request in [body] if isinstance(body, RankRequest) else body:
            if isinstance(request, RankRequest):
                check_request(request, is_event_clock=True)

    return run


def _event(data: bytes) -> None:
    event = parse_event(data)
    check_event(event, SCHEMA, T0_MS, any_time=True)
    if event.decision is not None:
        check_decision(event.decision, event.user, KEYS)


def _attributes(data: bytes) -> None:
    stated = LoggedAttributes("a", parse_attributes(data).attributes, T0_MS)
    attributes_record("item", stated, SCHEMA, KEYS)
    attributes_record("user", stated, SCHEMA, KEYS)


def _route(data: bytes) -> None:
    """The first byte says the route, its highest bit that the body is compressed; of some the rest is the id."""
    choice, rest = data[0] if data else 0, data[1:]
    method, path, media_type = ROUTES[(choice & 127) % len(ROUTES)]
    raw_path, body = (path.encode() + rest, b"") if path.endswith("/") else (path.encode(), rest)
    if path.endswith("?"):
        raw_path, scope_query, body = path[:-1].encode(), rest, b""
    else:
        scope_query = b""
    key = (b"authorization", f"Bearer {TOKEN}".encode())
    headers = [key, (b"content-type", media_type), *([(b"content-encoding", b"gzip")] if choice & 128 else [])]
    scope = {"type": "http", "method": method, "raw_path": raw_path, "headers": headers, "query_string": scope_query}
    status = run_async(_asked({**scope, "path": raw_path.decode("latin-1")}, body))
    assert status < 500, f"{method} {path}: {status}"


async def _asked(scope: dict[str, Any], body: bytes) -> int:
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    await HOUSE(scope, receive, send)
    return max(statuses)


def _route_seeds() -> Sequence[bytes]:
    rows = [json(EVENT), json({"id": "a", **ATTRIBUTES})]
    bodies = [json(RANK), msgpack(RANK), json({"events": [EVENT]}), rows[0] + b"\n" + rows[0]]
    bodies += [json({"items": [{"id": "a", **ATTRIBUTES}]}), rows[1] + b"\n" + rows[1], *[json(ATTRIBUTES)] * 2]
    bodies += [json({"version": 3, "who": "ann"}), json({"who": "bob"}), *[json({"source": "app"})] * 2]
    plain = [bytes([n]) + body for n, body in enumerate([*bodies, b"a", b"%C3%A4", b"u1", b"last=7"])]
    return [*plain, *(bytes([one[0] | 128]) + gzip.compress(one[1:], mtime=0) for one in plain[:8])]


def _ranked_seeds(encode: Callable[[Any], bytes]) -> Callable[[], Sequence[bytes]]:
    return lambda: [encode(RANK), encode({"requests": [RANK, {"user": "u2", "candidates": ["a"]}, {"user": 7}]})]


def _client(data: bytes) -> None:
    status, body = (200 + 300 * (data[0] % 2), data[1:]) if data else (200, b"")
    _read(httpx.Response(status, content=body, request=httpx.Request("GET", "http://test")))


TARGETS: Final = (
    Target(
        name="rank body, JSON",
        run=_ranks(JSON_CODEC),
        seeds=_ranked_seeds(json),
        errors=(ApiError,),
    ),
    Target(
        name="rank body, msgpack",
        run=_ranks(CODECS["application/msgpack"]),
        seeds=_ranked_seeds(msgpack),
        errors=(ApiError,),
    ),
    Target(
        name="event",
        run=_event,
        seeds=lambda: [json(EVENT), json({**EVENT, "decision": new_decision("u1", KEYS), "source": "app"})],
        errors=(InvalidInput,),
    ),
    Target(name="attributes", run=_attributes, seeds=lambda: [json(ATTRIBUTES)], errors=(InvalidInput,)),
    Target(name="routes", run=_route, seeds=_route_seeds, errors=()),
    Target(
        name="gzip",
        run=lambda data: gunzip(data, MAX_BODY_BYTES),
        seeds=lambda: [gzip.compress(body, mtime=0) for body in (b"", json(RANK), bytes(1 << 19), bytes(2 << 20))],
        errors=(ApiError,),
    ),
    Target(
        name="path segment",
        run=lambda data: decode_segment(data.decode("latin-1")),
        seeds=lambda: [b"u1", b"a%2Fb%20c", b"%C3%A4", b"%F0%9F%98%80"],
        errors=(ApiError,),
    ),
    Target(
        name="decision id",
        run=lambda data: check_decision(data.decode("latin-1"), "u1", KEYS),
        seeds=lambda: [new_decision("u1", KEYS).encode(), new_decision("u2", KEYS).encode()],
        errors=(InvalidInput,),
    ),
    Target(
        name="answer, in the client",
        run=_client,
        seeds=lambda: [b"\0" + json({"items": []}), b"\1" + json({"error": {"code": "x"}}), b"\1<html>"],
        errors=(HeadraceError,),
    ),
)
