"""Negatives for events that come without impressions: drawn from what was known when the event happened.

What is never among the negatives is never pushed down: a network trained only against recently clicked items puts old
and unseen ones on top as soon as they are offered. So the items are divided into strata by when they were last acted
on, and each stratum has its own slots in every slate:

    active (within the hour)  |  today (1 to 24 h)  |  older  |  never

Within a stratum items are drawn by the square root of their decayed counts; in the last one half of the draws are
items that nobody has heard of. The slots of an empty stratum go to the largest one of known items: a young stream must
not be learned against the unheard-of alone.

Draw n depends on (seed, n) and on the table at the last `refresh`, which costs a pass over all items (about 1 ms for
50,000) and is made once a batch. The module knows neither events nor models.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.item_table import UNKNOWN, ItemTable
from features.schema import Schema

HOUR_MS: Final = 3_600_000
BLOCK: Final = 256  # draws made at once: a generator costs more than its numbers
N_STRATA: Final = 4
NEVER: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Slots of a slate by stratum. They decide what the model is good at: give most to what will be asked most."""

    n_active: int = 8
    """Negatives acted on within the hour."""
    n_today: int = 4
    """Negatives last acted on 1 to 24 hours ago."""
    n_older: int = 10
    """Negatives last acted on longer ago."""
    n_never: int = 2
    """Negatives nobody has acted on yet."""

    def __post_init__(self) -> None:
        for name in ("n_active", "n_today", "n_older", "n_never"):
            if not 1 <= getattr(self, name) <= 256:
                raise ValueError(f"sampling.{name}: expected 1 to 256, got {getattr(self, name)}")

    @property
    def n_negatives(self) -> int:
        """Negatives in a slate."""
        return sum(self.n_slots)

    @property
    def n_slots(self) -> tuple[int, int, int, int]:
        """Negatives by stratum."""
        return self.n_active, self.n_today, self.n_older, self.n_never


class NegativeSampler:
    """`refresh` from the table once a batch, then `draw` for each event."""

    def __init__(self, schema: Schema, config: SamplingConfig, seed: int) -> None:
        self._seed = seed
        self._slots = np.repeat(np.arange(N_STRATA), config.n_slots)
        counted = [g for g in schema.item_groups if g.counter.split is None and not g.counter.use_value]
        self._columns = [
            (g.start + place, g.index, half_life_ms)
            for g in counted
            for place, half_life_ms in enumerate(g.half_lives_ms)
            if half_life_ms == max(g.half_lives_ms)
        ]
        self._rows = np.zeros(1, dtype=np.int64)
        self._cumulative = np.zeros(1)
        self._wanted = np.full(len(self._slots), float(NEVER))
        self._block = -1

    def refresh(self, table: ItemTable, now_ms: int) -> None:
        """Divide the table's items into strata as of an instant."""
        n_rows = len(table) + 1
        stratum = _strata(table.last_ms[:n_rows], now_ms)
        weight = np.sqrt(self._counts(table, n_rows, now_ms)) + 1e-3
        n_unseen = int((stratum == NEVER).sum()) - 1
        weight[stratum == NEVER] = 1.0
        weight[UNKNOWN] = max(n_unseen, 1)
        order = np.argsort(stratum, kind="stable")
        totals = np.bincount(stratum, weight, N_STRATA)
        summed = np.cumsum(weight[order])
        starts = np.concatenate([[0.0], np.cumsum(totals)[:-1]])
        ordered = stratum[order]
        # Stratum s takes the interval (s, s + 1]: one search serves all.
        self._cumulative = ordered + (summed - starts[ordered]) / totals[ordered]
        self._rows = order
        self._wanted = _stand_ins(np.bincount(stratum, minlength=N_STRATA))[self._slots].astype(np.float64)
        self._block = -1

    def draw(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Rows of the n-th slate's negatives, and for each a random key that stands in where the row is `UNKNOWN`."""
        if n // BLOCK != self._block:
            self._draw_block(n // BLOCK)
        return self._drawn[n % BLOCK], self._keys[n % BLOCK]

    def _draw_block(self, block: int) -> None:
        rng = np.random.default_rng([self._seed, block])
        shape = (BLOCK, len(self._slots))
        place = np.searchsorted(self._cumulative, self._wanted + rng.random(shape), side="right")
        # Rounding may leave a stratum's last sum just below its end.
        self._drawn = self._rows[np.minimum(place, len(self._rows) - 1)]
        self._keys = rng.integers(1, 2**64, shape, dtype=np.uint64)
        self._block = block

    def _counts(self, table: ItemTable, n_rows: int, now_ms: int) -> NDArray[np.float64]:
        total = np.zeros(n_rows)
        for column, group, half_life_ms in self._columns:
            age_ms = np.minimum(table.ms[:n_rows, group] - now_ms, 0)
            total += table.value[:n_rows, column] * np.exp2(age_ms / half_life_ms)
        return total


def _strata(last_ms: NDArray[np.int64], now_ms: int) -> NDArray[np.int64]:
    age_ms = now_ms - last_ms
    stratum = np.searchsorted(np.array([HOUR_MS, 24 * HOUR_MS]), age_ms, side="right")
    return np.where(last_ms == 0, NEVER, stratum)


def _stand_ins(n_items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each stratum that holds items, or else the largest one of known items; the last if there are none."""
    largest = int(n_items[:NEVER].argmax()) if n_items[:NEVER].any() else NEVER
    return np.where(n_items > 0, np.arange(N_STRATA), largest)
