"""Laws of the reader: batches are a function of the log, and of nothing else."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from features.encoding import Inputs, Request
from features.events import Entry, StreamId, decode_event
from features.item_table import ItemTable
from features.joiner import JoinConfig
from features.schema import Schema
from features.state import unpack
from learners.errors import ForeignSnapshot
from learners.online import OnlineLearner
from learners.pinning import public
from learners.reading import Batch, ExampleReader, known_context
from tests.learners.examples import CONFIG, SCHEMA, T0_MS, click, item_entry, learned, log, shown, stream

ALL = replace(CONFIG, batch_size=1000, batch_span_s=1e4)
SHORT = replace(CONFIG, batch_span_s=3.0)
AFTER_MS = 3_600_000  # everything is due by then
NOWHERE = np.zeros(64, np.float32), np.zeros(64, np.float32)


def mixed() -> list[Entry]:
    """Events, decisions with what came of them, and items, in one log."""
    items = [item_entry(f"i{k}", T0_MS + 7000 * k, price=float(k)) for k in range(12)]
    merged = heapq.merge(log(stream(300)), shown(300), items, key=lambda entry: entry.id.ms)
    return [entry._replace(id=StreamId(entry.id.ms, number)) for number, entry in enumerate(merged)]


ENTRIES = mixed()


def read(entries: Iterable[Entry], reader: ExampleReader) -> list[Batch]:
    """The batches that these entries make due."""
    return [batch for entry in entries for batch in reader.read(entry)]


def all_of(entries: Sequence[Entry], reader: ExampleReader) -> list[Batch]:
    """The same, and those that time makes due when no more entries come."""
    return [*read(entries, reader), *reader.advance(entries[-1].id.ms + AFTER_MS)]


def told(batches: Iterable[Batch]) -> list[Any]:
    """All that batches say, to be compared bit for bit."""
    return [(each.slates and in_bytes(each.slates), each.outcomes, each.fullness, each.sources) for each in batches]


def in_bytes(inputs: Inputs) -> list[bytes]:
    return [getattr(inputs, field.name).tobytes() for field in fields(Inputs)]


def size(batch: Batch) -> int:
    return (len(batch.slates.mask) if batch.slates else 0) + len(batch.outcomes)


def settled(at_least: int) -> tuple[OnlineLearner, int]:
    """A learner that has read at least so many entries, and is at a place where a version may be taken; how many."""
    learner = OnlineLearner(SCHEMA, SHORT)
    for number, entry in enumerate(ENTRIES, 1):
        learner.read(entry)
        if number >= at_least and learner.is_settled:
            return learner, number
    raise AssertionError("never settled")


@pytest.mark.parametrize("tick_ms", [1, 200, 7_000, 100_000])
@pytest.mark.parametrize("config", [CONFIG, SHORT], ids=["full", "short"])
def test_batches_do_not_depend_on_how_often_time_is_advanced(tick_ms: int, config: Any) -> None:
    straight = told(all_of(ENTRIES, ExampleReader(SCHEMA, config)))
    reader = ExampleReader(SCHEMA, config)
    batches = []
    for entry in ENTRIES:
        batches += reader.advance(entry.id.ms // tick_ms * tick_ms)
        batches += reader.read(entry)
    batches += reader.advance(ENTRIES[-1].id.ms + AFTER_MS)
    assert len(straight) > 20 and told(batches) == straight


def test_a_batch_is_cut_when_it_is_full_or_its_span_is_over() -> None:
    reader = ExampleReader(SCHEMA, replace(ALL, batch_size=3, batch_span_s=1.0))
    entries = log([click("u", "a", T0_MS + ms) for ms in (0, 10, 20, 500, 1499, 1500)])
    batches = [[size(batch) for batch in reader.read(entry)] for entry in entries]
    assert batches == [[], [], [3], [], [], [2]]
    assert [(size(batch), batch.fullness) for batch in reader.advance(T0_MS + 2500)] == [(1, 1 / 3)]
    assert reader.is_settled and reader.settled_through_ms == T0_MS + 2500


def test_what_is_not_due_is_in_the_batch_that_settles() -> None:
    reader = ExampleReader(SCHEMA, ALL)
    entries = log(stream(30))
    assert not read(entries, reader)
    with pytest.raises(RuntimeError, match="pending"):
        reader.fold()
    assert [size(batch) for batch in reader.settle(entries[-1].id.ms)] == [30]
    assert reader.is_settled and not list(reader.settle(entries[-1].id.ms))


def test_a_slate_is_what_was_known_just_before_its_event() -> None:
    """Lived through in one pass, it equals encoding each event at its own moment."""
    reader, known = ExampleReader(SCHEMA, ALL), ItemTable(SCHEMA)
    entries, expected = log(stream(80)), []
    for entry in entries:
        event, user = decode_event(entry.body), unpack(entry.state, SCHEMA)
        request = Request(user, known_context(event, user), event.ts_ms, [event.item])
        expected.append(reader.encoder.encode(known, [request]))
        assert not list(reader.read(entry))
        known.fold([entry])
    (batch,) = reader.settle(entries[-1].id.ms)
    assert batch.slates is not None
    for name in ("dense", "item_key", "attribute_key"):
        asked = np.concatenate([getattr(each, name)[:, 0] for each in expected])
        np.testing.assert_array_equal(getattr(batch.slates, name)[:, 0], asked, err_msg=name)
    assert batch.slates.dense[:, 0].any(axis=1).sum() > 40


def test_the_context_of_a_slate_is_that_of_the_event_before_in_the_same_visit() -> None:
    """How an item was reached is known only afterwards."""
    before, soon, late = (
        click("u", item, T0_MS + ms, device)
        for item, ms, device in (("a", 0, "x"), ("b", 60_000, "y"), ("c", 9_000_000, "z"))
    )
    entries = log([before, soon, late])
    known = [known_context(decode_event(e.body), unpack(e.state, SCHEMA)) for e in entries]
    assert known == [{"device": "x"}, {"device": "x"}, {"device": "z"}]


def test_every_slate_names_who_told_of_it() -> None:
    reader = ExampleReader(SCHEMA, replace(ALL, batch_size=7))
    events = [msgspec.structs.replace(event, source=f"s{event.item}") for event in stream(70)]
    entries = log([event if n % 5 else click(event.user, event.item, event.ts_ms) for n, event in enumerate(events)])
    batches, n = read(entries, reader), 0
    for batch in batches:
        (part,) = reader.parts(batch, 0.0, NOWHERE)
        told = [f"s{event.item}" if at % 5 else None for at, event in enumerate(events[n : n + 7], n)]
        assert batch.sources == part.sources == told
        n += 7
    assert n == 70


@pytest.mark.parametrize("at_least", [150, 500])
def test_restored_it_goes_on_with_the_batches_that_were_to_come(at_least: int) -> None:
    """Whatever it has read before; what is open of the join is remembered from the log."""
    straight = told(all_of(ENTRIES, ExampleReader(SCHEMA, SHORT)))
    learner, n_read = settled(at_least)
    reader = ExampleReader(SCHEMA, SHORT)
    read(log(stream(100, seed=9)), reader)
    reader.restore(learner.snapshot(1))
    reader.remember(reversed(ENTRIES[:n_read]))
    assert (reader.positions, reader.n_events, reader.draws) == (
        learner.positions,
        learner.n_events,
        learner.reader.draws,
    )
    batches = told(all_of(ENTRIES[n_read:], reader))
    assert 10 < len(batches) < len(straight)
    assert batches == straight[-len(batches) :]


def test_what_is_no_learners_full_snapshot_of_its_schema_is_refused() -> None:
    full, reader = learned(log(stream(40))).snapshot(1), ExampleReader(SCHEMA, CONFIG)
    with pytest.raises(ForeignSnapshot, match="schema"):
        ExampleReader(Schema(), CONFIG).restore(full)
    with pytest.raises(ForeignSnapshot, match="learner's full snapshot"):
        reader.restore(public(full))
    assert not reader.positions and not len(reader.table)


def test_several_divide_the_examples_and_know_the_same_of_items() -> None:
    alone, team = ExampleReader(SCHEMA, CONFIG), [ExampleReader(SCHEMA, CONFIG, seat, 3) for seat in range(3)]
    n_alone = sum(map(size, all_of(ENTRIES, alone)))
    n_each = [sum(map(size, all_of(ENTRIES, reader))) for reader in team]
    assert min(n_each) > 0 and sum(n_each) == n_alone
    rows = range(1, len(alone.table) + 1)
    for reader in team:
        reader.fold()
        assert reader.positions == alone.positions and reader.n_events == alone.n_events
        assert list(reader.table.pack_all(rows)) == list(alone.table.pack_all(rows))


def test_parts_are_every_example_once_with_both_shifts_of_the_log_odds() -> None:
    reader = ExampleReader(SCHEMA, replace(CONFIG, join=JoinConfig(keep_negatives=0.5)))
    kinds = set()
    for entry in ENTRIES:
        for batch in reader.read(entry):
            parts = reader.parts(batch, 0.25, NOWHERE)
            assert sum(len(part.inputs.mask) for part in parts) == size(batch)
            shifts = {part.loss.shift for part in parts if not part.loss.is_relative}
            assert shifts <= {np.log(2.0) + 0.25}
            kinds |= {type(part.loss).__name__ for part in parts}
    assert kinds == {"ListwiseLoss", "PointwiseLoss"}
