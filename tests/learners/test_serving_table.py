"""Laws of the table of who only scores: after every change it is the one that was told, before it the one before."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.editions import Part, restored, rounded
from learners.serving_table import ServingTable

D = 4
KEYS = st.integers(1, 30)


@dataclass
class Change:
    """One change, as it is told."""

    rows: dict[int, int]  # key -> what its row is made of
    gone: set[int]
    is_whole: bool
    fallback: int


changes = st.builds(
    Change,
    st.dictionaries(KEYS, st.integers(0, 99), max_size=12),
    st.sets(KEYS, max_size=6),
    st.booleans(),
    st.integers(0, 99),
)


def value_of(number: int) -> np.ndarray:
    scales, codes = rounded(np.linspace(number - 50, number, D, dtype=np.float32)[None])
    return restored(scales, codes)[0]


def told(table: ServingTable, change: Change) -> int:
    """Prepare a change; the number of slices."""
    gone = np.array(sorted(change.gone), dtype=np.uint64)
    table.begin(np.full(D, change.fallback, dtype=np.float32), gone, is_whole=change.is_whole)
    values = np.array([np.linspace(n - 50, n, D) for n in change.rows.values()], dtype=np.float32).reshape(-1, D)
    scales, codes = rounded(values)
    part = Part("item", np.array(list(change.rows), dtype=np.uint64), scales, codes)
    return sum(1 for _ in table.prepare(part))


@dataclass
class Model:
    """What a table has to be, in the plainest way."""

    rows: dict[int, int] = field(default_factory=dict)
    fallback: int | None = None

    def after(self, change: Change) -> "Model":
        kept = {} if change.is_whole else {k: v for k, v in self.rows.items() if k not in change.gone}
        return Model({**kept, **change.rows}, change.fallback)


def check(table: ServingTable, model: Model) -> None:
    found = table.lookup(np.arange(0, 31, dtype=np.uint64))
    assert {key for key in range(31) if found[key]} == set(model.rows)
    assert len(set(found[found > 0].tolist())) == len(model.rows)
    for key, number in model.rows.items():
        np.testing.assert_array_equal(table.weight[found[key]], value_of(number))
    if model.fallback is not None:
        assert (table.weight[0] == model.fallback).all()


@given(st.lists(st.tuples(changes, st.sampled_from(["settle", "revert", "drop"])), max_size=12))
@settings(max_examples=200)
def test_a_change_is_there_after_the_flip_and_not_before_and_may_be_undone(steps: list[tuple[Change, str]]) -> None:
    table, model = ServingTable(D, max_rows=30, max_spare=30), Model()
    for change, end in steps:
        told(table, change)
        check(table, model)
        if end == "drop":
            table.drop_change()
            check(table, model)
            continue
        table.flip()
        check(table, model.after(change))
        if end == "revert":
            table.revert()
        else:
            model = model.after(change)
            for _ in table.settle():
                check(table, model)
        check(table, model)
        assert table.n_live == len(model.rows)


@given(st.lists(changes, max_size=12), st.integers(0, 5))
@settings(max_examples=200)
def test_what_finds_no_room_beside_is_written_over_and_memory_is_kept(steps: list[Change], max_spare: int) -> None:
    table, model = ServingTable(D, max_rows=30, max_spare=max_spare), Model()
    for change in steps:
        told(table, change)
        check(table, model)
        table.flip()
        model = model.after(change)
        for _ in table.settle():
            pass
        check(table, model)
    assert table._n_used <= 31 + max_spare


def test_what_was_overwritten_cannot_be_reverted() -> None:
    table = ServingTable(D, max_rows=10, max_spare=1)
    told(table, Change({1: 5, 2: 6}, set(), is_whole=True, fallback=0))
    table.flip()
    with pytest.raises(RuntimeError, match="overwritten"):
        table.revert()


def test_a_whole_edition_takes_room_only_for_what_differs() -> None:
    table = ServingTable(D, max_rows=1000, max_spare=1000)
    rows = {key: key % 97 for key in range(1, 1001)}
    for change in (rows, {**rows, 7: 98}):
        told(table, Change(change, set(), is_whole=True, fallback=0))
        table.flip()
        for _ in table.settle():
            pass
    assert table._n_used == 1002


def test_many_rows_come_in_many_slices() -> None:
    table = ServingTable(D, max_rows=50_000, max_spare=50_000)
    assert told(table, Change(dict.fromkeys(range(1, 50_001), 3), set(), is_whole=True, fallback=0)) > 20


@given(st.lists(changes, max_size=8), st.integers(0, 40))
@settings(max_examples=100)
def test_nothing_is_left_in_memory_of_a_row_that_no_key_leads_to(steps: list[Change], max_spare: int) -> None:
    table = ServingTable(D, max_rows=30, max_spare=max_spare)
    for change in steps:
        told(table, change)
        table.flip()
        for _ in table.settle():
            pass
        live = table.lookup(np.arange(1, 31, dtype=np.uint64))
        is_free = np.ones(len(table.weight), dtype=bool)
        is_free[[0, *live[live > 0]]] = False
        assert not table.weight[is_free].any() and not table._key[is_free].any()
