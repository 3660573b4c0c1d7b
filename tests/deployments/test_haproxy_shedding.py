"""The real HAProxy in front of servers that answer when they are told to: what it refuses, until when, and what it
asks again.
"""

import asyncio
import contextlib
import socket
import subprocess
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.haproxy import write_haproxy_wrapper

MAX, CALM, LEAST = 4, 2, 1
QUIET_S = 1.05  # a second without a refusal, and the milliseconds that HAProxy counts in

HEAD = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    option redispatch 1
    retry-on conn-failure
    option idle-close-on-response
    errorfile 502 /nowhere/500.http
    errorfile 503 /nowhere/500.http
frontend prometheus
    bind :{pages}
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind 127.0.0.1:{front}
    acl is_http-rank path_beg /v1/rank/
    acl is_http-rank path /v1/rank
    acl is_http-events path_beg /
    acl is_http-events path /
"""
ROUTES = """    use_backend http-rank if is_http-rank
    use_backend http-events if is_http-events
backend http-rank
    http-reuse always
{ranks}
backend http-events
    server events 127.0.0.1:{events} check
"""


class Held:
    """A server that holds every request until `let_go`, and keeps its head."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.n_in_flight = 0
        self.open = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server
        self._writers: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()

    async def start(self) -> asyncio.Server:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self._server

    def die(self) -> None:
        """Drop every connection, and take no more."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                sizes = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length:")]
                await reader.readexactly(int(sizes[0]) if sizes else 0)
                self.heads.append(head)
                self.n_in_flight += 1
                await self.open.wait()
                self.n_in_flight -= 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()


class Front:
    """HAProxy, started by the wrapper from a configuration as Ray writes it."""

    def __init__(self, folder: Path, ranks: list[int], events: int, **guard: Any) -> None:
        self.front, self.pages = free_port(), free_port()
        self._folder, self._ranks, self._events = folder, ranks, events
        self._wrapper = write_haproxy_wrapper(
            folder, "127.0.0.1", max_in_flight=MAX, calm_in_flight=CALM, least_in_flight=LEAST, **guard
        )
        self._processes = [self._spawn()]

    def reload(self) -> None:
        """Start anew as Ray does: the file is written again, the process before it finishes what it has."""
        self._processes.append(self._spawn("-sf", str(self._processes[-1].pid)))

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.terminate()
            process.wait(10)

    def _spawn(self, *extra: str) -> subprocess.Popen[bytes]:
        ranks = "\n".join(
            f"    server rank{number} 127.0.0.1:{port} check inter 100ms fall 1"
            for number, port in enumerate(self._ranks)
        )
        head = HEAD.format(folder=self._folder, pages=self.pages, front=self.front)
        config = self._folder / "haproxy.cfg"
        config.write_text(head + ROUTES.format(ranks=ranks, events=self._events))
        return subprocess.Popen(
            [self._wrapper, "-db", "-f", config, *extra], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Setup:
    """Two replicas of the ranker, one of events, HAProxy, and a client."""

    def __init__(self, front: Front, ranks: list[Held], events: Held, http: httpx.AsyncClient) -> None:
        self.front, self.ranks, self.events, self.http = front, ranks, events, http
        self._tasks: list[asyncio.Task[httpx.Response]] = []

    @property
    def n_in_flight(self) -> int:
        """Rank requests that have reached a replica."""
        return sum(rank.n_in_flight for rank in self.ranks)

    async def fill(self, n_requests: int) -> None:
        """Have so many rank requests under way."""
        self._tasks += [asyncio.create_task(self.rank()) for _ in range(n_requests)]
        await until(lambda: self.n_in_flight == len(self._tasks))

    async def drain(self) -> None:
        """Let everything be answered, and nothing after it."""
        for rank in self.ranks:
            rank.open.set()
        assert [answer.status_code for answer in await asyncio.gather(*self._tasks)] == [200] * len(self._tasks)
        for rank in self.ranks:
            rank.open.clear()
        self._tasks.clear()

    async def rank(self, path: str = "/v1/rank", **options: Any) -> httpx.Response:
        """POST one rank request."""
        return await self.http.post(path, content=b'{"user":"u"}', **options)

    async def is_taken(self) -> bool:
        """Whether one more rank request is let in; it stays under way."""
        before = self.n_in_flight
        task = asyncio.create_task(self.rank())
        await until(lambda: task.done() or self.n_in_flight > before)
        if task.done():
            assert task.result().status_code == 429
            return False
        self._tasks.append(task)
        return True

    @contextlib.asynccontextmanager
    async def flood(self) -> AsyncIterator[list[httpx.Response]]:
        """Have eight clients ask and ask again; yields the refusals, more and more."""
        refused: list[httpx.Response] = []
        is_over = asyncio.Event()

        async def ask() -> None:
            while not is_over.is_set():
                if (answer := await self.rank()).status_code == 429:
                    refused.append(answer)

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        try:
            yield refused
        finally:
            is_over.set()
            for rank in self.ranks:
                rank.open.set()
            await asyncio.gather(*asking)
            for rank in self.ranks:
                rank.open.clear()

    async def quiet(self) -> None:
        """Refuse nothing for a second."""
        until_s = time.monotonic() + QUIET_S
        await until(lambda: time.monotonic() > until_s)


async def until(condition: Callable[[], bool]) -> None:
    pause = asyncio.Event()
    async with asyncio.timeout(10):
        while not condition():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pause.wait(), 0.005)


@contextlib.asynccontextmanager
async def setup(folder: Path, n_ranks: int) -> AsyncIterator[Setup]:
    ranks, events = [Held() for _ in range(n_ranks)], Held()
    servers = [await held.start() for held in (*ranks, events)]
    events.open.set()
    front = Front(folder, [rank.port for rank in ranks], events.port)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.front}", timeout=15, limits=limits) as http:
        try:
            await until(lambda: is_open(front.front))
            yield Setup(front, ranks, events, http)
        finally:
            for held in ranks:
                held.open.set()
            front.close()
            for server in servers:
                server.close()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Setup]:
    async with setup(tmp_path, 1) as made:
        yield made


async def test_beyond_the_limit_a_request_is_refused_at_once_with_our_answer(one: Setup) -> None:
    await one.fill(MAX)
    for path in ("/v1/rank", "/v1/rank/x"):
        refused = await one.rank(path)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["content-type"] == "application/json"
        assert refused.json()["error"]["code"] == "overloaded"
    assert one.n_in_flight == MAX  # none of it reached the replica
    assert await least_ms(one.rank) < 10
    await one.drain()


async def least_ms(ask: Callable[[], Any]) -> float:
    """The quickest of twenty answers, so that a busy machine decides nothing."""
    took = []
    for _ in range(20):
        start_s = time.perf_counter()
        await ask()
        took.append(1000 * (time.perf_counter() - start_s))
    return min(took)


async def test_other_routes_are_never_refused(one: Setup) -> None:
    await one.fill(MAX)
    assert not await one.is_taken()
    for path in ("/v1/events", "/v1/rankings", "/"):
        assert (await one.rank(path)).status_code == 200
    await one.drain()


async def test_after_a_refusal_the_lower_limit_holds_until_a_second_has_passed_without_one(one: Setup) -> None:
    await one.fill(MAX)
    assert not await one.is_taken()
    await one.drain()
    assert [await one.is_taken() for _ in range(CALM + 1)] == [True] * CALM + [False]
    await one.quiet()
    assert [await one.is_taken() for _ in range(MAX - CALM + 1)] == [True] * (MAX - CALM) + [False]
    await one.drain()


async def test_while_half_is_refused_the_least_limit_holds_and_then_lets_go(one: Setup) -> None:
    await one.fill(MAX)
    async with one.flood() as refused:

        async def settle() -> int:
            """What is in flight after everything was answered and a hundred have been refused since."""
            await one.drain()
            n_before = len(refused)
            await until(lambda: len(refused) > n_before + 100)
            return one.n_in_flight

        await until(lambda: len(refused) > 20)
        async with asyncio.timeout(10):
            while await settle() != LEAST:  # while everything is answered, nothing is refused
                pass
    await one.quiet()
    assert [await one.is_taken() for _ in range(MAX + 1)] == [True] * MAX + [False]
    await one.drain()


async def test_as_many_connections_as_the_limit_in_closed_loop_are_never_refused(one: Setup) -> None:
    one.ranks[0].open.set()

    async def ask() -> set[int]:
        return {(await one.rank()).status_code for _ in range(50)}

    assert await asyncio.gather(*(ask() for _ in range(MAX))) == [{200}] * MAX


async def test_the_limit_counts_per_live_replica(tmp_path: Path) -> None:
    async with setup(tmp_path, 2) as two:
        await two.fill(2 * MAX)
        assert not await two.is_taken()
        assert [rank.n_in_flight for rank in two.ranks] == [MAX, MAX]
        await two.drain()


async def test_a_reload_keeps_the_limit(one: Setup) -> None:
    before = set(one.front._processes)
    one.front.reload()
    await until(lambda: all(process.poll() is not None for process in before))
    await one.fill(MAX)
    assert not await one.is_taken()
    await one.drain()


async def test_ranks_of_a_replica_that_goes_are_answered_by_another_and_events_are_not_sent_again(
    tmp_path: Path,
) -> None:
    async with setup(tmp_path, 2) as two:
        two.events.open.clear()
        sent = asyncio.create_task(two.rank("/v1/events"))
        await until(lambda: two.events.n_in_flight == 1)
        await two.fill(4)
        two.ranks[1].open.set()
        two.ranks[0].die()
        await two.drain()
        two.events.die()
        answer = await sent
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert len(two.events.heads) == 1
        two.events.open.set()


async def test_without_a_replica_the_answer_is_503_and_not_429(tmp_path: Path) -> None:
    async with setup(tmp_path, 0) as none:
        answer = await none.rank()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


async def test_admitted_requests_carry_an_id_and_the_switch(one: Setup) -> None:
    one.ranks[0].open.set()
    await one.rank()
    await one.rank(headers={"x-request-id": "mine"})
    first, second = (head.lower() for head in one.ranks[0].heads)
    assert "x-request-id: " in first and "x-request-id: mine\r\n" in second
    assert all("x-request-disconnect-disabled: ?1\r\n" in head for head in (first, second))


async def test_what_is_refused_is_counted_on_the_prometheus_page(one: Setup) -> None:
    await one.fill(MAX)
    for _ in range(3):
        assert not await one.is_taken()
    page = (await one.http.get(f"http://127.0.0.1:{one.front.pages}/metrics")).text
    assert 'haproxy_frontend_requests_denied_total{proxy="http_frontend"} 3\n' in page
    await one.drain()
