"""Ranks and events all the time, and what became of each.

Ranks come at a steady rate, whatever becomes of them: each is sent once. Events come in posts, by several clients, each
of which sends its next post when all of the one before is acknowledged, and sends again what is not, under the same
ids. A part of them tell the decision that they follow from.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np

RANKS_PER_S: Final = 100.0
EVENTS_PER_S: Final = 300.0
N_RANKERS: Final = 16
N_SENDERS: Final = 6
PER_POST: Final = 5
N_CANDIDATES: Final = 100
ITEMS: Final = [f"i{number}" for number in range(1000)]
LIMIT: Final = 10
N_USERS: Final = 300
SHARE_OF_DECISIONS: Final = 0.4
DEADLINE_MS: Final = 20_000  # replicas that start leave little of two cores to those that answer
TIMEOUT_S: Final = 30.0
AGAIN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request; instants of the monotonic clock."""

    sent_s: float
    at_s: float
    """When that was known."""
    outcome: int | str
    """Status, or the error of who got no answer."""
    degraded: tuple[str, ...] = ()

    @property
    def is_failed(self) -> bool:
        """Whether there was no answer to use."""
        return self.outcome not in {200, 202}

    @property
    def took_s(self) -> float:
        """How long it was waited for."""
        return self.at_s - self.sent_s


class Load:
    """A `with` block, at whose end every event that was ever sent is acknowledged.

    Args:
        url: Where the application answers.
        seed: Of who does what.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.ranks: list[Answer] = []
        self.posts: list[Answer] = []
        self.acknowledged: list[str] = []
        """Ids of events, as often as a receipt took or knew them."""
        self.sent: Counter[str] = Counter()
        """How often each event was sent."""
        self._url = url
        self._decisions: deque[dict[str, Any]] = deque(maxlen=200)
        self._is_over, self._is_given_up = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(N_RANKERS + N_SENDERS, "load")
        rngs = np.random.default_rng(seed).spawn(N_RANKERS + N_SENDERS)
        work: list[Callable[..., None]] = [*[self._rank] * N_RANKERS, *[self._send] * N_SENDERS]
        self._running = [
            self._pool.submit(self._live, each, number, rng)
            for number, (each, rng) in enumerate(zip(work, rngs, strict=True))
        ]

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

    def _live(self, work: Callable[..., None], number: int, rng: np.random.Generator) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S) as http:
            work(http, number, rng)

    def _rank(self, http: httpx.Client, number: int, rng: np.random.Generator) -> None:
        """One request after the other; when one took long, those that were due meanwhile at once."""
        due_s = time.monotonic() + number / RANKS_PER_S
        while not self._is_over.wait(due_s - time.monotonic()):
            body = {"user": _user(rng), "candidates": candidates(rng), "limit": LIMIT, "deadline_ms": DEADLINE_MS}
            told = self._post(http, "/v1/rank", body, self.ranks)
            if "items" in told:
                self._decisions.append({"user": body["user"], **told})
            due_s += N_RANKERS / RANKS_PER_S

    def _send(self, http: httpx.Client, number: int, rng: np.random.Generator) -> None:
        n_sent, pause_s = 0, N_SENDERS * PER_POST / EVENTS_PER_S
        due_s = time.monotonic()
        while not self._is_over.wait(due_s - time.monotonic()):
            events = [self._event(f"{number}-{n_sent + n}", rng) for n in range(PER_POST)]
            n_sent += len(events)
            while events and not self._is_given_up.is_set():
                self.sent.update(event["id"] for event in events)
                events = self._left(events, self._post(http, "/v1/events", {"events": events}, self.posts))
                if events:
                    self._is_given_up.wait(AGAIN_S)
            due_s += pause_s  # what people did while posts were refused is sent when they are taken

    def _event(self, name: str, rng: np.random.Generator) -> dict[str, Any]:
        """A click, now and then on what a ranking has shown; the lower an item's number, the more often."""
        item = ITEMS[int(len(ITEMS) * rng.random() ** 3)]
        event = {"type": "click", "id": name, "user": _user(rng), "item": item}
        if self._decisions and rng.random() < SHARE_OF_DECISIONS:
            told = self._decisions[int(rng.integers(len(self._decisions)))]
            shown = told["items"][int(rng.integers(len(told["items"])))]["id"]
            event |= {"user": told["user"], "item": shown, "decision": told["decision"]}
        return event

    def _left(self, events: list[dict[str, Any]], receipt: dict[str, Any]) -> list[dict[str, Any]]:
        """Those that the receipt does not acknowledge."""
        if "accepted" not in receipt:
            return events
        refused = {row["index"] for row in receipt["rejected"]}
        self.acknowledged += [event["id"] for index, event in enumerate(events) if index not in refused]
        return [events[index] for index in sorted(refused)]

    @staticmethod
    def _post(http: httpx.Client, path: str, body: Any, answers: list[Answer]) -> dict[str, Any]:
        """Post once; returns what was told, nothing without an answer."""
        sent_s = time.monotonic()
        outcome: int | str
        told: dict[str, Any] = {}
        try:
            answer = http.post(path, json=body)
            outcome = answer.status_code
            told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        except httpx.TransportError as error:
            outcome = repr(error)
        answers.append(Answer(sent_s, time.monotonic(), outcome, tuple(told.get("degraded", ()))))
        return told


def candidates(rng: np.random.Generator) -> list[str]:
    """Some of the items."""
    return [ITEMS[n] for n in rng.choice(len(ITEMS), N_CANDIDATES, replace=False).tolist()]


def _user(rng: np.random.Generator) -> str:
    return f"u{rng.integers(N_USERS)}"


def quantiles_ms(answers: Iterable[Answer]) -> str:
    """How long was waited, for people."""
    took_ms = [1000.0 * answer.took_s for answer in answers]
    p50, p99, most = np.quantile(took_ms, (0.5, 0.99, 1.0))
    return f"p50 {p50:.1f} ms, p99 {p99:.0f} ms, longest {most:.0f} ms"
