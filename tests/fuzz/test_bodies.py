"""Bodies, paths and headers that no description would think of: whoever sends them hears 4xx, and others are served."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import msgspec
import pytest

from tests.fuzz.house import KEY, House

DEPTH: Final = 100_000
JSON, MSGPACK, LINES = "application/json", "application/msgpack", "application/x-ndjson"
ROUTES: Final = (
    ("POST", "/v1/rank", JSON),
    ("POST", "/v1/rank", MSGPACK),
    ("POST", "/v1/events", JSON),
    ("POST", "/v1/events", LINES),
    ("POST", "/v1/items", JSON),
    ("POST", "/v1/items", LINES),
    ("PUT", "/v1/items/a", JSON),
    ("PUT", "/v1/users/u1", JSON),
    ("POST", "/v1/model/rollback", JSON),
    ("POST", "/v1/model/resume", JSON),
    ("POST", "/v1/sources/quarantine", JSON),
    ("POST", "/v1/sources/release", JSON),
)
FIELDS: Final = ("user", "candidates", "context", "requests", "events", "items", "attributes", "source", "who")
BODIES: Final = {
    "no UTF-8": [b'{"%s":"\xff\xfe"}' % name.encode() for name in FIELDS],
    "no UTF-8 in a row": [b'{"%s":[{"user":"\xff"}]}' % name.encode() for name in FIELDS if name != "requests"],
    "nested": [b'{"%s":%s' % (name.encode(), opening * DEPTH) for name in FIELDS for opening in (b"[", b'{"a":')],
    "nested in what is unknown": [b'{"colour":' + b"[" * DEPTH, b"[" * DEPTH],
    "nested msgpack": [b"\x81" + msgspec.msgpack.encode(name) + b"\x91" * DEPTH for name in (*FIELDS, "colour")],
    "no UTF-8 in msgpack": [b"\x81" + msgspec.msgpack.encode(name) + b"\xa2\xff\xfe" for name in FIELDS],
    "more announced than there is": [b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
    + [b"\x81" + msgspec.msgpack.encode(name) + b"\xdd\x7f\xff\xff\xff" for name in FIELDS],
    "surrogates": [b'{"%s":"\\ud800"}' % name.encode() for name in FIELDS],
    "huge numbers": [b'{"%s":%s}' % (name.encode(), b"9" * n) for name in FIELDS for n in (20, 400, 5000)],
    "not JSON": [b"\x00", b"\xff", b"nul", b'{"user":', b"\xef\xbb\xbf{}", b"[1,2", b'"', b"{}{}", b"NaN"],
    "of another kind": [b"0", b"1e999", b"true", b'""', b"[]", b"[[]]", b"[{}]", b"{" + b'"a":1,' * 1000 + b'"b":2}'],
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=House())
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=KEY) as connected:
        yield connected


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(("method", "path", "media_type"), ROUTES)
async def test_a_body_that_is_none_is_refused_and_not_our_fault(
    client: httpx.AsyncClient, method: str, path: str, media_type: str, kind: str
) -> None:
    for body in BODIES[kind]:
        answer = await client.request(method, path, content=body, headers={"content-type": media_type})
        assert 400 <= answer.status_code < 500, (body[:40], answer.content)
    assert (await client.get("/v1/health")).status_code == 200


@pytest.mark.parametrize("broken", [b'{"user":"\xff"}', b'{"type":"click","user":"u","item":"\xff"}', b"[" * DEPTH])
async def test_one_line_that_cannot_be_read_spoils_no_other(client: httpx.AsyncClient, broken: bytes) -> None:
    good = json.dumps({"type": "click", "user": "u2", "item": "b"}).encode()
    answer = await client.post("/v1/events", content=b"\n".join((good, broken, good)), headers={"content-type": LINES})
    told = answer.json()
    assert (answer.status_code, told["accepted"], [row["index"] for row in told["rejected"]]) == (202, 2, [1])


async def test_one_ranking_that_cannot_be_read_spoils_no_other(client: httpx.AsyncClient) -> None:
    good, broken = b'{"user":"u1","candidates":["a","b"]}', b'{"user":"\xff","candidates":["a"]}'
    answer = await client.post("/v1/rank", content=b'{"requests":[' + good + b"," + broken + b"]}")
    ranked, refused = answer.json()["answers"]
    assert len(ranked["items"]) == 2 and refused["error"]["code"] == "malformed"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
async def test_numbers_that_are_none_are_refused_in_msgpack(client: httpx.AsyncClient, number: float) -> None:
    body = msgspec.msgpack.encode({"user": "u1", "candidates": ["a"], "context": {"x": number}})
    answer = await client.post("/v1/rank", content=body, headers={"content-type": MSGPACK})
    assert (answer.status_code, msgspec.msgpack.decode(answer.content)["error"]["path"]) == (422, "$.context.x")


@pytest.mark.parametrize("segment", ["%", "%zz", "%ff", "%c3", "%ed%a0%80", "%00", "a" * 5000, "%f0%9f%98%80" * 200])
@pytest.mark.parametrize("entity", ["users", "items"])
async def test_an_id_in_a_path_is_read_or_refused(client: httpx.AsyncClient, entity: str, segment: str) -> None:
    answer = await client.get(f"/v1/{entity}/{segment}")
    assert answer.status_code in ({200, 404} if segment == "%00" else {400, 422})


async def test_a_header_twice_counts_as_its_last(client: httpx.AsyncClient) -> None:
    good = json.dumps({"events": [{"type": "click", "user": "u2", "item": "b"}]}).encode()
    twice = [
        ("headrace-source", "x" * 300),
        ("headrace-source", "app"),
        ("content-type", LINES),
        ("content-type", "a/b"),
    ]
    assert (await client.post("/v1/events", content=good, headers=twice)).status_code == 202


@pytest.mark.parametrize(
    "key", [b"", b"\xff", b"Bearer", b"Bearer \xff", b"Bearer headrace_", b"Bearer " + b"x" * 9999]
)
async def test_a_key_that_is_none_opens_nothing(client: httpx.AsyncClient, key: bytes) -> None:
    assert (await client.get("/v1/model", headers=[(b"authorization", key)])).status_code == 401


@pytest.mark.parametrize("source", [b"", b"\xff", b"\xed\xa0\x80", b"x" * 257])
async def test_a_source_that_is_no_name_is_refused(client: httpx.AsyncClient, source: bytes) -> None:
    good = json.dumps({"events": [{"type": "click", "user": "u2", "item": "b"}]}).encode()
    assert (await client.post("/v1/events", content=good, headers=[(b"headrace-source", source)])).status_code == 400


@pytest.mark.parametrize(("method", "path", "media_type"), ROUTES)
async def test_a_bomb_is_refused_at_every_route(
    client: httpx.AsyncClient, method: str, path: str, media_type: str
) -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    headers = {"content-type": media_type, "content-encoding": "gzip"}
    assert (await client.request(method, path, content=bomb, headers=headers)).status_code == 413


async def test_lengths_that_are_wrong_do_no_harm(client: httpx.AsyncClient) -> None:
    """The server that reads the socket judges them; what it hands on is what there is."""
    good: dict[str, Any] = {"user": "u1", "candidates": ["a"]}
    for length in ("0", "-1", "99999999999", "x"):
        answer = await client.post("/v1/rank", content=json.dumps(good).encode(), headers={"content-length": length})
        assert answer.status_code == 200
