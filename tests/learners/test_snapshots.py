"""Snapshots come back as they were, or not at all."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schema import Schema
from learners import snapshots
from learners.errors import CorruptSnapshot, ForeignSnapshot, StaleSnapshot
from learners.snapshots import Delta, Private, Progress, Rows, Upkeep
from tests.learners.examples import SCHEMA

D = 3


def rows_of(numbers: list[int], value: float) -> Rows:
    at = np.array(numbers, dtype=np.uint32)
    values = np.full((len(at), D), value, dtype=np.float32) + at[:, None]
    none = np.zeros(0, dtype=np.uint32)
    accumulators = at.astype(np.float32) * 2
    upkeep = Upkeep(accumulators, accumulators + 1, at * 3, 1, 0, 0, 0, none, none.astype(np.uint8))
    return Rows(at, at.astype(np.uint64) + 100, values.astype(np.float32), 1000, upkeep)


def delta_of(version: int, base: int | None, numbers: list[int], items: dict[str, bytes] | None = None) -> Delta:
    weights = np.arange(5, dtype=np.float32) + version
    return Delta(
        version,
        base,
        SCHEMA.fingerprint,
        {"n_embedding": D},
        weights,
        {"item": rows_of(numbers, version), "context": rows_of([0], 0.5)},
        Progress({3: (17, 2)}, 99 + version, 5, 4, {"auc": 0.7}),
        Private(
            weights * 1.5,
            weights * 2,
            weights * 3,
            8,
            1,
            [0.1, 2.0],
            [1.0, 99.0],
            3,
            [2.0, 0.5],
            0.1,
            [1.0] * 4,
            5,
            items or {},
        ),
    )


FULL = snapshots.pack(delta_of(1, None, [0, 1, 2], {"a": b"1", "b": b"2"}))


def test_bytes_come_back_as_they_went() -> None:
    delta = delta_of(7, 6, [0, 5], {"x": b"\x00\xff"})
    again = snapshots.unpack(snapshots.pack(delta))
    assert snapshots.pack(again) == snapshots.pack(delta)
    assert (again.version, again.base, again.progress) == (7, 6, delta.progress)
    np.testing.assert_array_equal(again.tables["item"].values, delta.tables["item"].values)
    assert again.tables["item"].keys.dtype == np.uint64
    assert again.private is not None and again.private.items == {"x": b"\x00\xff"}


@given(st.data())
@settings(max_examples=200)
def test_any_flipped_byte_is_found(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FULL) - 1))
    flip = data.draw(st.integers(1, 255))
    with pytest.raises(CorruptSnapshot):
        snapshots.unpack(FULL[:at] + bytes([FULL[at] ^ flip]) + FULL[at + 1 :])


def test_an_array_is_of_the_type_that_is_declared() -> None:
    """Whoever reads it takes it for that."""
    delta = delta_of(7, 6, [0], {})
    for weights in (delta.weights.astype(np.float64), np.array([1, 2]), np.zeros(2, [("a", "f4")])):
        with pytest.raises(CorruptSnapshot, match="expected an array of <f4"):
            snapshots.unpack(snapshots.pack(msgspec.structs.replace(delta, weights=weights)))


@pytest.mark.parametrize(
    "changes", [{"max_rows": 3}, {"keys": np.zeros(1, np.uint64)}, {"values": np.zeros(6, np.float32)}]
)
def test_rows_that_no_table_has_are_not_merged(changes: dict[str, Any]) -> None:
    """Memory is taken for as many as there are said to be."""
    delta = delta_of(2, 1, [1, 5], {})
    delta.tables["item"] = msgspec.structs.replace(delta.tables["item"], **changes)
    with pytest.raises(CorruptSnapshot, match="'item'"):
        snapshots.merge(snapshots.unpack(FULL), delta)


def test_any_cut_is_found() -> None:
    for size in range(len(FULL)):
        with pytest.raises(CorruptSnapshot):
            snapshots.unpack(FULL[:size])
    with pytest.raises(CorruptSnapshot):
        snapshots.unpack(FULL + b"\0")


def test_merging_lays_rows_and_items_over_and_appends() -> None:
    full = snapshots.merge(snapshots.unpack(FULL), delta_of(2, 1, [1, 3, 4], {"b": b"3", "c": b"4"}))
    assert (full.version, full.base) == (2, None)
    assert full.tables["item"].rows.tolist() == [0, 1, 2, 3, 4]
    assert full.tables["item"].values[:, 0].tolist() == [1.0, 3.0, 3.0, 5.0, 6.0]
    assert full.tables["item"].upkeep is not None
    assert full.tables["item"].upkeep.accumulators.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert full.private is not None and list(full.private.items.items()) == [("a", b"1"), ("b", b"3"), ("c", b"4")]
    np.testing.assert_array_equal(full.weights, delta_of(2, 1, []).weights)


def test_merging_forgets_the_key_of_a_row_that_was_freed_or_taken_over() -> None:
    delta = delta_of(2, 1, [1, 2])
    delta.tables["item"].keys[:] = [0, 777]
    full = snapshots.merge(snapshots.unpack(FULL), delta)
    assert full.tables["item"].keys.tolist() == [100, 0, 777]


def test_merging_lays_counters_over_or_takes_all_of_them() -> None:
    def with_counts(delta: Delta, places: list[int], counts: list[int]) -> Delta:
        upkeep = delta.tables["item"].upkeep
        assert upkeep is not None
        upkeep.places, upkeep.counts = np.array(places, dtype=np.uint32), np.array(counts, dtype=np.uint8)
        return delta

    full = snapshots.unpack(snapshots.pack(with_counts(delta_of(1, None, [0]), [], [1, 2, 3])))
    for version, places, counts, expected in (
        (2, [2], [9], [1, 2, 9]),
        (3, [], [], [1, 2, 9]),
        (4, [], [4] * 3, [4] * 3),
    ):
        full = snapshots.merge(full, with_counts(delta_of(version, version - 1, [0]), places, counts))
        assert full.tables["item"].upkeep is not None
        assert full.tables["item"].upkeep.counts.tolist() == expected


def test_many_merges_move_a_growing_table_only_now_and_then() -> None:
    full, moves, address = snapshots.unpack(FULL), 0, 0
    for version in range(2, 400):
        full = snapshots.merge(full, delta_of(version, version - 1, [version + 1]))
        now = full.tables["item"].values.__array_interface__["data"][0]
        moves, address = moves + (now != address), now
    assert len(full.tables["item"].rows) == 401 and moves < 12
    assert snapshots.unpack(snapshots.pack(full)).tables["item"].keys.tolist() == list(range(100, 501))


@pytest.mark.parametrize("base", [None, 0, 2, 7])
def test_a_delta_on_another_version_is_refused(base: int | None) -> None:
    with pytest.raises(StaleSnapshot, match=f"stands on {base}"):
        snapshots.merge(snapshots.unpack(FULL), delta_of(8, base, [0]))


def test_a_delta_is_nothing_to_merge_onto() -> None:
    with pytest.raises(StaleSnapshot):
        snapshots.merge(delta_of(2, 1, [0]), delta_of(3, 2, [0]))


def test_another_schema_is_refused_by_name() -> None:
    snapshots.check_schema(snapshots.unpack(FULL), SCHEMA)
    with pytest.raises(ForeignSnapshot, match=f"{Schema().fingerprint:016x}"):
        snapshots.check_schema(snapshots.unpack(FULL), Schema())
