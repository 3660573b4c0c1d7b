"""A schema proposed from a sample of events, each part of it with what speaks for it.

    event types     all that were seen: an undeclared one would be refused
    counters        of items by how well their decayed counts predict what comes next (`forecast`), apart for each
                    frequent type; split by the context that predicts best (`context`); of people by the pauses
                    between their events
    n_recent        by how long histories are, and after how many events people come back to an item
    successors      by what an item says of the next ones (`successions`)
    attributes      by the columns of tables of items and people (`attributes`)

The module reads no file and writes none: it gets a sample, and returns a `Proposal`. The same sample gives the same
proposal. What it does not know: what a reward is, and what a model would make of all this. It counts; whether rankings
get better is for `headrace evaluate` to say.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.autoschema import forecast
from features.autoschema.attributes import attribute_columns
from features.autoschema.context import Field, Ground, Split, judged, splits
from features.autoschema.half_lives import DAY_S, HOUR_S, MINUTE_S, covering, nearest, rungs_within, words
from features.autoschema.sample import Sample
from features.autoschema.successions import previous, successions
from features.schema import Attribute, Counter, Entity, Schema

MIN_EVENTS: Final = 1000  # of a type, to be counted apart
MIN_SHARE: Final = 0.01
MAX_TYPES: Final = 8  # counted apart
VISIT_S: Final = 1800.0  # a pause longer than half an hour ends a visit, as in web analytics
ATTENDED: Final = 20  # recent items that the model attends to
SIZES: Final = (16, 32, 64, 128)
SHORTEST_S: Final = 2 * MINUTE_S  # of counters of people: the last seconds are in the recent items
USER_HALF_LIVES_S: Final = (30 * MINUTE_S, DAY_S)
ITEM_HALF_LIVES_S: Final = (2 * MINUTE_S, 30 * MINUTE_S, 6 * HOUR_S, 7 * DAY_S)
I64 = NDArray[np.int64]
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Proposal:
    """A schema and why it is so."""

    schema: Schema
    notes: dict[str, str] = field(default_factory=dict)
    """What speaks for a line: by its name, `n_recent`, `context.os`, `counters.item.click.half_lives_s`."""
    asides: dict[str, list[str]] = field(default_factory=dict)
    """What was looked at and not proposed, and why: by the table it is left out of."""


@dataclass(frozen=True)
class Counters:
    """Some counters and what speaks for them."""

    counters: list[Counter]
    notes: dict[str, str]


def n_steps(sample: Sample) -> int:
    """About how often `propose` says what it does."""
    return 6 + len(_apart(sample)) + 2 * len(judged(sample))


def propose(
    sample: Sample, items: pa.Table | None = None, users: pa.Table | None = None, on_step: OnStep = lambda _: None
) -> Proposal:
    """Choose a schema for a stream.

    Args:
        items, users: Attributes, as `features.attribute_table` takes them.
        on_step: Called with what is measured next.
    Raises:
        InvalidInput: If such a table lacks the column of ids.
    """
    on_step("half-lives of items")
    everything = forecast.popularity(sample, rungs_within(sample.span_s))
    before, fields = previous(sample), judged(sample)
    plain = _item_counters(sample, everything, on_step)
    ground = _ground(sample, everything, before)
    chosen, found = splits(ground, fields, on_step)
    apart = _split_counters(sample, chosen)
    follows = successions(sample, ground.rows, ground.known, before, on_step)
    on_step("people")
    people = _user_counters(sample, before)
    n_recent, recent_note = _n_recent(sample)
    attributes, notes, asides = _attributes(items, users)
    asides["context"] = [f"{f.name}: {f.refusal}" for f in fields if f.refusal]
    asides["counters"] = _unsplit(ground, found)
    return Proposal(
        Schema(
            event_types=tuple(sample.type.text(n) for n in range(len(sample.type))),
            context=tuple(f.name for f in fields if not f.refusal),
            counters=(*plain.counters, *apart.counters, *people.counters),
            attributes=tuple(attributes),
            n_recent=n_recent,
            n_successors=follows.n_successors,
            successor_span=min(follows.span, n_recent),
            successor_window_s=follows.window_s,
            successor_half_lives_s=follows.half_lives_s,
        ),
        {
            **_type_notes(sample), **_context_notes(fields), **plain.notes, **apart.notes, **people.notes, **notes,
            **follows.notes, "n_recent": recent_note,
        },
        asides,
    )  # fmt: skip


def _apart(sample: Sample) -> list[int]:
    """Types that are counted apart."""
    enough = max(MIN_EVENTS, MIN_SHARE * len(sample))
    frequent = [n for n in range(len(sample.type)) if sample.type.counts[n] >= enough]
    return frequent[:MAX_TYPES] or [0]


def _groups(sample: Sample) -> dict[str, list[int]]:
    """Types by the name of the counter that they share."""
    apart = _apart(sample)
    groups = {sample.type.text(n): [n] for n in apart}
    rest = [n for n in range(len(sample.type)) if n not in apart]
    if rest:
        groups[_free("other", set(map(sample.type.text, range(len(sample.type)))))] = rest
    return groups


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _item_counters(sample: Sample, everything: forecast.Popularity, on_step: OnStep) -> Counters:
    counters, notes = [], {}
    for name, types in _groups(sample).items():
        of_type = everything
        if len(types) == 1 and len(sample.type) > 1:
            on_step(f"half-lives of {name}")
            of_type = forecast.popularity(sample, everything.half_lives_s, types[0])
            of_type = of_type if len(of_type.rows) >= MIN_EVENTS else everything
        half_lives_s, note = _ladder(of_type)
        texts = tuple(map(sample.type.text, types))
        counters.append(Counter(name=name, entity="item", types=texts, half_lives_s=half_lives_s))
        is_shared = of_type is everything and len(sample.type) > 1
        notes[f"counters.item.{name}.half_lives_s"] = note + ("; of all types" if is_shared else "")
    return Counters(counters, notes)


def _ladder(found: forecast.Popularity) -> tuple[tuple[float, ...], str]:
    """Half-lives, and why these."""
    if not len(found.rows):
        return ITEM_HALF_LIVES_S, "a guess: no event could be predicted from those before"
    weights = found.weights[:-1]
    listed = ", ".join(f"{words(h)} {w:.0%}" for h, w in zip(found.half_lives_s, weights, strict=True) if w >= 0.01)
    best = found.half_lives_s[found.best]
    alone = f"best alone {words(best)}, {found.alone[found.best]:.3f} nats an event"
    return covering(found.half_lives_s, weights, found.best), f"{alone}; weights in the best mixture: {listed}"


def _ground(sample: Sample, everything: forecast.Popularity, before: I64) -> Ground:
    rows = everything.rows[before[everything.rows] >= 0]
    known = forecast.known_of_all(sample, everything, rows) if len(rows) else np.zeros(0)
    return Ground(sample, rows, known, before, _ladder(everything)[0])


def _split_counters(sample: Sample, chosen: list[Split]) -> Counters:
    counters, notes = [], {}
    types = tuple(sample.type.text(n) for n in range(len(sample.type)))
    taken = set(_groups(sample))
    for split in chosen:
        name = _free(f"by_{split.name}", taken)
        taken.add(name)
        counters.append(
            Counter(
                name=name, entity="item", types=types, half_lives_s=split.half_lives_s, split=split.name,
                n_buckets=split.n_buckets,
            )
        )  # fmt: skip
        where = f"counters.item.{name}"
        notes[f"{where}.split"] = split.evidence
        notes[f"{where}.half_lives_s"] = split.weighed
        notes[f"{where}.n_buckets"] = f"{split.shared:.1%} of events share one with a more frequent value"
    return Counters(counters, notes)


def _unsplit(ground: Ground, found: dict[str, str]) -> list[str]:
    if not len(ground.rows):
        return ["by nothing: nobody seen before came to an item seen before, so that no split could be measured"]
    return [f"{name}: {text}" for name, text in found.items()]


def _user_counters(sample: Sample, before: I64) -> Counters:
    """Counters of people: half-lives from the pauses between their events."""
    follows = before >= 0
    gap_s = (sample.ts_ms[follows] - sample.ts_ms[before[follows]]) / 1000.0
    inside, between = gap_s[gap_s <= VISIT_S], gap_s[gap_s > VISIT_S]
    half_lives_s, note = _user_ladder(inside, between)
    counters, notes = [], {}
    for name, types in _groups(sample).items():
        texts = tuple(map(sample.type.text, types))
        counters.append(Counter(name=name, entity="user", types=texts, half_lives_s=half_lives_s))
        notes[f"counters.user.{name}.half_lives_s"] = note
    return Counters(counters, notes)


def _user_ladder(inside: NDArray[np.float64], between: NDArray[np.float64]) -> tuple[tuple[float, ...], str]:
    """Some ten pauses within a visit, and what lies between visits: its median, and what is longer than nine tenths."""
    found, said = set(), []
    if len(inside):
        median_s = max(float(np.median(inside)), 1.0)
        found.add(max(nearest(10.0 * median_s), SHORTEST_S))
        said.append(f"{words(median_s)} between events of a visit (median)")
    if len(between):
        median_s, most_s = np.percentile(between, [50, 90])
        found |= {nearest(median_s), nearest(most_s)}
        said.append(f"{words(median_s)} between visits (median; a tenth: over {words(most_s)})")
    return tuple(sorted(found)) or USER_HALF_LIVES_S, "; ".join(said) or "a guess: nobody came twice"


def _n_recent(sample: Sample) -> tuple[int, str]:
    """How many items to remember of a person."""
    number = _number(sample.user.codes)
    pair = sample.user.codes * max(len(sample.item), 1) + sample.item.codes
    order = np.lexsort((np.arange(len(pair)), pair))
    again = pair[order][1:] == pair[order][:-1]
    distance = number[order[1:][again]] - number[order[:-1][again]]
    history = float(np.percentile(number, 90))
    note = f"nine of ten events have at most {history:.0f} of the same person before them"
    wanted = ATTENDED
    if len(distance):
        back = float(np.percentile(distance, 90))
        wanted = max(wanted, int(back))
        note += f"; {len(distance) / len(pair):.0%} are of an item met before, most within {back:.0f} events"
    wanted = min(wanted, int(history))
    return next((size for size in SIZES if size >= wanted), SIZES[-1]), note


def _number(user: I64) -> I64:
    """How many events of the same person came before each."""
    order = np.lexsort((np.arange(len(user)), user))
    starts = np.flatnonzero(np.append(True, user[order][1:] != user[order][:-1]))
    sizes = np.diff(np.append(starts, len(user)))
    found = np.empty(len(user), np.int64)
    found[order] = np.arange(len(user)) - np.repeat(starts, sizes)
    return found


def _attributes(
    items: pa.Table | None, users: pa.Table | None
) -> tuple[list[Attribute], dict[str, str], dict[str, list[str]]]:
    attributes, notes, refused = [], {}, []
    tables: tuple[tuple[pa.Table | None, Entity], ...] = (items, "item"), (users, "user")
    for table, entity in tables:
        for column in attribute_columns(table, entity) if table is not None else []:
            if column.attribute is None:
                refused.append(f"{entity} {column.name}: {column.evidence}")
            else:
                attributes.append(column.attribute)
                notes[f"attributes.{entity}.{column.name}"] = column.evidence
    return attributes, notes, {"attributes": refused}


def _type_notes(sample: Sample) -> dict[str, str]:
    shares = sample.type.counts / max(len(sample), 1)
    return {f"event_types.{sample.type.text(n)}": f"{share:.2%} of events" for n, share in enumerate(shares)}


def _context_notes(fields: list[Field]) -> dict[str, str]:
    return {f"context.{f.name}": f.evidence for f in fields if not f.refusal}
