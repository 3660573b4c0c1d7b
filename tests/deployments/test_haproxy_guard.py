"""The real HAProxy: who floods, is slow or knocks without end gets no further."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.haproxy_guard import MAX_HEALTH, MAX_UNAUTHORIZED
from tests.deployments.test_haproxy_shedding import Front, is_open, until

HEAD_S = 0.5
MAX_CONNECTIONS = 20
HOLD_MS = 300


class Replica:
    """Answers by key: `flood` is held back, `bad` and who has none gets 401, anybody else what they want."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        """Requests that got here, by key."""
        self.revoked: set[str] = set()
        self.port = 0
        self._server: asyncio.Server
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await until(lambda: not self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            self._open.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                await reader.readexactly(int(fields.get("content-length", 0)))
                key = fields.get("authorization", "bad").removeprefix("bearer ")
                self.seen[key] += 1
                status, more = "200 OK", ""
                if " /v1/health " in head:
                    pass
                elif key.startswith("flood"):
                    status, more = "429 Too Many Requests", f"headrace-hold-ms: {HOLD_MS}\r\n"
                elif key.startswith("bad") or key in self.revoked:
                    status = "401 Unauthorized"
                writer.write(f"HTTP/1.1 {status}\r\n{more}content-length: 2\r\n\r\n{{}}".encode())


class Setup:
    """HAProxy, one replica of each application, and a client."""

    def __init__(self, port: int, ranker: Replica, events: Replica, http: httpx.AsyncClient) -> None:
        self.port, self.ranker, self.events, self.http = port, ranker, events, http

    async def ask(self, key: str | None, path: str = "/v1/rank") -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.post(path, content=b"{}", headers=headers)

    async def many(self, n: int, key: str | None, path: str = "/v1/rank") -> Counter[int]:
        """Statuses of requests one after the other."""
        return Counter([(await self.ask(key, path)).status_code for _ in range(n)])


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Setup]:
    ranker, events = Replica(), Replica()
    await ranker.start()
    await events.start()
    front = Front(tmp_path, [ranker.port], events.port, head_s=HEAD_S, max_connections=MAX_CONNECTIONS)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.front}", timeout=15) as http:
            await until(lambda: is_open(front.front))
            yield Setup(front.front, ranker, events, http)
    finally:
        front.close()
        await ranker.close()
        await events.close()


async def test_a_key_that_a_replica_refused_for_its_rate_is_held_back_and_no_other_one_is(one: Setup) -> None:
    first = await one.ask("flood")
    assert first.status_code == 429 and "headrace-hold-ms" not in first.headers
    refused = await one.ask("flood")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate"
    assert one.ranker.seen["flood"] == 1
    assert await one.many(20, "good") == {200: 20} and await one.many(5, "flood-of-others") == {429: 5}


async def test_what_a_replica_said_of_a_key_holds_at_all_doors_and_ends(one: Setup) -> None:
    began_s = time.monotonic()
    await one.ask("flood", "/v1/events")
    await until_asked_again(one)
    assert time.monotonic() - began_s >= HOLD_MS / 1000
    assert one.ranker.seen["flood"] == 1


async def until_asked_again(one: Setup) -> None:
    async with asyncio.timeout(10):
        while not one.ranker.seen["flood"]:
            await one.ask("flood")


async def test_an_address_that_knocks_without_end_gets_no_further_but_those_with_a_key_do(one: Setup) -> None:
    assert await one.many(3, "good") == {200: 3}
    statuses = Counter[int]()
    for number in range(3 * MAX_UNAUTHORIZED):  # a new key each time, as who guesses would have it
        statuses += await one.many(1, f"bad-{number}")
    assert statuses[401] <= 2 * MAX_UNAUTHORIZED and statuses[429] > 0
    assert await one.many(1, None) == {429: 1}
    assert await one.many(20, "good") == {200: 20}
    assert (await one.http.get("/v1/health")).status_code == 200


async def test_asking_for_health_makes_no_key_good(one: Setup) -> None:
    headers = {"authorization": "Bearer bad"}
    assert (await one.http.get("/v1/health", headers=headers)).status_code == 200
    statuses = await one.many(3 * MAX_UNAUTHORIZED, "bad")
    assert statuses[401] <= 2 * MAX_UNAUTHORIZED and statuses[429] > 0


async def test_a_key_that_was_taken_away_is_none(one: Setup) -> None:
    assert await one.many(3, "gone") == {200: 3}
    one.ranker.revoked.add("gone")
    statuses = await one.many(3 * MAX_UNAUTHORIZED, "gone")
    assert statuses[401] <= 2 * MAX_UNAUTHORIZED and statuses[429] > 0


async def test_health_is_told_so_often_and_what_has_a_key_goes_on(one: Setup) -> None:
    statuses = Counter([(await one.http.get("/v1/health")).status_code for _ in range(3 * MAX_HEALTH)])
    assert statuses[200] <= 2 * MAX_HEALTH and statuses[429] > 0
    assert await one.many(5, "good") == {200: 5}


async def said(port: int, begun: bytes) -> bytes:
    """All that is answered, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begun)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_who_sends_a_head_slowly_is_told_so_and_cut_off(one: Setup) -> None:
    assert (await said(one.port, b"POST /v1/rank HTTP/1.1\r\nhost: x\r\n")).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/events"])
async def test_who_sends_a_body_slowly_never_gets_to_a_replica(one: Setup, path: str) -> None:
    answer = await said(one.port, f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"slow"' in answer
    assert not one.ranker.seen and not one.events.seen


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"x-%d: y\r\n" % number for number in range(200)),
        b"x: " + b"y" * 20_000 + b"\r\n",
        b"no colon\r\n",
        b"content-length: 1\r\ncontent-length: 2\r\n",
    ],
    ids=["many fields", "a long field", "no field", "two lengths"],
)
async def test_a_head_that_is_none_is_refused(one: Setup, head: bytes) -> None:
    answer = await said(one.port, b"POST /v1/rank HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not one.ranker.seen


async def test_one_address_has_so_many_connections_and_gets_more_when_some_are_over(one: Setup) -> None:
    await one.http.aclose()
    held = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(MAX_CONNECTIONS)]
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", one.port), 5.0) as beyond:
        beyond.sendall(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert beyond.recv(100) == b""
    for one_held in held:
        one_held.close()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{one.port}") as http, asyncio.timeout(10):
        while True:
            with contextlib.suppress(httpx.TransportError):
                assert (await http.post("/v1/rank", headers={"authorization": "Bearer good"})).status_code == 200
                return


async def test_which_routes_there_are_is_not_told(one: Setup) -> None:
    assert (await one.http.get("/-/routes")).status_code == 404
