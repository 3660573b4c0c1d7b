"""Laws of the projection: every entry counts exactly once, whatever is killed and whoever else projects."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clock import FakeClock
from features.errors import ProjectionConflict, StoreUnavailable
from features.item_table import ItemTable
from features.keys import Keys
from features.memory_store import MemoryStore
from features.projection import Projection
from features.store import event_record, item_record
from tests.fakes import FaultyStore
from tests.features.examples import KEYS, SCHEMA, T0_MS, attributes, event


async def filled_store(n_events: int = 60, n_items: int = 7, keys: Keys = KEYS) -> MemoryStore:
    """A store with a seeded stream in it."""
    rng = np.random.default_rng(5)
    store = MemoryStore(SCHEMA, keys=keys, time=FakeClock(T0_MS))
    for index in range(n_events):
        user, item = f"u{rng.integers(5)}", f"i{rng.integers(n_items)}"
        kind = ["view", "click"][int(rng.integers(2))]
        record = event_record(event(user, item, type=kind, ts_ms=T0_MS + 100 * index), SCHEMA, keys)
        await store.apply([record])
    await store.apply([item_record(attributes("i1", category="news"), keys)])
    return store


async def project(store: Any, count: int = 10) -> Projection:
    """Project to the end, starting over after every outage, as the actor does."""
    projection = Projection(store, SCHEMA)
    await projection.load()
    while True:
        try:
            if not await projection.advance(count=count):
                return projection
        except StoreUnavailable:
            projection = Projection(store, SCHEMA)
            await projection.load()


async def rows(store: MemoryStore, n_items: int = 7) -> list[bytes]:
    """Every item row."""
    _, packed = await store.read([], [f"i{item}" for item in range(n_items)])
    return packed


async def test_projection_equals_a_plain_fold_of_the_log() -> None:
    store = await filled_store()
    await project(store)
    table = ItemTable(SCHEMA)
    for entry in sorted(await store.read_log({}, count=1000)):
        table.fold(entry)
    loaded = ItemTable(SCHEMA)
    items = [f"i{item}" for item in range(7)]
    loaded.load(items, await rows(store))
    assert (loaded.value[loaded.find(items)].sum(axis=1) > 0).all()
    # Partitions are read one after another, so float32 sums may differ in their last bits.
    np.testing.assert_allclose(loaded.value[loaded.find(items)], table.value[table.find(items)], rtol=1e-4)
    assert loaded.describe(loaded.rows["i1"], T0_MS)["attributes"] == {"category": "news"}


@settings(max_examples=40, deadline=None)
@given(faults=st.dictionaries(st.integers(1, 60), st.booleans(), max_size=12), count=st.sampled_from([3, 10, 1000]))
async def test_every_entry_counts_once_whatever_fails_between_commits(faults: dict[int, bool], count: int) -> None:
    undisturbed, disturbed = await filled_store(), await filled_store()
    await project(undisturbed, count)
    await project(FaultyStore(disturbed, faults), count)
    first, second = ItemTable(SCHEMA), ItemTable(SCHEMA)
    items = [f"i{item}" for item in range(7)]
    first.load(items, await rows(undisturbed))
    second.load(items, await rows(disturbed))
    np.testing.assert_allclose(second.value[second.find(items)], first.value[first.find(items)], rtol=1e-4)
    np.testing.assert_allclose(
        second.successor_value[second.find(items)].sum(axis=1),
        first.successor_value[first.find(items)].sum(axis=1),
        rtol=1e-4,
    )


async def test_two_projectors_never_both_count_an_entry() -> None:
    store = await filled_store()
    first, second = Projection(store, SCHEMA), Projection(store, SCHEMA)
    await first.load()
    await second.load()
    await first.advance(count=1000)
    before = await rows(store)
    with pytest.raises(ProjectionConflict):
        await second.advance(count=1000)
    assert await rows(store) == before


async def test_untouched_partitions_may_lag_and_lose_nothing() -> None:
    store = await filled_store(keys=Keys(n_partitions=16))
    projection = Projection(store, SCHEMA)
    await projection.load()
    await projection.advance(count=1000, everywhere=False)
    before = await rows(store)
    again = Projection(store, SCHEMA)
    await again.load()
    await again.advance(count=1000)
    assert await rows(store) == before
