"""A seeded world in which slates are shown and some items are clicked, with probabilities that are known.

    logit of a click = base + worth of the item + worth of its kind to the segment of who asks - what the place takes

Whoever asks is shown items drawn at random, in random order: so no place goes with an item. Clicks come after seconds,
some after minutes, when the join has long taken their impression for one without.

`entries_of` lives through it as a system does: once a second what was asked is encoded with the item rows of before,
logged as decisions with those inputs, and the clicks of that second are folded.

Not shown: real people; a policy that shows the same few items; anything that changes.

Legend: N decisions, K items shown.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Request
from features.events import (
    DECISION,
    EVENT,
    Entry,
    LoggedDecision,
    LoggedEvent,
    StreamId,
    encode_body,
)
from features.item_table import ItemTable
from features.schema import Schema
from features.state import apply_update, unpack, update_for

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImpressionsConfig:
    """How large the world is, and how its people click."""

    start_ms: int = 1_764_000_000_000
    end_s: float = 1500.0
    decisions_per_s: float = 100.0
    n_shown: int = 10
    n_people: int = 4000
    n_items: int = 300
    n_segments: int = 8
    n_kinds: int = 12
    """Of items."""
    base: float = -3.2
    """Logit of a click on an average item at the first place."""
    worth: float = 0.6
    """Spread of the items' logits."""
    taste: float = 0.7
    """Spread of a kind's logit between segments."""
    place: float = 0.3
    """What is lost with each doubling of the place, in log odds: the tenth place loses one."""
    delay_s: float = 2.5
    """Mean of most clicks' delays."""
    late_share: float = 0.1
    late_s: float = 60.0
    """Mean delay of the late ones; most are later than a join waits."""


@dataclass(frozen=True)
class Shown:
    """What was shown, to whom, and what came of it, in time order."""

    at_ms: I64  # [N]
    person: I64  # [N]
    segment: I64  # [N]
    item: I64  # [N, K]
    rate: F64  # [N, K] true probability of a click
    delay_ms: I64
    """[N, K] from the decision to the click; negative: none came."""

    @property
    def is_clicked(self) -> NDArray[np.bool_]:
        """[N, K]"""
        return self.delay_ms >= 0


def simulate(config: ImpressionsConfig, seed: int) -> Shown:
    """Draw a world, and what people do in it."""
    rng = np.random.default_rng(seed)
    n = round(config.end_s * config.decisions_per_s)
    at_ms = config.start_ms + np.sort(rng.integers(round(1000 * config.end_s), size=n))
    person = rng.integers(config.n_people, size=n)
    segment = person % config.n_segments
    item = np.array([rng.choice(config.n_items, config.n_shown, replace=False) for _ in range(n)])
    rate = _rates(config, rng, segment, item)
    mean_s = np.where(rng.random(rate.shape) < config.late_share, config.late_s, config.delay_s)
    delay_ms = 1 + np.floor(1000 * rng.exponential(mean_s)).astype(np.int64)
    return Shown(at_ms, person, segment, item, rate, np.where(rng.random(rate.shape) < rate, delay_ms, -1))


def _rates(config: ImpressionsConfig, rng: np.random.Generator, segment: I64, item: I64) -> F64:
    worth = config.worth * rng.standard_normal(config.n_items)
    taste = config.taste * rng.standard_normal((config.n_segments, config.n_kinds))
    lost = config.place * np.log2(1 + np.arange(item.shape[1]))
    logit = config.base + worth[item] + taste[segment[:, None], item % config.n_kinds] - lost
    rate: F64 = 1.0 / (1.0 + np.exp(-logit))
    return rate


def entries_of(
    shown: Shown, schema: Schema, sources: Sequence[str] | None = None, quarantined: Collection[str] = ()
) -> Iterator[list[Entry]]:
    """The log of it up to the last decision, second by second; a decision's id is its number.

    Args:
        sources: [N] who tells of a decision's clicks; None: nobody says.
        quarantined: Sources that tell nothing; looked at before every second.
    """
    encoder, table = Encoder(schema), ItemTable(schema)
    states: dict[str, bytes] = {}
    for _, moments in groupby(_moments(shown), key=lambda moment: moment[0] // 1000):
        decisions: list[tuple[LoggedDecision, bytes]] = []
        clicks: list[tuple[LoggedEvent, bytes]] = []
        for ms, number, place in moments:
            user = f"u{shown.person[number]}"
            state = states.get(user, b"")
            if place < 0:
                decisions.append((_decision(shown, number), state))
            elif sources is None or sources[number] not in quarantined:
                click = _click(shown, number, place, ms, None if sources is None else sources[number])
                clicks.append((click, state))
                states[user] = apply_update(state, update_for(click, schema), schema)
        entries = [
            *(_entry(DECISION, body, state) for body, state in _encoded(decisions, encoder, table)),
            *(_entry(EVENT, body, state) for body, state in clicks),
        ]
        table.fold(entries)
        yield sorted(entries, key=lambda entry: entry.id)


def _moments(shown: Shown) -> list[tuple[int, int, int]]:
    """Instant, number and place of everything that happens, in order; place -1 is the decision itself."""
    number, place = np.nonzero(shown.is_clicked)
    times_ms = [shown.at_ms, shown.at_ms[number] + shown.delay_ms[number, place]]
    numbers = [np.arange(len(shown.at_ms)), number]
    places = [np.full(len(shown.at_ms), -1), place]
    columns = (np.concatenate(parts).tolist() for parts in (times_ms, numbers, places))
    return sorted(moment for moment in zip(*columns, strict=True) if moment[0] <= shown.at_ms[-1])


def _decision(shown: Shown, number: int) -> LoggedDecision:
    items = [f"i{item}" for item in shown.item[number].tolist()]
    user, context = f"u{shown.person[number]}", {"segment": str(shown.segment[number])}
    return LoggedDecision(str(number), user, int(shown.at_ms[number]), 0, context, items, [1.0] * len(items), b"")


def _click(shown: Shown, number: int, place: int, ts_ms: int, source: str | None) -> LoggedEvent:
    context = {"segment": str(shown.segment[number])}
    user, item = f"u{shown.person[number]}", f"i{shown.item[number, place]}"
    return LoggedEvent("click", user, item, ts_ms, 1.0, context, None, str(number), source)


def _encoded(
    decisions: Sequence[tuple[LoggedDecision, bytes]], encoder: Encoder, table: ItemTable
) -> Iterator[tuple[LoggedDecision, bytes]]:
    """The same with what the model sees."""
    if not decisions:
        return
    asked = [
        Request(unpack(state, encoder.schema), decision.context, decision.ts_ms, decision.items)
        for decision, state in decisions
    ]
    dense = encoder.encode(table, asked).dense.astype(np.float16)
    for b, (decision, state) in enumerate(decisions):
        yield msgspec.structs.replace(decision, inputs=dense[b].tobytes()), state


def _entry(kind: bytes, body: LoggedDecision | LoggedEvent, state: bytes) -> Entry:
    """Decisions and clicks of one millisecond and user are in the order of their number."""
    return Entry(StreamId(body.ts_ms, int(body.decision or 0)), 0, kind, encode_body(body), state)
