"""Ranks and events that are sent while something happens to the application, and what became of each."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

import httpx

RANK: Final = "/v1/rank"
EVENTS: Final = "/v1/events"
USERS: Final = [f"u{index}" for index in range(40)]
NO_HEADERS: Final[Mapping[str, str]] = {}
DEADLINE_MS: Final = 20_000  # on two cores for everything, starting replicas leave little to those that answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    at_s: float
    """When it was known, on the monotonic clock."""
    door: str
    path: str
    outcome: int | str
    """Status, or the error of who got no answer."""
    degraded: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it was answered as asked."""
        return self.outcome in {200, 202}


class Traffic:
    """People at every front door, each with one request under way; a `with` block.

    An event is sent until it is taken, for which the end of the block waits: so `n_taken` events must be learned then,
    each once.

    Args:
        doors: Base URLs.
        rankers: Threads that rank, per door.
        senders: Threads that send events, per door; what one door does not take, the next one is sent.
        pause_s: Of each thread between two requests.
        timeout_s: After which no answer is waited for.
        in_thread: Called in every thread before it sends anything.
        headers: Of every request.
    """

    def __init__(
        self,
        doors: Sequence[str],
        *,
        rankers: int = 1,
        senders: int = 1,
        n_candidates: int = 20,
        events_per_post: int = 1,
        pause_s: float = 0.02,
        timeout_s: float = 30.0,
        in_thread: Callable[[], None] = lambda: None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self._doors = list(doors)
        self._items = [f"i{index}" for index in range(n_candidates)]
        self._events_per_post = events_per_post
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._headers = headers
        self._numbers = count()
        self._name = secrets.token_hex(4)
        self._is_over, self._is_given_up = threading.Event(), threading.Event()
        self._taken: list[int] = []
        self.answers: list[Answer] = []
        n_threads = len(self._doors) * (rankers + senders)
        self._pool = ThreadPoolExecutor(n_threads, "traffic", initializer=in_thread)
        self._running = [self._pool.submit(self._rank, door) for door in self._doors for _ in range(rankers)]
        self._running += [self._pool.submit(self._send, at) for at in range(len(self._doors)) for _ in range(senders)]

    @property
    def n_taken(self) -> int:
        """Events that were acknowledged."""
        return sum(self._taken)

    def ranks(self) -> list[Answer]:
        """Answers to ranks, oldest first."""
        return [answer for answer in self.answers if answer.path == RANK]

    def failed(self) -> list[Answer]:
        """Requests that were not answered as asked."""
        return [answer for answer in self.answers if not answer.is_good]

    def outcomes(self) -> Counter[tuple[str, int | str]]:
        """How often there was which outcome."""
        return Counter((answer.path, answer.outcome) for answer in self.answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if error is not None:
            self._is_given_up.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def _rank(self, door: str) -> None:
        with httpx.Client(timeout=self._timeout_s, headers=self._headers) as http:
            for number in count():
                if self._is_over.wait(self._pause_s):
                    return
                user = USERS[number % len(USERS)]
                body = {"user": user, "candidates": self._items, "deadline_ms": DEADLINE_MS}
                self._post(http, door, RANK, body)

    def _send(self, at: int) -> None:
        with httpx.Client(timeout=self._timeout_s, headers=self._headers) as http:
            while not self._is_over.wait(self._pause_s):
                events = [self._event(next(self._numbers)) for _ in range(self._events_per_post)]
                while events and not self._is_given_up.is_set():
                    left = _left(events, self._post(http, self._doors[at], EVENTS, {"events": events}))
                    self._taken.append(len(events) - len(left))
                    if left:
                        at = (at + 1) % len(self._doors)
                        self._is_given_up.wait(self._pause_s)
                    events = left

    def _event(self, number: int) -> dict[str, Any]:
        item = self._items[number * 7 % len(self._items)]
        return {"type": "click", "user": USERS[number % len(USERS)], "item": item, "id": f"{self._name}-{number}"}

    def _post(self, http: httpx.Client, door: str, path: str, body: Any) -> httpx.Response | None:
        answer = None
        outcome: int | str
        degraded: tuple[str, ...] = ()
        try:
            answer = http.post(door + path, json=body)
            outcome = answer.status_code
            if path == RANK and outcome == 200:
                degraded = tuple(answer.json()["degraded"])
        except httpx.TransportError as error:
            outcome = repr(error)
        self.answers.append(Answer(time.monotonic(), door, path, outcome, degraded))
        return answer


def _left(events: list[Any], answer: httpx.Response | None) -> list[Any]:
    """The events that were not taken."""
    if answer is None or answer.status_code not in {202, 503} or "json" not in answer.headers.get("content-type", ""):
        return events
    told = answer.json()
    return [events[row["index"]] for row in told["rejected"]] if "rejected" in told else events
