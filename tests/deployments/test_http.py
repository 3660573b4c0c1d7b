"""The ASGI plumbing, driven directly: no server, no Ray."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest

from deployments.errors import InvalidError, OverloadedError
from deployments.gate import KNOWN, MAX_BODY_BYTES
from deployments.http import NO_CONTENT, App, Request, Response, gunzip, json_response


async def echo(request: Request) -> Response:
    """Say what arrived."""
    return json_response({"n_bytes": len(request.body), "params": request.params, "type": request.content_type})


async def nothing(_request: Request) -> Response:
    """Answer 204."""
    return NO_CONTENT


async def accepted(_request: Request) -> Response:
    """Answer 202."""
    return json_response({"accepted": 1}, 202)


async def invalid(_request: Request) -> Response:
    """Refuse a field."""
    raise InvalidError("expected at most 1000 candidates, got 1001", path="$.candidates")


async def overloaded(_request: Request) -> Response:
    """Refuse by load."""
    raise OverloadedError("full", retry_after_s=1.2)


async def broken(_request: Request) -> Response:
    """Fail as only a defect does."""
    raise RuntimeError("a secret detail")


def build() -> App:
    app = App()
    app.add("POST", "/v1/rank", echo, KNOWN)
    app.add("GET", "/v1/users/{id}", echo, KNOWN)
    app.add("DELETE", "/v1/users/{id}", nothing, KNOWN)
    app.add("GET", "/v1/users/{id}/more", echo, KNOWN)
    app.add("POST", "/v1/events", accepted, KNOWN)
    app.add("GET", "/invalid", invalid, KNOWN)
    app.add("GET", "/overloaded", overloaded, KNOWN)
    app.add("GET", "/broken", broken, KNOWN)
    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as connected:
        yield connected


async def drive(app: App, messages: Iterable[dict[str, Any]], **scope: Any) -> list[dict[str, Any]]:
    """Run one scope against given messages; return what the app sent."""
    waiting = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "headers": [], **scope}, receive, send)
    return sent


async def test_an_exact_path_answers_with_its_handler(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/rank", content=b"{}", headers={"content-type": "Application/JSON; charset=utf-8"})
    assert (answer.status_code, answer.json()["n_bytes"], answer.json()["type"]) == (200, 2, "application/json")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/", "/v1/rank/", "/v1/rankx", "/v1/users/", "/v1/users/a/b", "/v1/users/a/less"])
async def test_an_unknown_path_is_404_as_json(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(("path", "allow"), [("/v1/rank", "POST"), ("/v1/users/a", "DELETE, GET")])
async def test_a_wrong_method_is_405_and_names_the_right_ones(client: httpx.AsyncClient, path: str, allow: str) -> None:
    answer = await client.put(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    ("segment", "decoded"), [("a", "a"), ("a%2Fb%20c", "a/b c"), ("%C3%A4", "ä"), ("a%3Fb", "a?b"), ("a+b", "a+b")]
)
async def test_a_parameter_is_percent_decoded(client: httpx.AsyncClient, segment: str, decoded: str) -> None:
    answer = await client.get(f"/v1/users/{segment}/more")
    assert answer.json()["params"] == {"id": decoded}


@pytest.mark.parametrize(
    "raw_path", [b"/v1/users/%zz", b"/v1/users/%4", b"/v1/users/%ff", b"/v1/users/%", b"/v1/users/\xff"]
)
async def test_a_bad_escape_is_400(raw_path: bytes) -> None:
    sent = await drive(build(), [{"type": "http.request"}], method="GET", path="/v1/users/?", raw_path=raw_path)
    assert sent[0]["status"] == 400


async def test_202_and_204_have_the_right_bodies(client: httpx.AsyncClient) -> None:
    taken, gone = await client.post("/v1/events"), await client.delete("/v1/users/a")
    assert (taken.status_code, taken.json()) == (202, {"accepted": 1})
    assert (gone.status_code, gone.content, "content-length" in gone.headers) == (204, b"", False)


async def test_an_api_error_is_its_json(client: httpx.AsyncClient) -> None:
    answer = await client.get("/invalid")
    message = "expected at most 1000 candidates, got 1001"
    assert answer.status_code == 422
    assert answer.json() == {"error": {"code": "invalid", "message": message, "path": "$.candidates"}}


async def test_retry_after_is_whole_seconds_rounded_up(client: httpx.AsyncClient) -> None:
    answer = await client.get("/overloaded")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


async def test_a_defect_is_500_without_details_and_logged_with_them(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 413)])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_limit_counts_the_decompressed_body(
    client: httpx.AsyncClient, excess: int, status: int, encoding: str
) -> None:
    body = bytes(MAX_BODY_BYTES + excess)
    sent = gzip.compress(body) if encoding == "gzip" else body
    answer = await client.post("/v1/rank", content=sent, headers={"content-encoding": encoding})
    assert answer.status_code == status


def test_a_bomb_is_stopped_at_the_limit() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    with pytest.raises(Exception, match="exceeds 1048576 bytes after decompression"):
        gunzip(bomb, MAX_BODY_BYTES)


@pytest.mark.parametrize(
    "raw", [b"", b"no gzip", gzip.compress(b"cut off", mtime=0)[:-4], gzip.compress(b"a", mtime=0) + b"tail"]
)
async def test_broken_gzip_is_400(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post("/v1/rank", content=raw, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")


async def test_an_unknown_content_encoding_is_415(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/rank", content=b"x", headers={"content-encoding": "br"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_body_in_pieces_is_put_together() -> None:
    pieces = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"}]
    sent = await drive(build(), pieces, method="POST", path="/v1/rank", raw_path=b"/v1/rank")
    assert json.loads(sent[1]["body"])["n_bytes"] == 3


async def test_a_client_that_leaves_midway_gets_nothing_and_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    pieces = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}]
    assert await drive(build(), pieces, method="POST", path="/v1/rank", raw_path=b"/v1/rank") == []
    assert caplog.text == ""


async def test_the_lifespan_runs_its_hooks() -> None:
    seen: list[str] = []

    async def start() -> None:
        seen.append("start")

    async def stop() -> None:
        seen.append("stop")

    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await drive(App(on_start=start, on_stop=stop), events, type="lifespan")
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen == ["start", "stop"]


async def test_a_failed_start_is_reported() -> None:
    async def start() -> None:
        raise OSError("no store")

    sent = await drive(App(on_start=start), [{"type": "lifespan.startup"}], type="lifespan")
    assert sent == [{"type": "lifespan.startup.failed", "message": "no store"}]


@pytest.mark.parametrize("path", ["/a/{x}{y}", "/a/b{x}", "/a/{x}b", "/a/{}"])
def test_a_route_with_more_than_one_whole_segment_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="at most one parameter"):
        App().add("GET", path, echo, KNOWN)


def test_a_route_is_added_once() -> None:
    app = build()
    with pytest.raises(ValueError, match="routed twice"):
        app.add("POST", "/v1/rank", echo, KNOWN)
