"""The load generator against a tiny server: what it counts, and from when."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable

import pytest

from benchmarks.latency import LOST, REFUSED, LoadResult, Trace, summarize
from benchmarks.load import Load, answer_length
from benchmarks.loadgen import Running, generate, run_load, trace

BODY = b'{"ok":true}'


def answer(status: int = 200, body: bytes = BODY) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class TinyServer(asyncio.Protocol):
    """Answers the n-th request with whatever `respond(n)` gives, after `delay_s(n)`; None closes the connection."""

    n_requests = 0
    bodies: list[bytes]

    def __init__(self, respond: Callable[[int], bytes | None], delay_s: Callable[[int], float]) -> None:
        self._respond, self._delay_s = respond, delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        cls = type(self)
        cls.n_requests += 1
        cls.bodies.append(data.split(b"\r\n\r\n", 1)[1])
        asyncio.get_running_loop().call_later(self._delay_s(cls.n_requests), self._reply, cls.n_requests)

    def _reply(self, number: int) -> None:
        response = self._respond(number)
        if response is None:
            self._transport.abort()
            return
        half = len(response) // 2  # in two pieces, as large answers come
        self._transport.write(response[:half])
        asyncio.get_running_loop().call_soon(self._transport.write, response[half:])


@contextlib.asynccontextmanager
async def tiny_server(
    respond: Callable[[int], bytes | None] = lambda _: answer(), delay_s: Callable[[int], float] = lambda _: 0.0
) -> AsyncIterator[tuple[int, type[TinyServer]]]:
    kind = type("One", (TinyServer,), {"n_requests": 0, "bodies": []})
    server = await asyncio.get_running_loop().create_server(lambda: kind(respond, delay_s), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], kind


def load(port: int, **options: object) -> Load:
    settings = {"bodies": (b"{}",), "duration_s": 0.4, "warmup_s": 0.0, "drain_s": 0.5, **options}
    return Load(port=port, **settings)


async def test_closed_loop_counts_every_answer_and_sends_the_bodies_in_turn():
    async with tiny_server() as (port, server):
        result = await generate(load(port, n_connections=3, bodies=(b'{"a":1}', b'{"b":2}')))
    assert result.errors == {}
    assert 0 <= server.n_requests - result.n <= 3  # those under way at the end
    assert result.rate_per_s == pytest.approx(result.n / 0.4)
    assert set(server.bodies) == {b'{"a":1}', b'{"b":2}'}


async def test_closed_loop_latency_is_that_of_the_server():
    async with tiny_server(delay_s=lambda _: 0.05) as (port, _):
        result = await generate(load(port, n_connections=2))
    assert 50 <= result.p50_ms < 80
    assert result.n <= 2 * 8


async def test_warm_up_is_not_counted():
    async with tiny_server(delay_s=lambda number: 0.2 if number <= 2 else 0.0) as (port, server):
        result = await generate(load(port, warmup_s=0.5))
    assert result.n < server.n_requests
    assert result.max_ms < 150


async def test_open_loop_keeps_its_rate():
    async with tiny_server() as (port, server):
        result = await generate(load(port, rate_per_s=200.0, n_connections=4))
    assert result.n == server.n_requests == 80
    assert result.rate_per_s == pytest.approx(200.0)


async def test_open_loop_latency_counts_from_the_intended_time_when_the_server_stalls():
    """One connection, one stall of 200 ms: the arrivals behind it waited too, though they were sent late."""
    async with tiny_server(delay_s=lambda number: 0.2 if number == 10 else 0.0) as (port, _):
        stalled = await generate(load(port, rate_per_s=100.0))
    assert stalled.n == 40
    assert stalled.max_ms >= 200
    # Arrivals 11 to 20 met a backlog of 190, 180, … ms; a generator that waits politely would show one slow answer.
    assert stalled.p95_ms >= 150


async def test_errors_are_counted_by_status_and_are_no_part_of_the_rate():
    async with tiny_server(lambda number: answer(429 if number % 4 == 0 else 200)) as (port, _):
        result = await generate(load(port, rate_per_s=100.0))
    assert result.errors == {429: 10}
    assert result.rate_per_s == pytest.approx(30 / 0.4)


async def test_a_refused_client_of_the_closed_loop_pauses_and_its_latency_is_told_apart():
    """Every other answer of one connection is a 429 after 20 ms: a client that hammers would send 40 requests."""
    async with tiny_server(
        lambda number: answer(REFUSED if number % 2 else 200), lambda number: 0.02 if number % 2 else 0.0
    ) as (port, _):
        result = await generate(load(port))
    assert 4 <= result.errors[REFUSED] <= 6
    assert result.refused_p99_ms is not None and 20 <= result.refused_p99_ms < 40
    assert result.max_ms < 15


async def test_arrivals_of_the_open_loop_do_not_pause_for_a_refusal():
    async with tiny_server(lambda _: answer(REFUSED)) as (port, _):
        result = await generate(load(port, rate_per_s=100.0))
    assert result.errors == {REFUSED: 40}
    assert math.isnan(result.p99_ms)


async def test_rates_follow_each_other_without_a_gap():
    async with tiny_server() as (port, _):
        found = await asyncio.to_thread(trace, load(port, rate_per_s=100.0, then=((400.0, 0.2), (50.0, 0.2))))
    assert [found.summary(*span).n for span in ((-1.0, 0.399), (0.399, 0.599), (0.599, 1.0))] == [40, 80, 10]
    assert [window.n for window in found.windows(0.399)] == [40, 90]


async def test_more_connections_than_select_could_watch():
    async with tiny_server() as (port, _):
        result = await generate(load(port, n_connections=600, duration_s=0.3, warmup_s=0.3))
    assert result.errors == {}
    assert result.n > 0


async def test_a_closed_connection_is_a_lost_request_and_is_opened_again():
    async with tiny_server(lambda number: None if number == 5 else answer()) as (port, server):
        result = await generate(load(port, rate_per_s=50.0))
    assert result.errors == {LOST: 1}
    assert result.n == server.n_requests == 20


async def test_a_server_that_stops_answering_is_told_as_lost_requests():
    async with tiny_server(delay_s=lambda number: 60.0 if number > 10 else 0.0) as (port, _):
        result = await generate(load(port, rate_per_s=50.0, drain_s=0.1))
    assert result.n == 20
    assert result.errors == {LOST: 10}
    assert result.max_ms < 100  # latencies are those of answers


async def test_a_trace_comes_whole_from_another_process():
    async with tiny_server() as (port, _):
        found = await asyncio.to_thread(lambda: Running(load(port, rate_per_s=100.0)).result())
    assert isinstance(found, Trace)
    assert (len(found.at_s), set(found.status.tolist())) == (40, {200})
    assert found.at_s.tolist() == pytest.approx([number / 100.0 for number in range(40)], abs=1e-6)


async def test_a_process_of_its_own_gives_the_same_kind_of_result():
    async with tiny_server() as (port, _):
        result = await asyncio.to_thread(run_load, load(port, rate_per_s=100.0))
    assert isinstance(result, LoadResult)
    assert (result.n, result.errors) == (40, {})
    assert 0 < result.cpu_ratio < 0.9


def test_percentiles_are_nearest_rank():
    result = summarize([i / 1000.0 for i in range(1, 1001)], {200: 1000}, 2.0, 0.1)
    assert (result.p50_ms, result.p95_ms, result.p99_ms, result.p999_ms) == pytest.approx((500, 950, 990, 999))
    assert result.max_ms == pytest.approx(1000)
    assert result.rate_per_s == 500


def test_the_length_of_an_answer_needs_its_whole_head():
    whole = answer(200, b"12345")
    assert answer_length(whole[:20]) == 0
    assert answer_length(whole) == len(whole)
    with pytest.raises(ValueError, match="content-length"):
        answer_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    "wrong", [{"bodies": ()}, {"n_connections": 0}, {"duration_s": 0.0}, {"rate_per_s": -1.0}, {"then": ((1.0, 1.0),)}]
)
def test_a_load_that_makes_no_sense_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValueError, match=r"load needs|rate_per_s|then"):
        load(1, **wrong)
