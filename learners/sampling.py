"""Negatives for events that come without impressions: drawn from what was known when the event happened.

What is never among the negatives is never pushed down: a network trained only against recently clicked items puts old
and unseen ones on top as soon as they are offered. So the items are divided into strata by when they were last acted
on, and each stratum has its own slots in every slate, as many as its share of the positives lately, but never none:

    active (within the hour)  |  today (1 to 24 h)  |  older  |  never

What people take is the best guess at what will be asked: in news nearly all of it is of the hour, among films half is
older than a day.

Within a stratum an item is drawn as often as it would be shown in a slate of `N_SHOWN` *distinct* candidates that
were picked by the square root of their counts: the most popular one is in every slate, but only once. Drawn by the
root alone it would fill a tenth of every slate here and a hundredth of any that is asked; popularity would then be
learned to count for less than it does. Counts are those of the stratum's own time: of the last half hour among the
active, of the longest half-life among the others.

In the last stratum half of the draws are items that nobody has heard of. The slots of an empty stratum go to the
largest one of known items: a young stream must not be learned against the unheard-of alone.

Draw n depends on (seed, n), and on the table and the shares at the last `refresh`, which costs a pass over all items
(10 ms for 50,000) and is made once a batch. The module knows neither events nor models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.item_table import UNKNOWN, ItemTable
from features.schema import Group, Schema

HOUR_MS: Final = 3_600_000
BLOCK: Final = 256  # draws made at once: a generator costs more than its numbers
N_STRATA: Final = 4
NEVER: Final = 3
MEMORY: Final = 10_000.0  # positives after which a stratum's share is mostly new
MOST_NEVER: Final = 1 / 8
N_SHOWN: Final = 100  # candidates of a usual request
MOST: Final = 0.95  # of a stratum's items that a slate may be asked to hold
MAX_ITERATIONS: Final = 30
SCALE_MS: Final = 1_800_000.0  # how long ago an active item was acted on, in the middle


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Size of a slate."""

    n_negatives: int = 24
    """Negatives of an event; more cost time and were not seen to help."""

    def __post_init__(self) -> None:
        if not N_STRATA <= self.n_negatives <= 1024:
            raise ValueError(f"sampling.n_negatives: expected {N_STRATA} to 1024, got {self.n_negatives}")


class NegativeSampler:
    """`refresh` from the table once a batch; for each event `draw`, and `meet` what it happened to.

    `met` is how many positives each stratum had lately; with the table it is all that draws depend on.
    """

    def __init__(self, schema: Schema, config: SamplingConfig, seed: int) -> None:
        self._seed = seed
        self._n_negatives = config.n_negatives
        self.met = np.ones(N_STRATA)
        counted = [g for g in schema.item_groups if g.counter.split is None and not g.counter.use_value]
        self._lately = [_column(g, min(g.half_lives_ms, key=lambda ms: abs(math.log(ms / SCALE_MS)))) for g in counted]
        self._in_all = [_column(g, max(g.half_lives_ms)) for g in counted]
        self._rows = np.zeros(1, dtype=np.int64)
        self._cumulative = np.zeros(1)
        self._wanted = np.full(config.n_negatives, float(NEVER))
        self._block = -1

    def meet(self, last_ms: int, now_ms: int) -> None:
        """Note the stratum of a positive.

        Args:
            last_ms: When its item was acted on before; 0: never.
        """
        self.met *= 1.0 - 1.0 / MEMORY
        self.met[int(_strata(np.array([last_ms]), now_ms)[0])] += 1.0

    def refresh(self, table: ItemTable, now_ms: int) -> None:
        """Divide the table's items into strata as of an instant."""
        n_rows = len(table) + 1
        stratum = _strata(table.last_ms[:n_rows], now_ms)
        n_slots = slots_of(self.met, self._n_negatives)
        n_shown = N_SHOWN * n_slots / self._n_negatives
        weight = np.ones(n_rows)
        for number, columns in enumerate((self._lately, self._in_all, self._in_all)):
            rows = np.flatnonzero(stratum == number)
            if len(rows):
                root = np.sqrt(_counts(table, rows, now_ms, columns)) + 1e-3
                weight[rows] = shown(root, float(n_shown[number]))
        n_unseen = int((stratum == NEVER).sum()) - 1
        weight[UNKNOWN] = max(n_unseen, 1)
        order = np.argsort(stratum, kind="stable")
        totals = np.bincount(stratum, weight, N_STRATA)
        summed = np.cumsum(weight[order])
        starts = np.concatenate([[0.0], np.cumsum(totals)[:-1]])
        ordered = stratum[order]
        # Stratum s takes the interval (s, s + 1]: one search serves all.
        self._cumulative = ordered + (summed - starts[ordered]) / totals[ordered]
        self._rows = order
        slots = np.repeat(np.arange(N_STRATA), n_slots)
        self._wanted = _stand_ins(np.bincount(stratum, minlength=N_STRATA))[slots].astype(np.float64)
        self._block = -1

    def draw(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Rows of the n-th slate's negatives, and for each a random key that stands in where the row is `UNKNOWN`."""
        if n // BLOCK != self._block:
            self._draw_block(n // BLOCK)
        return self._drawn[n % BLOCK], self._keys[n % BLOCK]

    def _draw_block(self, block: int) -> None:
        rng = np.random.default_rng([self._seed, block])
        shape = (BLOCK, self._n_negatives)
        place = np.searchsorted(self._cumulative, self._wanted + rng.random(shape), side="right")
        # Rounding may leave a stratum's last sum just below its end.
        self._drawn = self._rows[np.minimum(place, len(self._rows) - 1)]
        self._keys = rng.integers(1, 2**64, shape, dtype=np.uint64)
        self._block = block


def slots_of(met: NDArray[np.float64], n_negatives: int) -> NDArray[np.int64]:
    """Slots of each stratum: as its share of the positives, at least one, and of the last at most `MOST_NEVER`.

    Items nobody has acted on are all alike: many of them in a slate teach no more than a few.
    """
    n_never = int(np.clip(np.floor(n_negatives * met[NEVER] / met.sum()), 1, max(1, n_negatives * MOST_NEVER)))
    n_left = n_negatives - n_never
    known = met[:NEVER] + 1e-9
    n_known = np.maximum(np.floor(n_left * known / known.sum()), 1).astype(np.int64)
    n_known[known.argmax()] += n_left - n_known.sum()
    return np.append(n_known, n_never)


def shown(weight_N: NDArray[np.float64], n_shown: float) -> NDArray[np.float64]:
    """How likely each item is among `n_shown` distinct ones picked one after the other by weight.

    p_n = 1 - exp(-t w_n), with t such that they add up to `n_shown`; to at most 95 % of all items where those are few.

    Args:
        weight_N: Positive.
    Returns:
        Probabilities, within about a hundredth of those of picking.
    Source: Rosén, J. Stat. Planning and Inference 1997 (order sampling: picking by weight without replacement is taking
        the first of exponential clocks; t is the time when `n_shown` of them have rung).
    """
    n_wanted = min(n_shown, MOST * len(weight_N))
    time = n_wanted / weight_N.sum()
    for _ in range(MAX_ITERATIONS):
        left_N = np.exp(-time * weight_N)
        missing = n_wanted - (1.0 - left_N).sum()
        if missing < 1e-3 * n_wanted:
            break
        # Newton's method on a concave function, from the left: it never overshoots.
        time += missing / (weight_N * left_N).sum()
    found: NDArray[np.float64] = 1.0 - np.exp(-time * weight_N)
    return found


def _column(group: Group, half_life_ms: float) -> tuple[int, int, float]:
    """Where the value of a half-life stands: its column, its group, and the half-life."""
    return group.start + group.half_lives_ms.index(half_life_ms), group.index, half_life_ms


def _counts(
    table: ItemTable, rows: NDArray[np.int64], now_ms: int, columns: Sequence[tuple[int, int, float]]
) -> NDArray[np.float64]:
    total = np.zeros(len(rows))
    for column, group, half_life_ms in columns:
        age_ms = np.minimum(table.ms[rows, group] - now_ms, 0)
        total += table.value[rows, column] * np.exp2(age_ms / half_life_ms)
    return total


def _strata(last_ms: NDArray[np.int64], now_ms: int) -> NDArray[np.int64]:
    age_ms = now_ms - last_ms
    stratum = np.searchsorted(np.array([HOUR_MS, 24 * HOUR_MS]), age_ms, side="right")
    return np.where(last_ms == 0, NEVER, stratum)


def _stand_ins(n_items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each stratum that holds items, or else the largest one of known items; the last if there are none."""
    largest = int(n_items[:NEVER].argmax()) if n_items[:NEVER].any() else NEVER
    return np.where(n_items > 0, np.arange(N_STRATA), largest)
