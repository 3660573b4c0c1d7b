"""What decayed counts tell about the next event: the measure by which a schema is chosen.

    p(item) = sum_h w_h c_h(item) / C_h  +  w_0 / n          weights by expectation maximisation

`c_h` are counts with half-life h as they were just before an event, `C_h` their sum over items, n the number of items
seen by then. How likely the item was that came, as the mean logarithm over many events, says how much a set of
half-lives knows; the weights say from which of them. Counts that are kept apart by something (a context field, the item
before) say p(item | it) = (c + M q) / (C + M) on top of what is known without them, q, and gain the more the more they
know. All of it looks forward: counts are from before the event. So small counts do not flatter themselves: what differs
between two values by chance predicts nothing and gains nothing.

An event is predicted from what *others* did with its item: what the same person did with it is taken out of both
counts, and standard errors are over people. Else everybody's habits would pass for something that all people with the
same context share. Items that nobody has met are not predicted; no count knows them.

Nothing here knows what a schema is. The price: one pass over the events for each set of counts.

Legend: N events, R events that are predicted, H half-lives, J parts of a mixture.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.autoschema.sample import Sample
from features.compiling import compiled

N_PREDICTED: Final = 200_000  # events; the mean of so many is certain to less than .01
WARM_UP: Final = 0.1  # of the events, before anything is predicted
N_STEPS: Final = 100  # of expectation maximisation
PRIOR: Final = 20.0  # events' worth of what is known without the split
MIN_GAIN: Final = 0.01  # nats an event, worth the memory: the next item is one of one percent fewer
N_ERRORS: Final = 4  # a gain of as many standard errors is not chance, though some columns are tried
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Keys(NamedTuple):
    """Where each event counts: the sum it belongs to, and the count in it; -1: nowhere."""

    group: I64  # [N]
    cell: I64  # [N]
    own: I64  # [N] and the count of the same person in that


class Counts(NamedTuple):
    """What was counted just before the events that are predicted."""

    of_item: F64  # [R, H]
    of_all: F64  # [R, H]


class Mixture(NamedTuple):
    """The best mixture of some predictions."""

    weights: F64  # [J]
    likelihood: F64  # [R] of what came


class Gain(NamedTuple):
    """What counts that are kept apart add to what was known, in nats an event."""

    mean: float
    error: float
    """Standard error."""
    each: F64
    """Of every event [R]."""
    weights: F64
    """Of the half-lives [H], as far as they are counts and not what is known without."""
    likelihood: F64
    """With it [R]."""

    @property
    def is_worth(self) -> bool:
        """Whether it is more than chance, and more than next to nothing."""
        return self.mean >= max(MIN_GAIN, N_ERRORS * self.error)


@dataclass(frozen=True)
class Popularity:
    """What plain counts know."""

    half_lives_s: tuple[float, ...]
    rows: I64
    """Numbers of the events that are predicted [R]."""
    weights: F64
    """Of the half-lives in the best mixture, and at last of knowing nothing."""
    alone: F64
    """Mean log likelihood of each half-life mixed with knowing nothing [H]."""
    likelihood: F64
    """Of what came, under the best mixture [R]."""

    @property
    def best(self) -> int:
        """Which half-life is best alone."""
        return int(np.argmax(self.alone)) if len(self.rows) else 0


def popularity(sample: Sample, half_lives_s: tuple[float, ...], of_type: int | None = None) -> Popularity:
    """Predict items from how often they came.

    Args:
        of_type: Look at events of one type alone.
    """
    code = np.zeros(len(sample), np.int64) if of_type is None else np.where(sample.type.codes == of_type, 0, -1)
    is_new = is_first(sample.item.codes, code)
    rows = predicted(code >= 0, is_new)
    if not len(rows):
        nothing = np.zeros(len(half_lives_s))
        return Popularity(half_lives_s, rows, np.append(nothing, 1.0), nothing, np.zeros(0))
    of_item, of_all = counts_before(sample, apart(sample, code, code), rows, half_lives_s)
    n_seen = np.cumsum(is_new & (code >= 0), dtype=np.int64)[rows]
    parts = np.column_stack([of_item / np.maximum(of_all, 1e-12), 1.0 / n_seen])
    alone = [mixture(parts[:, [h, -1]]).likelihood for h in range(len(half_lives_s))]
    weights, likelihood = mixture(parts)
    return Popularity(half_lives_s, rows, weights, np.array([np.log(p).mean() for p in alone]), likelihood)


def known_of_all(sample: Sample, plain: Popularity, rows: I64) -> F64:
    """How likely what came was from counts of all, in the form that counts kept apart have; their gain is over this.

    Args:
        rows: Some of those that `plain` predicts.
    """
    everywhere = np.zeros(len(sample), np.int64)
    known = plain.likelihood[np.searchsorted(plain.rows, rows)]
    return gain(sample, rows, (everywhere, everywhere), plain.half_lives_s, known).likelihood


def gain(sample: Sample, rows: I64, codes: tuple[I64, I64], half_lives_s: tuple[float, ...], known: F64) -> Gain:
    """What counts that are kept apart by a code add to the likelihood of what came.

    Args:
        rows: The events that are predicted, ascending [R].
        codes: Of each event, under which it counts, and under which it is looked, as `apart`.
        known: The likelihood without them [R].
    """
    counts = counts_before(sample, apart(sample, *codes), rows, half_lives_s)
    share = counts.of_all / (counts.of_all + PRIOR)
    parts = (counts.of_item + PRIOR * known[:, None]) / (counts.of_all + PRIOR)
    weights, likelihood = mixture(np.column_stack([parts, known]))
    each = np.log(likelihood / known)
    error = _error(each, sample.user.codes[rows])
    return Gain(float(each.mean()), error, each, weights[:-1] * share.mean(axis=0), likelihood)


def _error(each: F64, user: I64) -> float:
    """The standard error of a mean over events, those of one person not being independent."""
    return float(np.sqrt(np.sum(np.bincount(user, each - each.mean()) ** 2)) / len(each))


def mixture(parts: F64) -> Mixture:
    """The weights, none negative, of sum 1, under which what came was most likely.

    Args:
        parts: How likely each part took what came [R, J]; never all 0.
    """
    weights = np.full(parts.shape[1], 1.0 / parts.shape[1])
    for _ in range(N_STEPS):
        weights = weights * ((1.0 / (parts @ weights)) @ parts) / len(parts)
    return Mixture(weights, parts @ weights)


def is_first(item: I64, code: I64) -> Bools:
    """Whether the item has not come before with this code."""
    found = np.zeros(len(item), dtype=bool)
    found[np.unique((code + 1) * (int(item.max(initial=0)) + 1) + item, return_index=True)[1]] = True
    return found


def predicted(counts: Bools, is_new: Bools) -> I64:
    """Which of the events that count are predicted: after the warm-up, those of known items, evenly thinned out."""
    is_late = np.cumsum(counts) > WARM_UP * np.count_nonzero(counts)
    rows: I64 = np.flatnonzero(counts & ~is_new & is_late)
    return rows[:: max(1, -(-len(rows) // N_PREDICTED))]


def apart(sample: Sample, fold: I64, ask: I64) -> tuple[Keys, Keys]:
    """Keys of counts of items, kept apart by a code: where events count, and where it is looked what has counted.

    Args:
        fold: The code of each event, under which it counts; -1: it does not.
        ask: The code that is known when it is predicted; -1: none.
    """
    n_items, user = len(sample.item), sample.user.codes
    fold_cell = np.where(fold >= 0, fold * n_items + sample.item.codes, -1)
    ask_cell = np.where(ask >= 0, ask * n_items + sample.item.codes, -1)
    fold_cell, ask_cell = _numbered(fold_cell, ask_cell)
    n_cells = int(fold_cell.max(initial=0)) + 1
    fold_own = np.where(fold_cell >= 0, user * n_cells + fold_cell, -1)
    ask_own = np.where(ask_cell >= 0, user * n_cells + ask_cell, -1)
    fold_own, ask_own = _numbered(fold_own, ask_own)
    return Keys(fold, fold_cell, fold_own), Keys(ask, ask_cell, ask_own)


def _numbered(fold: I64, ask: I64) -> tuple[I64, I64]:
    """The same with numbers from 0 up; -1 stays, and is what is asked for and never counted."""
    known, number = np.unique(np.append(fold, -1), return_inverse=True)
    at = np.minimum(np.searchsorted(known, ask), len(known) - 1)
    return number[:-1] - 1, np.where(known[at] == ask, at, 0) - 1


def counts_before(sample: Sample, keys: tuple[Keys, Keys], rows: I64, half_lives_s: tuple[float, ...]) -> Counts:
    """Decayed counts just before some events, without what the same person did with the same item.

    Args:
        keys: As `apart`.
        rows: The events that are predicted, ascending [R].
    """
    fold, ask = keys
    n_half_lives = len(half_lives_s)
    out = Counts(np.zeros((len(rows), n_half_lives)), np.zeros((len(rows), n_half_lives)))
    kept: list[NDArray[Any]] = []
    for codes in zip(fold, ask, strict=True):
        n = max(int(code.max(initial=0)) for code in codes) + 1
        kept += [np.zeros(n, np.int64), np.zeros((n, n_half_lives), np.float32)]
    _live_through(sample.ts_ms, fold, ask, rows, 0.001 / np.array(half_lives_s), tuple(kept), out)
    return out


@compiled()
def _live_through(ts_ms: Any, fold: Any, ask: Any, rows: Any, decay_per_ms: Any, kept: Any, out: Any) -> None:
    """Count the events; before each one that is predicted, look at the counts."""
    group_ms, group_value, cell_ms, cell_value, own_ms, own_value = kept
    at = 0
    for e in range(len(ts_ms)):
        now = ts_ms[e]
        if at < len(rows) and rows[at] == e:
            for h in range(len(decay_per_ms)):
                own = _left(ask.own[e], own_ms, own_value, now, h, decay_per_ms)
                out.of_item[at, h] = max(_left(ask.cell[e], cell_ms, cell_value, now, h, decay_per_ms) - own, 0.0)
                out.of_all[at, h] = max(_left(ask.group[e], group_ms, group_value, now, h, decay_per_ms) - own, 0.0)
            at += 1
        if fold.group[e] >= 0:
            _add(fold.group[e], group_ms, group_value, now, decay_per_ms)
            _add(fold.cell[e], cell_ms, cell_value, now, decay_per_ms)
            _add(fold.own[e], own_ms, own_value, now, decay_per_ms)


@compiled()
def _left(row: Any, ms: Any, value: Any, now: Any, h: Any, decay_per_ms: Any) -> Any:
    """What is left of a count."""
    return value[row, h] * np.exp2((ms[row] - now) * decay_per_ms[h]) if row >= 0 else 0.0


@compiled()
def _add(row: Any, ms: Any, value: Any, now: Any, decay_per_ms: Any) -> None:
    """Count one more."""
    for h in range(len(decay_per_ms)):
        value[row, h] = value[row, h] * np.exp2((ms[row] - now) * decay_per_ms[h]) + 1.0
    ms[row] = now
