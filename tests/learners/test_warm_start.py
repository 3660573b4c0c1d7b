"""A model trained on a history is the one that living through it gives, to the last bit."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from features.backfill.checking import check
from features.events import ITEM, USER, Entry, LoggedAttributes, LoggedEvent, StreamId, encode_body
from features.state import unpack
from learners import snapshots
from learners.evaluation import Evaluation, one_thread
from learners.online import OnlineLearner
from learners.snapshots import Delta
from learners.warm_start import Saved, WarmStart
from tests.learners.examples import CONFIG, KEYS, SCHEMA, T0_MS, click, log, shown, stream

EVENTS = stream(600, seed=5)
CUT = {0: StreamId(7, 1), 3: StreamId(9, 0)}


def table_of(events: Sequence[LoggedEvent]) -> pa.Table:
    columns = ("ts_ms", "type", "user", "item", "value")
    found = pa.table({name: [getattr(event, name) for event in events] for name in columns})
    return found.append_column("device", pa.array([event.context["device"] for event in events]))


def checked(events: Sequence[LoggedEvent]) -> pa.Table:
    return check(table_of(events), SCHEMA, KEYS).table


def trained(warm: WarmStart, rows: pa.Table) -> Delta:
    with one_thread():
        for _ in warm.take(rows):
            pass
        return warm.finish(1, CUT)


def packed(delta: Delta) -> bytes:
    return snapshots.pack(delta)


@pytest.fixture(scope="module")
def straight() -> Delta:
    """Trained in one go."""
    return trained(WarmStart(SCHEMA, CONFIG, KEYS), checked(EVENTS))


def test_what_is_learned_is_what_evaluation_learns(straight: Delta) -> None:
    run = Evaluation(table_of(EVENTS), SCHEMA, CONFIG)
    with one_thread():
        asyncio.run(run.advance(EVENTS[-1].ts_ms + int(1000 * CONFIG.batch_span_s) + 1000))
    assert all(one.ts_ms < other.ts_ms for one, other in pairwise(EVENTS))
    assert np.array_equal(run.model.flat.numpy(), straight.weights)
    assert run.metrics == straight.progress.metrics


def test_the_version_stands_at_the_cut_and_counts_every_event(straight: Delta) -> None:
    assert straight.progress.positions == {partition: tuple(at) for partition, at in CUT.items()}
    assert (straight.version, straight.base) == (1, None)
    assert (straight.progress.n_events, straight.progress.n_examples) == (600, 600)
    assert straight.progress.trained_through_ms > EVENTS[-1].ts_ms


def test_a_learner_goes_on_from_it_as_if_it_had_read_a_log(straight: Delta) -> None:
    later = stream(900, seed=5)[600:]
    entries = log([*EVENTS, *later])
    reference, learner = OnlineLearner(SCHEMA, CONFIG), OnlineLearner(SCHEMA, CONFIG)
    learner.restore(straight)
    end_ms = straight.progress.trained_through_ms
    with one_thread():
        for entry in entries[:600]:
            reference.read(entry)
        reference.close_tick(end_ms)
        for one in (reference, learner):
            for entry in entries[600:]:
                one.read(entry)
            one.close_tick(entries[-1].id.ms + 60_000)
    assert np.array_equal(reference.model.flat.numpy(), learner.model.flat.numpy())
    assert reference.n_events == learner.n_events == 900


def test_whoever_is_interrupted_ten_times_learns_the_same(straight: Delta) -> None:
    rows, rng = checked(EVENTS), np.random.default_rng(1)
    saved = WarmStart(SCHEMA, CONFIG, KEYS).save()
    for stop in sorted(rng.choice(600, 10, replace=False).tolist()):
        warm = WarmStart(SCHEMA, CONFIG, KEYS)
        warm.resume(saved)
        with one_thread():
            for _ in warm.take(rows.slice(warm.n_taken)):
                if warm.is_settled and rng.random() < 0.5:
                    saved = warm.save()
                if warm.n_taken >= stop:
                    break
    warm = WarmStart(SCHEMA, CONFIG, KEYS)
    warm.resume(saved)
    assert 0 < warm.n_taken < 600
    assert packed(trained(warm, rows.slice(warm.n_taken))) == packed(straight)


def test_rows_may_come_in_any_portions(straight: Delta) -> None:
    rows, warm = checked(EVENTS), WarmStart(SCHEMA, CONFIG, KEYS)
    with one_thread():
        for start in range(0, 600, 7):
            for _ in warm.take(rows.slice(start, 7)):
                pass
        assert packed(warm.finish(1, CUT)) == packed(straight)


def test_events_of_one_instant_are_entries_one_after_the_other() -> None:
    same = [click(event.user, event.item, T0_MS) for event in EVENTS[:5]]
    delta = trained(WarmStart(SCHEMA, CONFIG, KEYS), checked(same))
    assert delta.progress.n_events == 5


def test_an_archived_log_is_read_as_a_learner_reads_it() -> None:
    """Decisions too; interrupted, it goes on with what may still be joined."""
    entries = shown(120, seed=3)
    reference, warm = OnlineLearner(SCHEMA, CONFIG), WarmStart(SCHEMA, CONFIG, KEYS)
    with one_thread():
        for number, entry in enumerate(entries):
            reference.read(entry)
            warm.read(entry)
            if number > 100 and warm.is_settled:
                saved, warm = warm.save(), WarmStart(SCHEMA, CONFIG, KEYS)
                warm.resume(saved)
                warm.remember(entries[: number + 1])
        delta = warm.finish(1, CUT)
        reference.close_tick(delta.progress.trained_through_ms)
    assert delta.progress.n_examples > 100
    assert np.array_equal(reference.model.flat.numpy(), delta.weights)


def test_attributes_that_are_known_are_known_from_the_start() -> None:
    known = [
        Entry(StreamId(1, 0), 0, ITEM, encode_body(LoggedAttributes("i3", {"genre": ["jazz"], "price": 4.0}, 1)), b""),
        Entry(StreamId(1, 1), 0, USER, encode_body(LoggedAttributes("u1", {"age": "40s"}, 1)), b""),
    ]
    plain, warm = WarmStart(SCHEMA, CONFIG, KEYS), WarmStart(SCHEMA, CONFIG, KEYS)
    warm.know(known)
    states = snapshots.unpack(packed(trained(plain, checked(EVENTS)))).weights
    delta = trained(warm, checked(EVENTS))
    assert not np.array_equal(states, delta.weights)
    assert b"jazz" in (delta.private.items if delta.private else {})["i3"]
    saved = msgspec.msgpack.decode(warm.save(), type=Saved)
    assert unpack(saved.states["u1"], SCHEMA).attributes == {"age": "40s"}
