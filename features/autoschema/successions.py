"""What a person's next item has to do with the ones before it: how many count, for how long, and how many to remember.

Counts of items after an item are counts kept apart by the item before (`forecast`). How much the k-th item
before adds to what the nearer ones tell says how many to count; how much an item adds by how long ago it was says for
how long. How many successors an item must remember is found by keeping lists of them, the latest first, as
`features.item_table` does: how deep in the list stands what comes next?
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.autoschema import forecast
from features.autoschema.half_lives import DAY_S, HOUR_S, LADDER, at_share, rung_above, rungs_within, words
from features.autoschema.sample import Sample
from features.compiling import compiled

MAX_SPAN: Final = 10
MIN_SHARE: Final = 0.005  # of what the item before tells, that a further one must add
MIN_WINDOW_S: Final = 600.0
FEW: Final = 16  # successors, where they tell nothing
DEPTHS: Final = (16, 32, 64, 128, 256, 512)
WORTH: Final = 0.03  # of all cases: what twice as many successors must find besides
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Successions:
    """How successors are to be kept, each with the evidence."""

    n_successors: int
    span: int
    window_s: float
    half_lives_s: tuple[float, ...]
    notes: dict[str, str]


def previous(sample: Sample) -> I64:
    """The event of the same person before each event, in the same stretch; -1: none."""
    user, stretch = sample.user.codes, sample.stretch
    order = np.lexsort((np.arange(len(user)), user))
    is_next = (user[order][1:] == user[order][:-1]) & (stretch[order][1:] == stretch[order][:-1])
    found = np.full(len(user), -1, np.int64)
    found[order[1:][is_next]] = order[:-1][is_next]
    return found


def successions(
    sample: Sample, rows: I64, known: forecast.F64, before: I64, on_step: Callable[[str], None]
) -> Successions:
    """How successors are to be kept; few of them, if what comes next has nothing to do with what came before.

    Args:
        rows: The events that are predicted, all of people seen before [R].
        known: How likely what came was, without the items before [R].
        before: As `previous`.
    """
    on_step("what follows what")
    rungs = rungs_within(sample.span_s)
    if not len(rows):
        return _nothing("nobody seen before came to an item seen before")
    first = _gain(sample, rows, known, before, rungs)
    if not first.is_worth:
        return _nothing(f"few, as the item before tells {max(first.mean, 0.0):.3f} nats an event of the next one")
    half_lives_s = _spread(rungs, first.weights)
    window_s, window_note = _window(sample, rows, before, first)
    gains = _further(sample, rows, first, before, half_lives_s)
    span = 1 + len(gains)
    on_step("how many successors")
    n_successors, n_note = _depth(sample, before, span, window_s)
    shares = ", ".join(f"{words(h)} {w:.1%}" for h, w in zip(rungs, first.weights, strict=True) if w >= 0.001)
    listed = ", ".join(f"{g:.3f}" for g in (first.mean, *gains))
    notes = {
        "n_successors": n_note,
        "successor_span": f"the items before, one after the other, add {listed} nats an event",
        "successor_window_s": window_note,
        "successor_half_lives_s": f"weights in the best mixture: {shares}",
    }
    return Successions(n_successors, span, window_s, half_lives_s, notes)


def _nothing(why: str) -> Successions:
    return Successions(FEW, 1, 2 * HOUR_S, (DAY_S,), {"n_successors": why})


def _gain(sample: Sample, rows: I64, known: forecast.F64, at: I64, half_lives_s: tuple[float, ...]) -> forecast.Gain:
    """What the item of another event of the same person tells, -1: of none."""
    code = np.where(at >= 0, sample.item.codes[at], -1)
    return forecast.gain(sample, rows, (code, code), half_lives_s, known)


def _spread(rungs: tuple[float, ...], weights: NDArray[Any]) -> tuple[float, ...]:
    """Two or three rungs: two between which half of the weight lies, and one beyond where it ends."""
    low, high = at_share(weights, 0.25), at_share(weights, 0.75)
    end = min(at_share(weights, 0.9) + 1, len(rungs) - 1)
    return tuple(rungs[at] for at in sorted({low, high, end}))


def _further(
    sample: Sample, rows: I64, first: forecast.Gain, before: I64, half_lives_s: tuple[float, ...]
) -> list[float]:
    """What the second, third, … item before adds to the nearer ones, as long as it adds something."""
    gains: list[float] = []
    at, known = before, first.likelihood
    while len(gains) + 1 < MAX_SPAN:
        at = np.where(at >= 0, before[at], -1)
        one = _gain(sample, rows, known, at, half_lives_s)
        if one.mean < MIN_SHARE * first.mean or one.mean < 2 * one.error:
            break
        gains.append(one.mean)
        known = one.likelihood
    return gains


def _window(sample: Sample, rows: I64, before: I64, first: forecast.Gain) -> tuple[float, str]:
    """The rung after the last at which an item of that age still tells something."""
    age_s = (sample.ts_ms[rows] - sample.ts_ms[before[rows]]) / 1000.0
    place = np.searchsorted(LADDER, age_s)
    last_s = 0.0
    for rung in range(len(LADDER)):
        each = first.each[place == rung]
        if len(each) >= 100 and each.mean() > max(0.1 * first.mean, 2 * each.std() / np.sqrt(len(each))):
            last_s = LADDER[rung]
    window_s = max(rung_above(last_s), MIN_WINDOW_S)
    return window_s, f"an item tells something of the next one up to {words(last_s)} after it; one rung more"


def _depth(sample: Sample, before: I64, span: int, window_s: float) -> tuple[int, str]:
    """How many successors an item remembers, and why."""
    lists = _predecessors(sample, before, span, window_s)
    capacity = np.minimum(np.bincount(lists[lists >= 0], minlength=len(sample.item)), DEPTHS[-1])
    start = np.append(0, np.cumsum(capacity))
    depth = np.full(len(sample), -1, np.int64)
    _depths(sample.item.codes, lists, start, np.zeros(len(capacity), np.int64), np.full(start[-1], -1, np.int64), depth)
    n_asked = max(int(np.count_nonzero(lists[:, 0] >= 0)), 1)
    found = np.array([np.count_nonzero((depth >= 0) & (depth < n)) for n in DEPTHS]) / n_asked
    at = int(np.argmax(np.append(np.diff(found) < WORTH, True)))
    listed = ", ".join(f"{n}: {share:.0%}" for n, share in zip(DEPTHS, found, strict=True))
    return DEPTHS[at], f"how often the next item is among so many last ones: {listed}"


def _predecessors(sample: Sample, before: I64, span: int, window_s: float) -> I64:
    """Items [N, P] before each event, nearest first; -1: none, too old, or the same item."""
    found = np.full((len(sample), span), -1, np.int64)
    at = before
    for k in range(span):
        item = np.where(at >= 0, sample.item.codes[at], -1)
        is_old = sample.ts_ms - sample.ts_ms[at] > window_s * 1000.0
        found[:, k] = np.where(is_old | (item == sample.item.codes), -1, item)
        at = np.where(at >= 0, before[at], -1)
    return found


@compiled()
def _depths(item: Any, lists: Any, start: Any, size: Any, memory: Any, depth: Any) -> None:
    """Keep each item's successors, the latest first; and how deep each event's item stood in the list before it."""
    for e in range(len(item)):
        for k in range(lists.shape[1]):
            owner = lists[e, k]
            if owner < 0:
                continue
            first, n = start[owner], size[owner]
            at = 0
            while at < n and memory[first + at] != item[e]:
                at += 1
            if k == 0 and at < n:
                depth[e] = at
            if at == n:
                if first + n < start[owner + 1]:
                    size[owner] = n + 1
                else:
                    at = n - 1
            for place in range(at, 0, -1):
                memory[first + place] = memory[first + place - 1]
            memory[first] = item[e]
