"""The watch over features counts what differs, each decision once, and changes nothing."""

import logging

import pytest

from deployments.metrics import COUNTERS
from deployments.skew_start import Start
from deployments.skew_watch import Watch
from features.encoding import Encoder
from features.errors import LogMoved
from features.item_table import ItemTable
from features.ticks import Gapless
from tests.features.examples import contents
from tests.features.serving import Fault, Serving
from tests.features.test_item_table import SCHEMA


async def served(fault: Fault | None = None) -> Serving:
    serving = await Serving(SCHEMA, 3, fault).run()
    serving.clock.advance(1.0)
    return serving


async def watched(watch: Watch, serving: Serving, start: Start | None = None) -> dict[str, float]:
    """Follow a log to its end; what was counted, by what it is."""
    watch.begin(Gapless(serving.store, serving.store.trimmed), start or Start({}))
    while await watch.advance():
        pass
    return {name.removeprefix("headrace_skew_").removesuffix("_total"): n for name, n in watch.values.items()}


async def test_every_decision_counts_once_though_it_begins_anew_and_nothing_is_written() -> None:
    serving = await served()
    before, watch = await contents(serving.store), Watch(SCHEMA, 1)
    found = await watched(watch, serving)
    assert found["decisions"] == serving.n_decisions
    assert found["compared"] > serving.n_decisions * len(Encoder(SCHEMA).user_names)
    assert found["differing"] == found["late_decisions"] == 0
    assert await watched(watch, serving) == found
    assert await contents(serving.store) == before
    assert set(watch.values) <= set(COUNTERS)


async def test_a_sample_is_looked_at() -> None:
    found = await watched(Watch(SCHEMA, 5), serving := await served())
    assert 0 < found["decisions"] < serving.n_decisions / 2


async def test_late_rows_and_wrong_features_are_counted_apart_and_named(caplog: pytest.LogCaptureFixture) -> None:
    late = await watched(Watch(SCHEMA, 1), await served(Fault(stale_ms=700)))
    assert late["late_decisions"] > 0 and late["differing"] > late["late_decisions"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "ms behind the log" in caplog.text
    caplog.clear()
    wrong = await watched(Watch(SCHEMA, 1), await served(Fault(dearer=1.0)))
    assert wrong["late_decisions"] == 0 < wrong["differing"]
    assert "was not made with what the log gives: number:price" in caplog.text


async def test_it_goes_on_from_known_rows_where_the_beginning_is_gone() -> None:
    serving = await served()
    half = serving.entries[: len(serving.entries) // 2]
    table = ItemTable(SCHEMA)
    table.fold(half)
    reached = {entry.partition: entry.id for entry in half}
    await serving.store.trim(reached)
    found = await watched(Watch(SCHEMA, 1), serving, Start(reached, table))
    assert 0 < found["decisions"] < serving.n_decisions
    assert found["differing"] == 0
    with pytest.raises(LogMoved):
        await watched(Watch(SCHEMA, 1), serving)


async def test_people_from_before_the_log_are_noticed() -> None:
    serving = await served()
    half = serving.entries[: len(serving.entries) // 2]
    watch = Watch(SCHEMA, 1)
    await watched(watch, serving, Start({entry.partition: entry.id for entry in half}))
    assert watch.known_before
