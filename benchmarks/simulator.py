"""A seeded world of clicks in which something changes at once: needs no network and no data, numpy alone.

    swap      half of the items change places in popularity, the most popular with the least popular
    tastes    every cluster of people turns to another cluster of items; how popular each item is in all stays as it was
    launch    a new item takes one click in twenty, a minute after it appeared

People belong to a latent cluster, and so do items. Most of a person's clicks go to the cluster of items that theirs
likes, the others to any; within a cluster an item is taken by its popularity. Items are born all the time. Clicks come
in sessions. The context names a person's `segment`, which is their cluster: something a model can learn from and no
plain counter counts.

Queries follow the protocol of the recorded ones: at the instant of a click, its item and 99 others, of which two have
been born and never clicked; the rest were clicked within the hour and are drawn by the root of how often. They are
dense when there is something to see: every click just after the change, few of them later. After a launch the true item
is always the launched one: whoever clicks might as well have come for it, since people of all kinds do.

Invariant: the same configuration and seed give the same tables. Not shown: real people. A world in which a cluster is
all there is to a person is easier to learn than any true one, and its changes are larger and more sudden.

Legend: N clicks, I items, C clusters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Change = Literal["swap", "tastes", "launch"]
CHANGES: Final[tuple[Change, ...]] = ("swap", "tastes", "launch")

HOUR_MS: Final = 3_600_000
N_CANDIDATES: Final = 100
N_COLD: Final = 2
LAUNCHED: Final = 0
"""The item that a launch brings; in other worlds nobody ever clicks it."""

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """How large the world is, and when it changes."""

    start_ms: int = 1_763_998_800_000
    """Twenty minutes before a full hour."""
    change_s: float = 3000.0
    """When it changes, after the start: half an hour after a full hour."""
    end_s: float = 5400.0
    clicks_per_s: float = 50.0
    n_people: int = 4000
    n_items: int = 2000
    """At the start."""
    births_per_s: float = 0.1
    n_clusters: int = 16
    taste: float = 0.7
    """Share of a person's clicks that go to the cluster they like."""
    spread: float = 1.2
    """Of the logarithm of popularity; 1.2: a tenth of the items has half of the clicks."""
    clicks_per_session: float = 4.0
    gap_s: float = 15.0
    """Between two clicks of a session, on average."""
    launch_share: float = 0.05
    launch_ramp_s: float = 60.0
    dense_s: float = 120.0
    """So long after the change every click is asked for; before it, half so long."""
    queries_per_s: float = 1.0
    """At other times."""

    @property
    def change_ms(self) -> int:
        """When the world changes."""
        return self.start_ms + round(1000 * self.change_s)


@dataclass(frozen=True)
class Simulated:
    """A stream and what is asked of it, both in time order."""

    events: pa.Table
    """`ts_ms, type, user, item, session, segment`"""
    queries: pa.Table
    """`query_id, ts_ms, user, session, item, candidates`; `item` is the true one."""


def simulate(change: Change, config: SimulatorConfig, seed: int) -> Simulated:
    """Draw a world and live in it."""
    world = _World(config, np.random.default_rng([seed, CHANGES.index(change)]))
    at_s, person, session = world.visits()
    item = world.choices(change, at_s, person)
    at_ms = config.start_ms + np.floor(1000 * at_s).astype(np.int64)
    events = pa.table(
        {
            "ts_ms": at_ms,
            "type": pa.array(["click"] * len(at_ms)).dictionary_encode(),
            "user": person,
            "item": item,
            "session": session,
            "segment": world.cluster_of_person[person],
        }
    )
    asked = world.asked(change, at_s)
    true = np.full(len(asked), LAUNCHED) if change == "launch" else item[asked]
    candidates = [*_candidates(world, at_ms, item, asked, true)]
    queries = events.select(["ts_ms", "user", "session"]).take(pa.array(asked)).append_column("item", pa.array(true))
    queries = queries.add_column(0, "query_id", pa.array(np.arange(len(asked))))
    return Simulated(events, queries.append_column("candidates", pa.array(candidates, pa.list_(pa.int64()))))


class _World:
    def __init__(self, config: SimulatorConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.rng = rng
        n_born = round(config.births_per_s * config.end_s)
        n_items = 1 + config.n_items + n_born
        self.cluster_of_person = np.arange(config.n_people) % config.n_clusters
        self.cluster_of_item = rng.integers(config.n_clusters, size=n_items)
        self.born_s = np.concatenate([np.zeros(1 + config.n_items), np.sort(rng.uniform(0, config.end_s, n_born))])
        self.born_s[LAUNCHED] = np.inf
        self.popularity = np.exp(config.spread * rng.standard_normal(n_items))
        self.popularity[LAUNCHED] = 0.0

    def visits(self) -> tuple[F64, I64, I64]:
        """When each click happens, in seconds, in order; whose it is, and in which session."""
        config, rng = self.config, self.rng
        n_sessions = round(config.end_s * config.clicks_per_s / config.clicks_per_session)
        lengths = rng.geometric(1.0 / config.clicks_per_session, n_sessions)
        session = np.repeat(np.arange(n_sessions), lengths)
        gaps_s = rng.exponential(config.gap_s, len(session))
        first = np.cumsum(lengths) - lengths
        gaps_s[first] = 0.0
        run_s = np.cumsum(gaps_s)
        at_s = rng.uniform(0, config.end_s, n_sessions)[session] + run_s - run_s[first][session]
        person = rng.integers(config.n_people, size=n_sessions)[session]
        order = np.argsort(at_s, kind="stable")
        order = order[at_s[order] < config.end_s]
        return at_s[order], person[order], session[order]

    def choices(self, change: Change, at_s: F64, person: I64) -> I64:
        """What is clicked."""
        config = self.config
        cluster = self.cluster_of_person[person]
        n_before = int(np.searchsorted(at_s, config.change_s))
        before, after = slice(0, n_before), slice(n_before, None)
        popularity = self._swapped() if change == "swap" else self.popularity
        # A shift of all by one, of clusters of one size: every item is liked by as many people as before.
        turned = (cluster + 1) % config.n_clusters if change == "tastes" else cluster
        item = np.concatenate(
            [
                self._drawn(self.popularity, at_s[before], cluster[before]),
                self._drawn(popularity, at_s[after], turned[after]),
            ]
        )
        if change == "launch":
            risen = np.clip((at_s - config.change_s) / config.launch_ramp_s, 0.0, 1.0)
            item[self.rng.random(len(item)) < config.launch_share * risen] = LAUNCHED
        return item

    def asked(self, change: Change, at_s: F64) -> I64:
        """Which clicks are asked for."""
        config = self.config
        since_s = at_s - config.change_s
        is_dense = (since_s >= -config.dense_s / 2) & (since_s < config.dense_s)
        chosen = is_dense | (self.rng.random(len(at_s)) < config.queries_per_s / config.clicks_per_s)
        first_s = (
            config.change_s if change == "launch" else 60.0
        )  # in the first minute there are too few to choose from
        return np.flatnonzero(chosen & (at_s >= first_s))

    def _swapped(self) -> F64:
        """Half of the items with their popularity in reverse."""
        popularity = self.popularity.copy()
        chosen = 1 + self.rng.permutation(len(popularity) - 1)[: len(popularity) // 2]
        ordered = chosen[np.argsort(popularity[chosen])]
        popularity[ordered] = popularity[ordered[::-1]]
        return popularity

    def _drawn(self, popularity: F64, at_s: F64, liked: I64) -> I64:
        """An item for each click, among those that are born."""
        n_clusters = self.config.n_clusters
        wanted = np.where(self.rng.random(len(at_s)) < self.config.taste, liked, n_clusters)
        item = np.full(len(at_s), LAUNCHED)
        members = [np.flatnonzero(self.cluster_of_item == cluster) for cluster in range(n_clusters)]
        for cluster, rows in enumerate([*members, np.arange(len(popularity))]):
            share = popularity[rows] / popularity[rows].sum()
            missing = np.flatnonzero(wanted == cluster)
            while len(missing):
                drawn = self.rng.choice(rows, len(missing), p=share)
                is_born = self.born_s[drawn] <= at_s[missing]
                item[missing[is_born]] = drawn[is_born]
                missing = missing[~is_born]
        return item


def _candidates(world: _World, at_ms: I64, item: I64, asked: I64, true_of: I64) -> Iterator[list[int]]:
    """The true item and 99 others for each click that is asked for, in a random order."""
    rng = world.rng
    n_clicks = np.zeros(len(world.born_s))
    n_lately = np.zeros(len(world.born_s))
    done = forgotten = 0
    for number, true in zip(asked.tolist(), true_of.tolist(), strict=True):
        # Strictly before: clicks of the same millisecond are not known yet.
        known, old = np.searchsorted(at_ms, [at_ms[number], at_ms[number] - HOUR_MS])
        np.add.at(n_clicks, item[done:known], 1)
        np.add.at(n_lately, item[done:known], 1)
        np.subtract.at(n_lately, item[forgotten:old], 1)
        done, forgotten = known, old
        is_born = world.config.start_ms + 1000 * world.born_s <= at_ms[number]
        cold = np.flatnonzero(is_born & (n_clicks == 0))
        others = rng.permutation(cold[cold != true])[:N_COLD]
        weight = np.sqrt(n_lately)
        weight[true] = 0.0
        n_warm = N_CANDIDATES - 1 - len(others)
        # The first of exponential clocks: drawn by weight, without repetition.
        ring = np.where(weight > 0, rng.exponential(size=len(weight)) / np.maximum(weight, 1e-9), np.inf)
        warm = np.argpartition(ring, n_warm)[:n_warm]
        found: list[Any] = rng.permutation(np.concatenate([[true], others, warm])).tolist()
        yield found
