"""Several learners become one model, again and again.

    learner 0   ─ reads all, learns from partitions 0, 2, … ─► share ─┐            ┌─► lay ─► offers the version
    learner 1   ─ reads all, learns from partitions 1, 3, … ─► share ─┴─ gathered ─┴─► lay

Every learner folds the whole log into item rows, but learns from its own partitions only. At the end of a *round* it
settles and hands out its *share*: what it has changed since the round began. Each lays the shares of all, in one order,
over what all of them began with. So they go on from the same weights, bit for bit, whoever of them is looked at.

Where a round ends follows from the log alone, and so does everything that is learned, given the number of learners. A
learner that comes back in the middle of a round reads that round again, and hands out its share of it.

Shares are added up, as if the steps of all had been taken one after the other: what each found is kept, and the price
is that in one round nobody reacts to what the others do. Of statistics and of the optimizer's state the mean is taken.

Keys get rows only between rounds, all of them at once; in a round the number of a row means the same to everybody, and
a new key stands on the fallback until its first round is over. And so do rows go that belong to who was erased.

No Ray, no log. Legend: W flat parameters, T trained ones, N rows, D embedding, M keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners import upkeep
from learners.embeddings import EmbeddingTable
from learners.model import BatchTable, RankingModel
from learners.optimizer import Adam
from learners.owners import owned
from learners.shares import Share, TableShare

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
NO_KEYS: Final = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundConfig:
    """How many learn, and how often they meet."""

    n_learners: int = 1
    """Learner actors that the partitions are divided among; one alone needs no rounds."""
    span_s: float = 1.0
    """Log time after which a round ends."""
    max_entries: int = 4096
    """Entries of the log after which it ends before."""

    def __post_init__(self) -> None:
        for name, low, high in (("n_learners", 1, 256), ("span_s", 0.05, 1e7), ("max_entries", 1, 1_000_000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"rounds.{name}: expected {low} to {high}, got {getattr(self, name)}")


class RoundClock:
    """Where a round ends: `is_over` before each entry, `count` after it.

    Rounds begin with an entry and end with the span of log time that it lies in, or when they are full.
    """

    def __init__(self, config: RoundConfig) -> None:
        self._span_ms = round(1000 * config.span_s)
        self._max_entries = config.max_entries
        self.start()

    def start(self) -> None:
        """Begin the next round."""
        self.n_entries = 0
        self.end_ms = 0
        """All of the round lies before this."""

    def count(self, ms: int) -> None:
        """Note an entry of this round."""
        if not self.n_entries:
            self.end_ms = (ms // self._span_ms + 1) * self._span_ms
        self.n_entries += 1
        if self.n_entries == self._max_entries:
            self.end_ms = ms  # of this instant more may come, in the next one

    def is_over(self, ms: int) -> bool:
        """Whether what happens at an instant belongs to the next round."""
        return self.n_entries > 0 and ms >= self.end_ms


class Round:
    """What a learner notes in a round, for its share.

    Args:
        trained: The network that learns.
        tables: Its embeddings.
    """

    def __init__(self, trained: RankingModel, tables: Mapping[str, EmbeddingTable]) -> None:
        self._trained = trained
        self._tables = tables
        self.start()

    def start(self) -> None:
        """Begin the next round with the weights as they are."""
        self._base = self._trained.flat.clone()
        self._mean = self._base.clone()
        self.n_steps, self.weight = 0, 0.0
        self._before: dict[str, list[tuple[I64, F32, F32]]] = {name: [] for name in self._tables}
        self._is_noted = {name: np.zeros(len(table), dtype=bool) for name, table in self._tables.items()}
        self._met: dict[str, list[U64]] = {name: [] for name in self._tables}
        self._met_by: dict[str, list[U64]] = {name: [] for name in self._tables}
        self.erased = np.zeros(0, dtype=np.uint64)
        """Who is to be erased when the round is over."""

    def note_rows(self, named: Mapping[str, BatchTable]) -> None:
        """Note rows that are about to be trained for the first time, as they are."""
        for name, found in named.items():
            is_noted_N = self._is_noted[name]
            is_first = ~is_noted_N[found.rows]
            rows = found.rows[is_first]
            is_noted_N[rows] = True
            accumulators = self._tables[name].accumulator[rows]
            self._before[name].append((rows, found.values[is_first], accumulators))

    def note_step(self, fullness: float) -> None:
        """Note where a step has led, by a batch of this fullness."""
        self.n_steps += 1
        self.weight += fullness
        self._mean.lerp_(self._trained.flat, fullness / self.weight)

    def note_met(self, keys: Mapping[str, U64], people: Mapping[str, U64]) -> None:
        """Note the keys that a step has met, by table, and who met each of them where that is known."""
        for name, met in keys.items():
            self._met[name].append(met[met != 0])
            if name in people:
                self._met_by[name].append(people[name][met != 0])

    def note_erased(self, people: U64) -> None:
        """Note who was erased; everybody reads that in the same round."""
        self.erased = np.append(self.erased, people)

    def changes(self) -> tuple[F32, F32]:
        """`change` and `path` of a share."""
        return (self._trained.flat - self._base).numpy(), (self._mean - self._base).numpy()

    def take_tables(self) -> dict[str, TableShare]:
        """What the round did to every table; the rows are set back to what they were."""
        return {name: self._take_table(name, table) for name, table in self._tables.items()}

    def lay_dense(self, shares: Sequence[Share], adam: Adam, served: Tensor, pace: float) -> None:
        """Parameters, statistics and optimizer after the shares of all.

        Args:
            served: The running mean of the parameters, which moves by `pace` towards where they were on the average.
        """
        if not any(share.n_steps for share in shares):
            return
        weights = np.array([share.weight for share in shares])
        weights /= weights.sum()
        n_trained = self._trained.n_trained
        self._trained.flat.copy_(self._base + _added([share.change for share in shares], weights, n_trained))
        served.lerp_(self._base + _added([share.path for share in shares], weights, n_trained), pace)
        # Of the optimizer's state nothing is summed.
        mean, square = (_added([getattr(share, name) for share in shares], weights, 0) for name in ("mean", "square"))
        adam.load(mean, square, adam.n_steps - self.n_steps + max(share.n_steps for share in shares))

    def _take_table(self, name: str, table: EmbeddingTable) -> TableShare:
        met, owners = (np.concatenate([NO_KEYS, *some[name]]) for some in (self._met, self._met_by))
        if len(owners):
            met, owners = owned(met, owners)
        else:
            met = np.sort(upkeep.distinct(met))
        if not self._before[name]:
            none = np.zeros(0, dtype=np.int64)
            return TableShare(none, table.weight[none], table.accumulator[none], met, owners)
        rows, values, accumulators = (np.concatenate(parts) for parts in zip(*self._before[name], strict=True))
        share = TableShare(rows, table.weight[rows] - values, table.accumulator[rows] - accumulators, met, owners)
        table.weight[rows], table.accumulator[rows] = values, accumulators
        return share


def lay_table(table: EmbeddingTable, shares: Sequence[TableShare], now_s: int) -> None:
    """Rows after the shares of all, then rows for the keys that they met."""
    for share in shares:
        table.add(share.rows, share.change, share.squares)
    met, owners = (np.concatenate([getattr(share, name) for share in shares]) for name in ("met", "owners"))
    table.meet(met, now_s, owners)


def _added(parts: Sequence[F32], weights: NDArray[np.float64], n_summed: int) -> Tensor:
    """The sum of the first ones of all vectors, the weighted mean of the others."""
    total = torch.zeros(len(parts[0]))
    for weight, part in zip(weights, parts, strict=True):
        total[:n_summed] += torch.from_numpy(part[:n_summed])
        total[n_summed:] += float(weight) * torch.from_numpy(part[n_summed:])
    return total
