"""A load generator for HTTP/1.1, cheap enough to share two cores with what it measures.

Precomputed requests over sockets and epoll, without asyncio: against an idle server a request takes 9 us of a
core at 64 connections, where protocols of asyncio took 45. Of an answer only the status and its length are read. Two
ways to load:

- *closed loop* (`rate_per_s` None): every connection sends its next request when its answer is complete. Shows the rate
  a system saturates at; its latencies are those of a polite client and hide every stall. After a refusal (429) the
  connection pauses before its next request.
- *open loop*: requests arrive at a fixed rate whatever the system does, wait for a free connection if there is none,
  and their latency counts from the instant they were *meant* to be sent. Shows what people meet.

    result = run_load(Load(port=8000, bodies=bodies, rate_per_s=500.0, n_connections=64, duration_s=10.0))

Invariant: between events the process sleeps; a generator that spins would take one of the two cores. `cpu_ratio` tells
what it took. Requests of the warm-up are sent and not counted; unanswered ones count as lost. Not shown: connection
set-up (connections are kept), chunked answers (refused), pipelining (none), random arrivals (they are evenly spaced).
"""

import asyncio
import heapq
import math
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.latency import LOST, REFUSED, LoadResult, Trace
from benchmarks.load import Load, answer_length, requests_of
from features.priority import step_back

RECONNECT_S: Final = 0.05
PAUSE_S: Final = 0.05  # of a client that was refused
HEAD_BYTES: Final = 4096  # most an answer's head may take
BUFFER_BYTES: Final = 1 << 18


class _Connection:
    """One kept connection with at most one request under way."""

    __slots__ = ("began_s", "fd", "head", "length", "n_received", "recv_into", "socket")

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.recv_into = self.socket.recv_into
        self.began_s: float | None = None
        """When the request under way was (to be) sent; None while idle."""
        self.head = b""
        self.length = self.n_received = 0

    def send(self, request: bytes, began_s: float) -> None:
        """Send one request. A peer that has gone is noticed when its answer is read."""
        self.began_s, self.head, self.length, self.n_received = began_s, b"", 0, 0
        try:
            n_sent = self.socket.send(request)
        except BlockingIOError:
            n_sent = 0
        except OSError:
            return
        if n_sent < len(request):  # the socket's buffer is full: rare, and not worth a state of its own
            self.socket.setblocking(True)
            self.socket.sendall(memoryview(request)[n_sent:])
            self.socket.setblocking(False)


class _Generator:
    """Closed loop: `feed` a connection as soon as it is free. The open loop changes when and what is fed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = requests_of(load)
        self._n_sent = 0
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._n_timers = 0
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._at_s, self._latencies_s, self._statuses = array("d"), array("d"), array("h")
        self._from_s = self._until_s = 0.0

    def run(self) -> Trace:
        """Connect, warm up, measure, wait for the last answers."""
        for _ in range(self._load.n_connections):
            self._connect()
        self._from_s = time.monotonic() + self._load.warmup_s
        self._until_s = self._from_s + self._load.measured_s
        self._begin()
        self._work(self._from_s, lambda: False)
        cpu_s, wall_s = time.process_time(), time.monotonic()
        self._work(self._until_s, lambda: False)
        cpu_ratio = (time.process_time() - cpu_s) / (time.monotonic() - wall_s)
        self._work(self._until_s + self._load.drain_s, self._is_done)
        self._close()
        return Trace(
            from_s=self._from_s,
            duration_s=self._load.measured_s,
            at_s=np.array(self._at_s) - self._from_s,
            latency_s=np.array(self._latencies_s),
            status=np.array(self._statuses, dtype=np.int16),
            cpu_ratio=cpu_ratio,
        )

    def _begin(self) -> None:
        now_s = time.monotonic()
        for connection in self._connections.values():
            self._feed(connection, now_s)

    def _feed(self, connection: _Connection, now_s: float) -> None:
        """Give a free connection something to do."""
        if now_s < self._until_s:
            connection.send(self._next_request(), now_s)

    def _answered(self, connection: _Connection, status: int, now_s: float) -> None:
        if status != REFUSED:
            self._feed(connection, now_s)
            return
        self._later(PAUSE_S, lambda: self._feed_if_kept(connection))

    def _feed_if_kept(self, connection: _Connection) -> None:
        if self._connections.get(connection.fd) is connection:
            self._feed(connection, time.monotonic())

    def _arrive(self, now_s: float) -> float:
        """Do what is due; returns the instant of what comes next."""
        del now_s
        return math.inf

    def _counts_at(self, began_s: float, now_s: float) -> float:
        """The instant that decides whether, and in which window, a request counts."""
        del began_s
        return now_s

    def _is_done(self) -> bool:
        return all(connection.began_s is None for connection in self._connections.values())

    def _note(self, status: int, began_s: float, now_s: float) -> None:
        """Record the end of a request, if it belongs to the measured time."""
        at_s = self._counts_at(began_s, now_s)
        if self._from_s <= at_s < self._until_s:
            self._at_s.append(at_s)
            self._latencies_s.append(now_s - began_s)
            self._statuses.append(status)

    def _next_request(self) -> bytes:
        self._n_sent += 1
        return self._requests[self._n_sent % len(self._requests)]

    def _work(self, until_s: float, is_over: Callable[[], bool]) -> None:
        """Receive, feed, and sleep in between, until an instant or until it is over."""
        poll, epoll = self._epoll.poll, [self._epoll]
        connections, receive = self._connections, self._receive
        while (now_s := time.monotonic()) < until_s and not is_over():
            next_s = min(self._arrive(now_s), self._ring(now_s), until_s)
            ready = poll(0)
            if not ready:
                # epoll sleeps whole milliseconds, which would make every open-loop request up to one late; select, on
                # the one descriptor of epoll itself, does not.
                select.select(epoll, (), (), max(0.0, next_s - time.monotonic()))
                continue
            for fd, _ in ready:
                receive(connections[fd])

    def _receive(self, connection: _Connection) -> None:
        try:
            n = connection.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            n = 0
        if not n:
            self._lose(connection)
            return
        connection.n_received += n
        if not connection.length:
            connection.head += self._buffer[: min(n, HEAD_BYTES)]
            connection.length = answer_length(connection.head)
            if not connection.length:
                if connection.n_received > HEAD_BYTES:
                    raise ValueError(f"the head of an answer exceeds {HEAD_BYTES} bytes")
                return
        if connection.n_received >= connection.length and connection.began_s is not None:
            now_s, began_s, connection.began_s = time.monotonic(), connection.began_s, None
            status = int(connection.head[9:12])
            self._note(status, began_s, now_s)
            self._answered(connection, status, now_s)

    def _lose(self, connection: _Connection) -> None:
        """Record a lost answer, and connect again."""
        if connection.began_s is not None:
            self._note(LOST, connection.began_s, time.monotonic())
        self._forget(connection)
        self._later(RECONNECT_S, self._reconnect)

    def _forget(self, connection: _Connection) -> None:
        del self._connections[connection.fd]
        self._epoll.unregister(connection.fd)
        connection.socket.close()

    def _connect(self) -> _Connection:
        connection = _Connection(self._load.host, self._load.port)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        return connection

    def _reconnect(self) -> None:
        try:
            connection = self._connect()
        except OSError:
            self._later(RECONNECT_S, self._reconnect)
            return
        self._feed(connection, time.monotonic())

    def _later(self, wait_s: float, callback: Callable[[], None]) -> None:
        self._n_timers += 1  # decides between equal instants, for callbacks have no order
        heapq.heappush(self._timers, (time.monotonic() + wait_s, self._n_timers, callback))

    def _ring(self, now_s: float) -> float:
        """Call what was put off until now; returns the instant of the next."""
        timers = self._timers
        while timers and timers[0][0] <= now_s:
            heapq.heappop(timers)[2]()
        return timers[0][0] if timers else math.inf

    def _close(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.began_s is not None:
                self._note(LOST, connection.began_s, now_s)
            self._forget(connection)
        self._epoll.close()


class _OpenGenerator(_Generator):
    """Open loop: arrivals at given rates wait for a free connection, first come, first served."""

    def __init__(self, load: Load, rate_per_s: float) -> None:
        super().__init__(load)
        self._rates = ((rate_per_s, load.warmup_s + load.duration_s), *load.then)
        self._waiting: deque[float] = deque()
        self._idle: deque[_Connection] = deque()

    def _begin(self) -> None:
        self._arrivals = self._instants(self._from_s - self._load.warmup_s)
        self._due_s = next(self._arrivals, math.inf)
        self._idle.extend(self._connections.values())

    def _instants(self, at_s: float) -> Iterator[float]:
        for rate_per_s, seconds in self._rates:
            number = 0
            while (due_s := at_s + number / rate_per_s) < at_s + seconds:
                yield due_s
                number += 1
            at_s += seconds

    def _arrive(self, now_s: float) -> float:
        while self._due_s <= now_s:
            self._waiting.append(self._due_s)
            self._due_s = next(self._arrivals, math.inf)
        while self._waiting and self._idle:
            self._idle.popleft().send(self._next_request(), self._waiting.popleft())
        return self._due_s

    def _feed(self, connection: _Connection, now_s: float) -> None:
        if self._waiting:
            connection.send(self._next_request(), self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _answered(self, connection: _Connection, status: int, now_s: float) -> None:
        del status  # whoever arrives next has not been refused yet
        self._feed(connection, now_s)

    def _forget(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        super()._forget(connection)

    def _counts_at(self, began_s: float, now_s: float) -> float:
        return began_s

    def _is_done(self) -> bool:
        return not self._waiting and super()._is_done()

    def _close(self) -> None:
        super()._close()
        now_s = time.monotonic()
        while self._waiting:
            self._note(LOST, self._waiting.popleft(), now_s)


def trace(load: Load) -> Trace:
    """Run a load in this thread."""
    generator = _Generator(load) if load.rate_per_s is None else _OpenGenerator(load, load.rate_per_s)
    return generator.run()


async def generate(load: Load) -> LoadResult:
    """Run a load in a thread, beside the running loop."""
    return (await asyncio.to_thread(trace, load)).summary()


class Running:
    """A load in a process of its own, under way since its creation: `result` waits for it."""

    def __init__(self, load: Load) -> None:
        command = [sys.executable, "-m", "benchmarks.loadgen"]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.msgpack.encode(load))
        self._process.stdin.close()

    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def result(self) -> Trace:
        """Wait for what came back.

        Raises:
            RuntimeError: If the generator failed; its traceback is on stderr.
        """
        assert self._process.stdout is not None
        with self._process.stdout as out:
            packed = out.read()
        if self._process.wait():
            raise RuntimeError("the load generator failed")
        return Trace.unpack(packed)


def run_load(load: Load) -> LoadResult:
    """Run a load in a process of its own, and wait for the result."""
    return Running(load).result().summary()


def main() -> None:
    """Read a load from standard input, write the trace to standard output (both msgpack)."""
    load: Any = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    step_back(load.niceness, entirely=load.gives_way)
    sys.stdout.buffer.write(trace(load).pack())


if __name__ == "__main__":
    main()
