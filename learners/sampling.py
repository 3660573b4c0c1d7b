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

A stratum is looked through again when an eighth as many events have gone by as it has items, but not in the middle of
a batch: so its share of a step's time does not grow with the catalogue. Draw n depends on (seed, n), and on the table
as it was then. The module knows neither events nor models.

Legend: B events, N rows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiling import compiled
from features.index import AHEAD, fetch_row
from features.item_table import UNKNOWN, ItemTable
from features.schema import Group, Schema
from learners.snapshots import Look, Strata

HOUR_MS: Final = 3_600_000
BLOCK: Final = 256  # draws made at once: a generator costs more than its numbers
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
N_STRATA: Final = 4
NEVER: Final = 3
MEMORY: Final = 10_000.0  # positives after which a stratum's share is mostly new
MOST_NEVER: Final = 1 / 8
N_SHOWN: Final = 100  # candidates of a usual request
MOST: Final = 0.95  # of a stratum's items that a slate may be asked to hold
MAX_ITERATIONS: Final = 30
TURNOVER: Final = 8  # items of a stratum per event after which it is looked through again
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
    """`refresh` from the table before each batch; `draw` for its events, and `meet` what they happened to.

    `met` is how many positives each stratum had lately. Draws depend on it, on the table, and on what was found when
    each stratum was last looked through: `strata`, with which another one goes on as if it were this one.
    """

    def __init__(self, schema: Schema, config: SamplingConfig, seed: int) -> None:
        self._seed = seed
        self._n_negatives = config.n_negatives
        self.met = np.ones(N_STRATA)
        counted = [g for g in schema.item_groups if g.counter.split is None and not g.counter.use_value]
        lately = _columns((g, min(g.half_lives_ms, key=lambda ms: abs(math.log(ms / SCALE_MS)))) for g in counted)
        in_all = _columns((g, max(g.half_lives_ms)) for g in counted)
        self._columns = (lately, in_all, in_all)
        self._stratum = np.zeros(0, dtype=np.int8)
        """Of every row, as far as noticed."""
        self._is_moved = np.zeros(0, dtype=bool)
        """Rows since `take_strata`."""
        self._is_looked_through = np.zeros(N_STRATA, dtype=bool)
        """Strata since then."""
        self._members = [np.zeros(0, dtype=np.int64) for _ in range(N_STRATA)]
        """Rows by stratum; some may have left it."""
        self._cumulative = [np.ones(1) for _ in range(N_STRATA)]
        self._rows = [np.zeros(0, dtype=np.int64) for _ in range(N_STRATA)]
        """As `_members` when the stratum was last looked through, in their order."""
        self._n_since = np.full(N_STRATA, np.inf)
        self._rolled: dict[int, tuple[NDArray[np.float64], U64]] = {}
        """By block: what the last draw was from; the next one often is too."""
        self._slots = np.full(config.n_negatives, NEVER)

    def meet(self, table: ItemTable, rows_B: I64, last_ms_B: I64, now_ms_B: I64) -> None:
        """Note whose turn it was.

        Args:
            table: In which these events are counted.
            rows_B: Items of positives.
            last_ms_B: When they were acted on before; 0: never.
        """
        note_met(self.met, _strata(last_ms_B, now_ms_B))
        self._cover(table, int(now_ms_B[-1]))
        self._move(np.unique(rows_B[self._stratum[rows_B] != 0]), 0)
        self._n_since += len(rows_B)

    def refresh(self, table: ItemTable, now_ms: int) -> None:
        """Look through the strata whose time has come, as of an instant."""
        self._cover(table, now_ms)
        n_slots = slots_of(self.met, self._n_negatives)
        n_shown = N_SHOWN * n_slots / self._n_negatives
        for number in range(N_STRATA):
            if (self._n_since[number] + 1) * TURNOVER >= len(self._rows[number]):
                self._look_through(number, table, now_ms, float(n_shown[number]))
                self._n_since[number] = 0
        slots = np.repeat(np.arange(N_STRATA), n_slots)
        self._slots = _stand_ins(np.array([len(rows) for rows in self._rows]))[slots]

    def strata(self) -> Strata:
        """Everything, for another one to `load`."""
        return self._strata_of(np.zeros(0, dtype=np.int64), self._stratum, np.arange(N_STRATA))

    def take_strata(self) -> Strata:
        """What changed since the last take."""
        rows = np.flatnonzero(self._is_moved)
        taken = self._strata_of(rows, self._stratum[rows], np.flatnonzero(self._is_looked_through))
        self._is_moved[:], self._is_looked_through[:] = False, False
        return taken

    def load(self, strata: Strata) -> None:
        """Go on from there."""
        self._stratum = strata.stratum.copy()
        self._is_moved = np.zeros(len(self._stratum), dtype=bool)
        self._members = [np.flatnonzero(self._stratum == number) for number in range(N_STRATA)]
        self._n_since = np.array(strata.n_since)
        for number, look in strata.looks.items():
            self._rows[number], self._cumulative[number] = look.rows.astype(np.int64), look.cumulative.copy()

    def draw(self, first: int, n: int) -> tuple[I64, U64]:
        """Rows [n, negatives] of `n` slates from number `first` on, and for each a random key that stands in where the
        row is `UNKNOWN`."""
        blocks = range(first // BLOCK, (first + max(n, 1) - 1) // BLOCK + 1)
        self._rolled = {block: self._rolled.get(block) or self._roll(block) for block in blocks}
        part = slice(first - blocks[0] * BLOCK, first - blocks[0] * BLOCK + n)
        unit, keys = (np.concatenate(parts)[part] for parts in zip(*self._rolled.values(), strict=True))
        rows = np.empty(unit.shape, dtype=np.int64)
        for number in set(self._slots.tolist()):
            pick(self._rows[number], self._cumulative[number], unit, self._slots == number, rows)
        return rows, keys

    def _roll(self, block: int) -> tuple[NDArray[np.float64], U64]:
        rng = np.random.default_rng([self._seed, block])
        shape = (BLOCK, self._n_negatives)
        return rng.random(shape), rng.integers(1, 2**64, shape, dtype=np.uint64)

    def _strata_of(self, rows: I64, stratum: NDArray[np.int8], looked_through: I64) -> Strata:
        looks = {n: Look(self._rows[n].astype(np.uint32), self._cumulative[n].copy()) for n in looked_through.tolist()}
        return Strata(rows.astype(np.uint32), stratum.copy(), self._n_since.tolist(), looks)

    def _cover(self, table: ItemTable, now_ms: int) -> None:
        """Note rows that are new."""
        fresh = np.arange(len(self._stratum), len(table) + 1)
        if not len(fresh):
            return
        stratum = _strata(table.last_ms[fresh], now_ms)
        self._stratum = np.append(self._stratum, np.full(len(fresh), -1, dtype=np.int8))
        self._is_moved = np.append(self._is_moved, np.ones(len(fresh), dtype=bool))
        for number in range(N_STRATA):
            self._move(fresh[stratum == number], number)

    def _move(self, rows: I64, number: int) -> None:
        self._stratum[rows] = number
        self._is_moved[rows] = True
        self._members[number] = np.append(self._members[number], rows)

    def _look_through(self, number: int, table: ItemTable, now_ms: int, n_shown: float) -> None:
        self._is_looked_through[number] = True
        if not self._members[number].any():  # nothing, or the fallback (row 0), which never leaves
            self._rows[number], self._cumulative[number] = self._members[number][:1], np.ones(1)
            return
        rows = np.unique(self._members[number])
        rows = rows[self._stratum[rows] == number]
        stratum = _strata(table.last_ms[rows], now_ms)
        self._members[number] = rows[stratum == number]
        for other in np.unique(stratum[stratum != number]):
            self._move(rows[stratum == other], int(other))
        rows = self._rows[number] = self._members[number]
        weight = np.ones(len(rows))
        if number == NEVER:
            weight[rows == UNKNOWN] = max(len(rows) - 1, 1)
        elif len(rows):
            root = np.sqrt(_counts(table, rows, now_ms, self._columns[number])) + 1e-3
            weight = shown(root, n_shown)
        # Rounding must not leave the last sum below every draw.
        self._cumulative[number] = np.append(np.cumsum(weight[:-1]) / weight.sum(), 1.0) if len(rows) else np.ones(1)


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


@compiled()
def note_met(met: Any, stratum_B: Any) -> None:
    """Note positives one by one: to the last bit it does not matter in how many calls they come."""
    for b in range(len(stratum_B)):
        for number in range(N_STRATA):
            met[number] *= 1.0 - 1.0 / MEMORY
        met[stratum_B[b]] += 1.0


@compiled()
def pick(row_M: Any, cumulative_M: Any, unit_BN: Any, is_asked_N: Any, out_BN: Any) -> None:
    """Draw in the columns that are asked for: the first row whose cumulative weight is above the uniform number."""
    for b in range(unit_BN.shape[0]):
        for n in range(unit_BN.shape[1]):
            if is_asked_N[n]:
                low, high = 0, len(cumulative_M)
                while low < high:
                    middle = (low + high) >> 1
                    if cumulative_M[middle] > unit_BN[b, n]:
                        high = middle
                    else:
                        low = middle + 1
                out_BN[b, n] = row_M[low]


def _columns(counted: Iterable[tuple[Group, float]]) -> NDArray[np.float64]:
    """Where the values of half-lives stand: column, group, and the half-life, of each."""
    found = [(group.start + group.half_lives_ms.index(ms), group.index, ms) for group, ms in counted]
    return np.array(found, dtype=np.float64).reshape(-1, 3)


def _counts(table: ItemTable, rows: I64, now_ms: int, column_CX: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros(len(rows))
    add_counts(rows, table.ms, table.value, now_ms, column_CX, total)
    return total


@compiled()
def add_counts(row_N: Any, ms_NG: Any, value_NF: Any, now_ms: int, column_CX: Any, out_N: Any) -> None:
    """Add decayed counters of some rows, as of an instant.

    Args:
        column_CX: As `_columns` gives them.
    """
    for n in range(len(row_N)):
        if n + AHEAD < len(row_N):
            fetch_row(ms_NG, row_N[n + AHEAD])  # the values stand behind the times
        for c in range(len(column_CX)):
            column, group, half_life_ms = int(column_CX[c, 0]), int(column_CX[c, 1]), column_CX[c, 2]
            age_ms = min(ms_NG[row_N[n], group] - now_ms, 0)
            out_N[n] += value_NF[row_N[n], column] * np.exp2(age_ms / half_life_ms)


def _strata(last_ms: I64, now_ms: I64 | int) -> NDArray[np.int64]:
    age_ms = now_ms - last_ms
    stratum = (age_ms >= HOUR_MS).astype(np.int64) + (age_ms >= 24 * HOUR_MS)
    return np.where(last_ms == 0, NEVER, stratum)


def _stand_ins(n_items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each stratum that holds items, or else the largest one of known items; the last if there are none."""
    largest = int(n_items[:NEVER].argmax()) if n_items[:NEVER].any() else NEVER
    return np.where(n_items > 0, np.arange(N_STRATA), largest)
