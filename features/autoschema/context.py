"""Context columns: which ones a schema should declare, and by which ones counters of items are worth splitting.

A declared field is a key of a small table for each of its values. So fields are refused whose values keep coming
(sessions, instants), are measurements, or nearly never differ.

A split keeps an item's counts apart by the field's value, in hashed buckets, and is paid for by every item. It is
measured as it will be used: events count in the bucket of their own value, the next one is predicted from the bucket
of the value that was known *before* it, the person's latest. So a column that is made of the item itself (its section,
the list it was taken from) does not shine by what is not known yet. Splits are chosen one after the other, each by what
it adds to those before: of two columns that say the same only one is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow.types as kinds
from numpy.typing import NDArray

from features.autoschema import forecast
from features.autoschema.half_lives import around, words
from features.autoschema.sample import Coded, Sample
from features.schema import bucket_of

CONSTANT: Final = 0.995  # share of one value, or of none, from which on a field says next to nothing
MAX_VALUES: Final = 10_000
MAX_NEW: Final = 0.1  # of the second half's events: values that the first half has not seen
MAX_MEASURED: Final = 20  # distinct fractional numbers, beyond which they are measurements
MAX_BUCKETS: Final = 64
MAX_SHARED: Final = 0.05  # of the events: in a bucket that belongs to a more frequent value
MAX_SPLITS: Final = 4
MAX_FIELDS: Final = 64
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """A context column, and what is said of it."""

    name: str
    column: Coded
    n_events: int
    refusal: str = ""
    """Why it is not proposed; empty: it is."""

    @property
    def evidence(self) -> str:
        """How many values it has, how much is the most frequent one, how much is missing."""
        n_missing = self.n_events - int(self.column.counts.sum())
        missing = f", missing in {n_missing / self.n_events:.1%}" if n_missing else ""
        return f"distinct {len(self.column)}, {self.top:.0%} in the most frequent{missing}"

    @property
    def top(self) -> float:
        """Share of the most frequent value, in events that have one."""
        return float(self.column.counts[0] / self.column.counts.sum()) if len(self.column) else 0.0


@dataclass(frozen=True)
class Split:
    """A field by which counters are split."""

    name: str
    n_buckets: int
    shared: float
    """Share of events in a bucket that belongs to a more frequent value."""
    gain: forecast.Gain
    half_lives_s: tuple[float, ...]
    weights: NDArray[np.float64]
    rungs: tuple[float, ...]

    @property
    def evidence(self) -> str:
        """What it is worth."""
        return f"{self.gain.mean:.3f} [+-{1.96 * self.gain.error:.3f}] nats an event more than known before"

    @property
    def weighed(self) -> str:
        """From which half-lives that comes."""
        listed = zip(self.rungs, self.weights, strict=True)
        return "weights in the best mixture: " + ", ".join(f"{words(h)} {w:.1%}" for h, w in listed if w >= 0.001)


@dataclass(frozen=True)
class Ground:
    """What splits are measured on."""

    sample: Sample
    rows: I64
    """The events that are predicted, all of people seen before [R]."""
    known: forecast.F64
    """How likely what came was, without splits [R]."""
    before: I64
    """The event of the same person before each event; -1: none."""
    rungs: tuple[float, ...]
    """Half-lives of counters of items."""


def judged(sample: Sample) -> list[Field]:
    """All context columns in their order, refused or not."""
    fields, n_taken = [], 0
    for name, column in sample.context.items():
        field = Field(name, column, len(sample))
        refusal = _refusal(field)
        if not refusal and n_taken == MAX_FIELDS:
            refusal = f"an event has {MAX_FIELDS} fields at most"
        n_taken += not refusal
        fields.append(replace(field, refusal=refusal))
    return fields


def _refusal(field: Field) -> str:
    column = field.column
    if not len(column):
        return "no event has a value"
    n_missing = field.n_events - int(column.counts.sum())
    if n_missing >= CONSTANT * field.n_events:
        return f"nearly always missing: {n_missing / field.n_events:.2%}"
    if column.counts[0] >= CONSTANT * field.n_events:
        return f"nearly constant: {column.counts[0] / field.n_events:.2%} are {column.text(0)[:40]!r}"
    return _too_many(column)


def _too_many(column: Coded) -> str:
    if kinds.is_floating(column.values.type) and len(column) > MAX_MEASURED and _is_fractional(column):
        return f"{len(column)} different fractional numbers: a measurement; send classes of it, as text"
    new = new_share(column.codes)
    if new > MAX_NEW:
        return f"{len(column)} values that keep coming: {new:.0%} of the second half's events have one not seen before"
    if len(column) > MAX_VALUES:
        return f"too many values: {len(column)}"
    return ""


def _is_fractional(column: Coded) -> bool:
    values = column.values.to_numpy(zero_copy_only=False)
    return bool(np.any(values != np.floor(values)))


def new_share(codes: I64) -> float:
    """Of the second half's events with a value, how many have one that the first half has not seen."""
    middle = len(codes) // 2
    later = codes[middle:][codes[middle:] >= 0]
    return float(1.0 - np.isin(later, codes[:middle]).mean()) if len(later) else 0.0


def splits(ground: Ground, fields: list[Field], on_step: Callable[[str], None]) -> tuple[list[Split], dict[str, str]]:
    """The splits that are worth their memory, best first; and what was found of every other field."""
    left = {field.name: field for field in fields if not field.refusal and field.top < CONSTANT}
    chosen: list[Split] = []
    found: dict[str, str] = {}
    while left and len(ground.rows) and len(chosen) < MAX_SPLITS:
        tried = []
        for field in left.values():
            on_step(f"split by {field.name}")
            tried.append(_split(ground, field))
        found |= {split.name: _beside(split, chosen) for split in tried}
        worth = sorted((split for split in tried if split.gain.is_worth), key=lambda split: split.gain.mean)
        if not worth:
            break
        best = worth.pop()
        left = {split.name: left[split.name] for split in worth}
        del found[best.name]
        chosen.append(best)
        ground = replace(ground, known=best.gain.likelihood)
    return chosen, found


def _beside(split: Split, chosen: list[Split]) -> str:
    after = f" after {', '.join(one.name for one in chosen)}" if chosen else ""
    return f"counters split by it would gain {max(split.gain.mean, 0.0):.3f} nats an event{after}"


def _split(ground: Ground, field: Field) -> Split:
    n_buckets, shared = buckets(field.column)
    place = np.array([bucket_of(value, n_buckets) for value in field.column.values.to_pylist()] + [-1], np.int64)
    own = place[field.column.codes]
    asked = np.where(ground.before >= 0, own[ground.before], -1)
    gain = forecast.gain(ground.sample, ground.rows, (own, asked), ground.rungs, ground.known)
    return Split(
        field.name, n_buckets, shared, gain, around(ground.rungs, gain.weights), gain.weights, ground.rungs
    )  # fmt: skip


def buckets(column: Coded) -> tuple[int, float]:
    """The smallest power of two under which few events share a bucket with a more frequent value; and how many do."""
    values, counts = column.values.to_pylist(), column.counts
    n_buckets, shared = 1, 1.0
    while shared > MAX_SHARED and n_buckets < MAX_BUCKETS:
        n_buckets *= 2
        place = np.array([bucket_of(value, n_buckets) for value in values])
        largest = np.zeros(n_buckets)
        np.maximum.at(largest, place, counts)
        shared = float(1.0 - largest.sum() / counts.sum())
    return n_buckets, shared
