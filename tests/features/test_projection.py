"""Laws of the projection: every entry counts exactly once, whatever is killed and whoever else projects."""

from dataclasses import replace
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
from tests.features import examples
from tests.features.examples import KEYS, T0_MS, applied, attributes, body_of, click, event

SCHEMA = replace(examples.SCHEMA, n_successors=2)  # so few that they crowd each other out: order matters
SPOILT = b"\xc1"  # the one byte that msgpack never uses


async def filled_store(
    n_items: int = 7, keys: Keys = KEYS, spoilt: int | None = None, body: bytes = SPOILT
) -> MemoryStore:
    """A store with a seeded stream in it, two events a millisecond, one perhaps spoilt, and the clock beyond it."""
    rng = np.random.default_rng(5)
    clock = FakeClock(T0_MS)
    store = MemoryStore(SCHEMA, keys=keys, time=clock)
    for index in range(60):
        user, item = f"u{rng.integers(5)}", f"i{rng.integers(n_items)}"
        kind = ["view", "click"][int(rng.integers(2))]
        record = event_record(event(user, item, type=kind, ts_ms=T0_MS + 100 * index), SCHEMA, keys)
        await store.apply([replace(record, body=body) if index == spoilt else record])
        clock.set_ms(T0_MS + index // 2)
    await store.apply([item_record(attributes("i1", category="news"), keys)])
    clock.advance(1.0)
    return store


async def project(store: Any, count: int = 10) -> Projection:
    """Project to the end, starting over after every outage, as the actor does."""
    projection = Projection(store, SCHEMA, count=count)
    await projection.load()
    heads = await store.heads()
    while projection.reached != heads:
        try:
            await projection.advance()
        except StoreUnavailable:
            await projection.load()
    return projection


async def rows(store: MemoryStore, n_items: int = 7) -> list[bytes]:
    """Every item row."""
    _, packed = await store.read([], [f"i{item}" for item in range(n_items)])
    return packed


@pytest.mark.parametrize("count", [1, 3, 1000])
async def test_projection_equals_a_plain_fold_of_the_log_however_it_is_cut(count: int) -> None:
    store = await filled_store()
    await project(store, count)
    table = ItemTable(SCHEMA)
    for entry in sorted(await store.read_log({}, count=1000)):
        table.fold([entry])
    assert await rows(store) == [table.pack(table.rows[f"i{item}"]) for item in range(7)]
    assert table.describe(table.rows["i1"], T0_MS)["attributes"] == {"category": "news"}


@settings(max_examples=40)
@given(faults=st.dictionaries(st.integers(1, 60), st.booleans(), max_size=12), count=st.sampled_from([3, 10, 1000]))
async def test_every_entry_counts_once_whatever_fails_between_commits(faults: dict[int, bool], count: int) -> None:
    undisturbed, disturbed = await filled_store(), await filled_store()
    await project(undisturbed)
    await project(FaultyStore(disturbed, faults), count)
    assert await rows(disturbed) == await rows(undisturbed)


@pytest.mark.parametrize(
    "body",
    [
        SPOILT,
        body_of(event("u1", "i1", type="nod")),  # under another schema there is such a type
        body_of(event("u1", "i1", value=float("nan"))),
        body_of(event("u1", "")),
        b"\x98\xa5click\xa1\xff",
        b"\x98" + b"\x91" * 100_000,
    ],
)
async def test_an_entry_that_no_fold_could_bear_is_passed_over(body: bytes) -> None:
    store = await filled_store(spoilt=20, body=body)
    projection = await project(store)
    table = ItemTable(SCHEMA)
    for entry in sorted(await store.read_log({}, count=1000)):
        if entry.body != body:
            table.fold([entry])
    assert projection.n_passed_over == 1
    assert await rows(store) == [table.pack(table.rows[f"i{item}"]) for item in range(7)]


async def test_what_has_no_voice_is_counted_and_leaves_no_row() -> None:
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    await applied(store, *(click(item="x", ts_ms=T0_MS + n) for n in range(100)), click("u2", "y", ts_ms=T0_MS + 200))
    projection = await project(store)
    assert projection.n_unheard == 100 - SCHEMA.voice.per_item
    few = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    await applied(few, *(click(item="x", ts_ms=T0_MS + n) for n in range(2)), click("u2", "y", ts_ms=T0_MS + 200))
    await project(few)
    assert await few.read([], ["x", "y"]) == await store.read([], ["x", "y"])


async def test_two_projectors_never_both_count_an_entry() -> None:
    store = await filled_store()
    first, second = Projection(store, SCHEMA), Projection(store, SCHEMA)
    await first.load()
    await second.load()
    await first.advance()
    before = await rows(store)
    with pytest.raises(ProjectionConflict):
        await second.advance()
    assert await rows(store) == before


async def test_untouched_partitions_get_their_positions_in_turn() -> None:
    store = await filled_store(keys=Keys(n_partitions=16))
    projection = Projection(store, SCHEMA)
    await projection.load()
    await projection.advance(n_untouched=0)
    n_lagging = []
    for _ in range(17):
        n_lagging.append(sum(positions != projection.reached for positions in await store.projected()))
        await projection.advance(n_untouched=1)
    assert n_lagging == sorted({*range(n_lagging[0] + 1)}, reverse=True) + [0] * (16 - n_lagging[0])
    assert n_lagging[0] > 0


async def test_untouched_partitions_may_lag_and_lose_nothing() -> None:
    store = await filled_store(keys=Keys(n_partitions=16))
    projection = Projection(store, SCHEMA)
    await projection.load()
    await projection.advance(n_untouched=0)
    before = await rows(store)
    again = Projection(store, SCHEMA)
    await again.load()
    await again.advance()
    assert await rows(store) == before


async def test_a_projection_that_has_nothing_to_do_notices_that_rows_were_replaced() -> None:
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    await applied(store, click(ts_ms=T0_MS), click(ts_ms=T0_MS + 1000))
    projection = Projection(store, SCHEMA)
    await projection.load()
    for _ in range(3 * KEYS.n_partitions):
        await projection.advance()
    await store.hold_rows("somebody")
    with pytest.raises(ProjectionConflict):
        await projection.advance()
    await store.release_rows({}, "somebody")
    with pytest.raises(ProjectionConflict):
        await projection.advance()
