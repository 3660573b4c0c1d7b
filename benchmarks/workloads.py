"""Seeded workloads that need no network: a small shop with people, items, events and rank requests.

People have two tastes of twenty, items one; within a taste few items get most of the interest, and which ones they are
drifts with time. So there is something to learn from people (tastes), from the last minutes (drift) and from ids.

    world = World(WorldConfig())
    world.events(20_000)            # dicts for POST /v1/events
    world.rank_bodies(512)          # bytes for POST /v1/rank

Invariant: the same configuration gives the same bytes, in whatever order the methods are called: each draws from a
generator of its own. Not shown: real people. A simulated taste is easier to learn than a true one; quality is judged on
recorded streams, these workloads are for speed and for seeing that learning happens at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

TYPES: Final = ("view", "click", "cart", "purchase")
TYPE_SHARES: Final = (0.70, 0.22, 0.05, 0.03)
DEVICES: Final = ("mobile", "desktop", "tablet")
COUNTRIES: Final = ("de", "fr", "it", "es", "nl", "pl", "se", "at")
MAX_POST: Final = 1000  # events or items a post may hold


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """How large the shop is, and how restless."""

    seed: int = 7
    n_users: int = 2_000
    n_items: int = 5_000
    n_tastes: int = 20
    zipf: float = 1.1
    """Exponent of interest over the items of a taste, by rank."""
    drift_events: int = 10_000
    """After this many events other items lead: the ranks of every taste move on by one."""


class World:
    """People, items and what they do."""

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        rng = self._rng(0)
        self.taste_of_item = rng.integers(self.config.n_tastes, size=self.config.n_items)
        self.tastes_of_user = rng.integers(self.config.n_tastes, size=(self.config.n_users, 2))
        self._items_of_taste = [np.flatnonzero(self.taste_of_item == taste) for taste in range(self.config.n_tastes)]

    def events(self, n: int, *, start_ms: int | None = None, per_s: float = 1000.0) -> list[dict[str, Any]]:
        """Draw a stream of events.

        Args:
            start_ms: `ts_ms` of the first; None leaves the time to the arrival.
            per_s: With `start_ms`: events per second of event time.
        """
        rng = self._rng(1)
        users = rng.integers(self.config.n_users, size=n)
        items = self._chosen(rng, users)
        types = rng.choice(len(TYPES), size=n, p=TYPE_SHARES)
        events: list[dict[str, Any]] = [
            {"type": TYPES[kind], "user": f"u{user}", "item": f"i{item}", "context": context_of(int(user))}
            for kind, user, item in zip(types.tolist(), users.tolist(), items.tolist(), strict=True)
        ]
        if start_ms is not None:
            for index, event in enumerate(events):
                event["ts_ms"] = start_ms + int(index * 1000.0 / per_s)
        return events

    def items(self) -> list[dict[str, Any]]:
        """Every item with its attributes, as `POST /v1/items` takes them."""
        prices = self._rng(2).lognormal(3.0, 0.7, size=self.config.n_items)
        return [
            {
                "id": f"i{item}",
                "attributes": {"category": f"c{taste}", "tags": [f"t{item % 50}"], "price": round(float(price), 2)},
            }
            for item, (taste, price) in enumerate(zip(self.taste_of_item.tolist(), prices, strict=True))
        ]

    def rank_bodies(self, n: int, *, n_candidates: int = 100) -> list[bytes]:
        """Bodies of rank requests: any person, distinct candidates, popular ones more often than others."""
        rng = self._rng(3)
        interest = 1.0 / np.arange(1, self.config.n_items + 1)
        shares = interest[rng.permutation(self.config.n_items)] / interest.sum()
        return [
            msgspec.json.encode(
                {
                    "user": f"u{user}",
                    "candidates": [
                        f"i{item}"
                        for item in rng.choice(self.config.n_items, size=n_candidates, replace=False, p=shares)
                    ],
                    "context": context_of(int(user)),
                }
            )
            for user in rng.integers(self.config.n_users, size=n)
        ]

    def _chosen(self, rng: np.random.Generator, users: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The item of each event: a taste of the person's, then a rank within it, then whoever holds that rank now."""
        n = len(users)
        tastes = self.tastes_of_user[users, rng.integers(2, size=n)]
        uniform = rng.random(n)
        moves = np.arange(n) // self.config.drift_events
        chosen = np.empty(n, dtype=np.int64)
        for taste, items in enumerate(self._items_of_taste):
            at = np.flatnonzero(tastes == taste)
            if not len(items):
                chosen[at] = rng.integers(self.config.n_items, size=len(at))
                continue
            cumulative = np.cumsum(np.arange(1, len(items) + 1, dtype=np.float64) ** -self.config.zipf)
            ranks = np.searchsorted(cumulative, uniform[at] * cumulative[-1])
            chosen[at] = items[(ranks + moves[at]) % len(items)]
        return chosen

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose])


def context_of(user: int) -> dict[str, str]:
    """A person's context, the same every time."""
    return {"device": DEVICES[user % len(DEVICES)], "country": COUNTRIES[user % len(COUNTRIES)]}


def posts(rows: Sequence[dict[str, Any]], name: str = "events", size: int = MAX_POST) -> Iterator[bytes]:
    """Bodies of posts that hold all rows, `size` at a time, in order."""
    for at in range(0, len(rows), size):
        yield msgspec.json.encode({name: rows[at : at + size]})
