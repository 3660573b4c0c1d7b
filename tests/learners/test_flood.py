"""Who floods is not learned from: neither by weights, nor by what they are judged with."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from features.events import (
    DECISION,
    EVENT,
    Entry,
    LoggedDecision,
    LoggedEvent,
    StreamId,
    decode_decision,
    decode_event,
    encode_body,
)
from features.schema import Voice
from features.state import apply_update, update_for
from features.voice import Voices
from learners import snapshots
from learners.judge import Case, Judge, JudgeConfig
from learners.online import OnlineLearner
from learners.parts import Part
from learners.reading import ExampleReader
from learners.rounds import RoundConfig
from learners.snapshots import Delta
from learners.team import Team
from learners.witness import Witness
from tests.learners.comparing import same
from tests.learners.examples import CONFIG, KEYS, SCHEMA, T0_MS, click, learned, log, shown, stream, ticked

FLOODED = replace(SCHEMA, voice=Voice(per_item=2, burst=60.0, per_hour=6.0))
ORGANIC = stream(400)
FLOODERS = [f"f{number}" for number in range(4)]


def flood(n: int) -> list[LoggedEvent]:
    """Everything organic, and four people who click one item this often in a minute, each in their own time."""
    clicks = [click(user, "i3", ORGANIC[100].ts_ms + 10 * k + f) for k in range(n) for f, user in enumerate(FLOODERS)]
    return sorted([*ORGANIC, *clicks], key=lambda event: event.ts_ms)


def logged(events: Sequence[LoggedEvent]) -> list[Entry]:
    """Entries whose positions are those of their instants, whatever comes between."""
    return [entry._replace(id=StreamId(entry.id.ms, 0)) for entry in log(events, FLOODED)]


def n_heard(entries: Sequence[Entry]) -> int:
    voices = Voices(FLOODED)
    return sum(voices.has_voice(decode_event(entry.body), entry.state) for entry in entries)


def weights(delta: Delta) -> list[bytes]:
    return [delta.weights.tobytes(), *(part.values.tobytes() for part in delta.tables.values())]


def test_a_flood_teaches_what_its_first_events_teach_to_the_bit() -> None:
    few, flooded = (
        learned(logged(flood(n)), OnlineLearner(FLOODED, CONFIG)).snapshot() for n in (FLOODED.voice.per_item, 1000)
    )
    assert weights(few) == weights(flooded)
    assert few.progress.n_examples == flooded.progress.n_examples == n_heard(log(ORGANIC)) + 2 * len(FLOODERS)
    assert few.private is not None and flooded.private is not None
    assert few.private.items == flooded.private.items and few.private.met == flooded.private.met


class Recording(Judge):
    """Remembers what it is told, and judges nothing."""

    def __init__(self) -> None:
        super().__init__(FLOODED, JudgeConfig())
        self.told: list[bytes] = []

    def take(self, parts: Iterable[Part], first_ms: int) -> list[Case]:
        for part in parts:
            self.told += [part.inputs.item_key.tobytes(), part.inputs.dense.tobytes(), part.inputs.user_dense.tobytes()]
        return []


def test_a_judge_hears_of_a_flood_what_it_hears_of_its_first_events() -> None:
    judges = [Recording(), Recording()]
    for judge, n in zip(judges, (FLOODED.voice.per_item, 1000), strict=True):
        witness = Witness(FLOODED, CONFIG, judge)
        for entry in logged(flood(n)):
            witness.read(entry)
        witness.close_tick(ORGANIC[-1].ts_ms + 3_600_000)
    few, flooded = judges
    assert few.told == flooded.told and len(few.told) > 10


def test_without_a_bound_it_would_teach_something_else() -> None:
    free = Voice(per_item=9, burst=1e12, late_s=1e9)
    few, flooded = (
        learned(log(flood(n)), OnlineLearner(replace(FLOODED, voice=free), CONFIG)).snapshot() for n in (2, 100)
    )
    assert weights(few) != weights(flooded)


def test_who_goes_on_in_the_middle_of_a_flood_goes_on_bit_for_bit() -> None:
    entries = logged(flood(50))
    straight, first = OnlineLearner(FLOODED, CONFIG), OnlineLearner(FLOODED, CONFIG)
    ticked(straight, entries)
    for at, entry in enumerate(entries):
        first.read(entry)
        if at > 200 and first.is_settled:
            break
    second = OnlineLearner(FLOODED, CONFIG)
    second.restore(snapshots.unpack(snapshots.pack(first.snapshot())))
    ticked(second, entries[at + 1 :])
    for learner in (straight, second):
        learner.close_tick(entries[-1].id.ms + 3_600_000)
    assert same(straight.snapshot(), second.snapshot())


def test_several_learners_know_the_same_of_items_as_one() -> None:
    entries = logged(flood(100))
    alone = learned(entries, OnlineLearner(FLOODED, CONFIG))
    team = ticked(Team(FLOODED, replace(CONFIG, rounds=RoundConfig(n_learners=3))), entries)
    team.close_tick(entries[-1].id.ms + 3_600_000)
    packed = rows(alone)
    for learner in team.learners:
        assert rows(learner) == packed
        assert learner.n_examples == alone.n_examples


def rows(learner: OnlineLearner) -> dict[str, bytes]:
    table = learner.table
    return dict(zip(table.ids[1:], table.pack_all(range(1, len(table) + 1)), strict=True))


def joined(n: int) -> list[Entry]:
    """One person is shown two items this often, a second apart, and clicks the first one each time."""
    state, entries = b"", []
    inputs = np.zeros((2, len(ExampleReader(SCHEMA, CONFIG).encoder.dense_names)), np.float16).tobytes()
    for k in range(n):
        ms = T0_MS + 1000 * k
        body = LoggedDecision(f"d{k}", "u", ms, 1, {}, ["i1", "i2"], [1.0, 1.0], inputs)
        entries.append(Entry(StreamId(ms, 0), KEYS.user_partition("u"), DECISION, encode_body(body), state))
        event = LoggedEvent("click", "u", "i1", ms + 500, 1.0, {}, None, f"d{k}")
        entries.append(Entry(StreamId(ms + 500, 0), KEYS.user_partition("u"), EVENT, encode_body(event), state))
        state = apply_update(state, update_for(event, SCHEMA), SCHEMA)
    return entries


@pytest.mark.parametrize("is_ahead", [False, True])
def test_of_a_decision_with_feedback_that_has_no_voice_nothing_is_learned(is_ahead: bool) -> None:
    """Neither its reward, nor that what was shown was in vain; also where feedback is logged ahead of its decision."""
    entries = joined(10)
    if is_ahead:
        late = [entry._replace(id=StreamId(entry.id.ms + 600, 0)) for entry in entries[::2]]
        entries = [entry for pair in zip(entries[1::2], late, strict=True) for entry in pair]
    learner = learned(entries, OnlineLearner(FLOODED, CONFIG))
    n_ahead = FLOODED.voice.per_item if is_ahead else 0  # those are positives of their own too
    assert learner.n_examples == 2 * FLOODED.voice.per_item + n_ahead
    assert learner.metrics["reward_rate"] == pytest.approx(0.5)


def test_one_persons_decisions_take_their_share_of_a_batch_and_no_more() -> None:
    entries = [*shown(300), *[entry for entry in joined(60) if entry.kind == DECISION]]
    entries.sort(key=lambda entry: entry.id.ms)
    reader = ExampleReader(SCHEMA, replace(CONFIG, person_share=0.125, batch_span_s=1000.0))
    batches = [batch for entry in entries for batch in reader.read(entry)]
    batches += reader.advance(entries[-1].id.ms + 3_600_000)
    most = max(
        [outcome.decision.user for outcome in batch.outcomes].count(user)
        for batch in batches
        for user in {outcome.decision.user for outcome in batch.outcomes}
    )
    assert most == CONFIG.batch_size / 8
    assert sum(decode_decision(entry.body).user == "u" for entry in entries if entry.kind == DECISION) == 60


def test_what_has_no_voice_counts_as_read() -> None:
    entries = logged(flood(30))
    assert learned(entries, OnlineLearner(FLOODED, CONFIG)).n_events == len(entries)
    assert n_heard(entries) == n_heard(log(ORGANIC)) + 2 * len(FLOODERS)
