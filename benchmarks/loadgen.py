"""A load generator for HTTP/1.1, cheap enough to share two cores with what it measures.

Precomputed requests over raw asyncio protocols; of an answer only the status and its length are read. Two ways to load:

- *closed loop* (`rate_per_s` None): every connection sends its next request when its answer is complete. Shows the rate
  a system saturates at; its latencies are those of a polite client and hide every stall.
- *open loop*: requests arrive at a fixed rate whatever the system does, wait for a free connection if there is none,
  and their latency counts from the instant they were *meant* to be sent. Shows what people meet.

    result = run_load(Load(port=8000, bodies=bodies, rate_per_s=500.0, n_connections=64, duration_s=10.0))

Invariant: between events the process sleeps; a generator that spins would take one of the two cores. `cpu_ratio` tells
what it took. Requests of the warm-up are sent and not counted; unanswered ones count as lost with the time waited so
far. Not shown: connection set-up (connections are kept), chunked answers (refused), pipelining (none).
"""

import asyncio
import math
import selectors
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

LOST: Final = 0  # "status" of a request that got no answer
RECONNECT_S: Final = 0.05
QUANTILES: Final = (0.5, 0.95, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What to send, how, and for how long."""

    port: int
    bodies: tuple[bytes, ...]
    """Bodies of the requests, sent in turn."""
    path: str = "/v1/rank"
    host: str = "127.0.0.1"
    n_connections: int = 1
    duration_s: float = 5.0
    """Measured time; the warm-up comes before it."""
    warmup_s: float = 1.0
    rate_per_s: float | None = None
    """Arrivals per second; None: closed loop."""
    drain_s: float = 5.0
    """How long answers are waited for after the last request."""

    def __post_init__(self) -> None:
        if not self.bodies or self.n_connections < 1 or self.duration_s <= 0:
            raise ValueError("a load needs a body, a connection and a duration")
        if self.rate_per_s is not None and self.rate_per_s <= 0:
            raise ValueError(f"rate_per_s: expected a positive rate, got {self.rate_per_s}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """What came back during the measured time; latencies of answers with any status."""

    n: int
    rate_per_s: float
    """Answers with status 2xx per second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: dict[int, int]
    """Answers other than 2xx by status; `LOST` for none at all."""
    cpu_ratio: float
    """Share of one core the generator took."""


def requests_of(load: Load) -> list[bytes]:
    """The bytes of every request."""
    head = (
        f"POST {load.path} HTTP/1.1\r\nhost: {load.host}:{load.port}\r\n"
        "content-type: application/json\r\ncontent-length: {}\r\n\r\n"
    )
    return [head.format(len(body)).encode() + body for body in load.bodies]


def summarize(
    latencies_s: Sequence[float], statuses: dict[int, int], duration_s: float, cpu_ratio: float
) -> LoadResult:
    """Nearest-rank percentiles in milliseconds, and counts."""
    values_ms = sorted(latency_s * 1000.0 for latency_s in latencies_s) or [math.nan]
    # Rounded, for 0.999 x 1,000 is a little more than 999 in floating point.
    p50, p95, p99, p999 = (values_ms[math.ceil(round(len(values_ms) * q, 6)) - 1] for q in QUANTILES)
    n_good = sum(count for status, count in statuses.items() if 200 <= status < 300)
    return LoadResult(
        n=sum(statuses.values()),
        rate_per_s=n_good / duration_s,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=values_ms[-1],
        errors={status: count for status, count in statuses.items() if not 200 <= status < 300},
        cpu_ratio=cpu_ratio,
    )


class _Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self, generator: "_Generator") -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._expected = 0
        self.began_s: float | None = None
        """When the request under way was (to be) sent; None while idle."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, began_s: float) -> None:
        """Send one request; the answer goes to the generator."""
        assert self._transport is not None
        self.began_s, self._received, self._expected = began_s, b"", 0
        self._transport.write(request)

    def abort(self) -> None:
        """Close without waiting."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if not self._expected:
            self._expected = answer_length(self._received)
        if self._expected and len(self._received) >= self._expected and self.began_s is not None:
            began_s, self.began_s = self.began_s, None
            self._generator.note(int(self._received[9:12]), began_s)
            self._generator.feed(self)

    def connection_lost(self, error: Exception | None) -> None:
        began_s, self.began_s = self.began_s, None
        self._generator.lose(self, began_s)


def answer_length(received: bytes) -> int:
    """Bytes of the whole answer, head and body; 0 while the head is incomplete.

    Raises:
        ValueError: If the answer does not say how long it is.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = received[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without content-length: {received[:200]!r}")
    return end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])


class _Generator:
    """Closed loop: `feed` a connection as soon as it is free. The open loop changes when and what is fed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = requests_of(load)
        self._n_sent = 0
        self._loop = asyncio.get_running_loop()
        self._connections: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._latencies_s = array("d")
        self._statuses: Counter[int] = Counter()
        self._from_s = self._until_s = 0.0

    async def run(self) -> LoadResult:
        """Connect, warm up, measure, wait for the last answers."""
        for _ in range(self._load.n_connections):
            self._connections.append(await self._connect())
        self._from_s = self._loop.time() + self._load.warmup_s
        self._until_s = self._from_s + self._load.duration_s
        self._begin()
        await asyncio.sleep(self._load.warmup_s)
        cpu_s, wall_s = time.process_time(), self._loop.time()
        await asyncio.sleep(self._until_s - self._loop.time())
        cpu_ratio = (time.process_time() - cpu_s) / (self._loop.time() - wall_s)
        await self._drain()
        return summarize(self._latencies_s, dict(self._statuses), self._load.duration_s, cpu_ratio)

    def feed(self, connection: _Connection) -> None:
        """Give a free connection something to do."""
        now_s = self._loop.time()
        if now_s < self._until_s:
            connection.send(self._next_request(), now_s)

    def note(self, status: int, began_s: float) -> None:
        """Record an answer, if it belongs to the measured time."""
        now_s = self._loop.time()
        if self._is_measured(began_s, now_s):
            self._statuses[status] += 1
            self._latencies_s.append(now_s - began_s)

    def lose(self, connection: _Connection, began_s: float | None) -> None:
        """Record a lost answer, and connect again."""
        if connection not in self._connections:
            return  # closed by `_drain`
        if began_s is not None:
            self.note(LOST, began_s)
        self._connections.remove(connection)
        task = self._loop.create_task(self._reconnect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin(self) -> None:
        for connection in self._connections:
            self.feed(connection)

    def _is_measured(self, began_s: float, now_s: float) -> bool:
        del began_s
        return self._from_s <= now_s < self._until_s

    def _is_done(self) -> bool:
        return all(connection.began_s is None for connection in self._connections)

    def _next_request(self) -> bytes:
        self._n_sent += 1
        return self._requests[self._n_sent % len(self._requests)]

    async def _connect(self) -> _Connection:
        _, connection = await self._loop.create_connection(lambda: _Connection(self), self._load.host, self._load.port)
        return connection

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(RECONNECT_S)
            try:
                connection = await self._connect()
            except OSError:
                continue
            self._connections.append(connection)
            self.feed(connection)
            return

    async def _drain(self) -> None:
        deadline_s = self._loop.time() + self._load.drain_s
        while not self._is_done() and self._loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        connections, self._connections = self._connections, []
        for connection in connections:
            if connection.began_s is not None:
                self.note(LOST, connection.began_s)
            connection.abort()


class _OpenGenerator(_Generator):
    """Open loop: arrivals at a fixed rate wait for a free connection, first come, first served."""

    def __init__(self, load: Load, rate_per_s: float) -> None:
        super().__init__(load)
        self._gap_s = 1.0 / rate_per_s
        self._n_arrived = 0
        self._waiting: deque[float] = deque()
        self._idle: deque[_Connection] = deque()

    def feed(self, connection: _Connection) -> None:
        if self._waiting:
            connection.send(self._next_request(), self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lose(self, connection: _Connection, began_s: float | None) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        super().lose(connection, began_s)

    def _begin(self) -> None:
        self._began_s = self._loop.time()
        self._idle.extend(self._connections)
        self._arrive()

    def _arrive(self) -> None:
        now_s = self._loop.time()
        while (due_s := self._began_s + self._n_arrived * self._gap_s) <= now_s and due_s < self._until_s:
            self._n_arrived += 1
            self._waiting.append(due_s)
        while self._waiting and self._idle:
            self._idle.popleft().send(self._next_request(), self._waiting.popleft())
        if due_s < self._until_s:
            self._loop.call_at(due_s, self._arrive)

    def _is_measured(self, began_s: float, now_s: float) -> bool:
        del now_s
        return self._from_s <= began_s < self._until_s

    def _is_done(self) -> bool:
        return not self._waiting and super()._is_done()

    async def _drain(self) -> None:
        await super()._drain()
        while self._waiting:
            self.note(LOST, self._waiting.popleft())


async def generate(load: Load) -> LoadResult:
    """Run a load in this process, on the running loop."""
    generator = _Generator(load) if load.rate_per_s is None else _OpenGenerator(load, load.rate_per_s)
    return await generator.run()


def run_load(load: Load) -> LoadResult:
    """Run a load in a process of its own, and wait for the result.

    Raises:
        subprocess.CalledProcessError: If the generator failed; its traceback goes to stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loadgen"],
        input=msgspec.msgpack.encode(load),
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return msgspec.msgpack.decode(done.stdout, type=LoadResult)


def main() -> None:
    """Read a load from standard input, write the result to standard output (both msgpack)."""
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)

    def new_loop() -> asyncio.AbstractEventLoop:
        # epoll sleeps whole milliseconds, which would make every open-loop request up to one late; select does not.
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        result = runner.run(generate(load))
    sys.stdout.buffer.write(msgspec.msgpack.encode(result))


if __name__ == "__main__":
    main()
