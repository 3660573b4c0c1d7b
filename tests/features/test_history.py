"""Histories read by compiled loops are what they are taken apart."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import CorruptState
from features.history import NOTHING, Arrays, History, Recent, arrays_of, before, checked, history_of, joined, read
from features.schema import hash64

N_TYPES = 300

recents = st.lists(
    st.tuples(st.text(min_size=1, max_size=150), st.integers(0, N_TYPES - 1), st.integers(0, 2**62)), max_size=12
)


@given(st.lists(recents, min_size=1, max_size=5), st.integers(1, 12))
def test_arrays_are_the_newest_items_of_each(people: Sequence[Sequence[Recent]], width: int) -> None:
    histories = [checked(len(items), history_of(items).packed, N_TYPES) for items in people]
    found = arrays_of(histories, width)
    for b, items in enumerate(people):
        assert histories[b].items() == list(items)
        assert histories[b] == history_of(items)
        assert histories[b].latest_ms == (items[0][2] if items else 0)
        newest = [(hash64(item), kind, ms) for item, kind, ms in items[:width]]
        rest = [(0, 0, 0)] * (width - len(newest))
        assert list(zip(*(array[b].tolist() for array in found), strict=True)) == newest + rest


@given(recents, st.integers(1, 12), st.integers(1, 12))
def test_the_newest_of_arrays_are_arrays_of_the_newest(items: list[Recent], width: int, fewer: int) -> None:
    """Zeros fill up what is wider."""
    found, expected = arrays_of([history_of(items)], width).newest(fewer), arrays_of([history_of(items[:width])], fewer)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@given(recents, st.data())
def test_bytes_that_were_cut_are_refused(items: list[Recent], data: st.DataObject) -> None:
    whole = history_of(items)
    end = data.draw(st.integers(0, max(len(whole.packed) - 1, 0)))
    for n, packed in ((len(items), whole.packed[:end]), (len(items) + 1, whole.packed)):
        if n and (n, packed) != (whole.n, whole.packed):
            with pytest.raises(CorruptState):
                checked(n, packed, N_TYPES)


@pytest.mark.parametrize(
    "packed", [b"\x93\xa1a\x01", b"\x92\xa1a\x01", b"\x93\x01\x01\x01", b"\x93\xa1a\xa1b\x01", b""]
)
def test_what_is_no_entry_is_refused(packed: bytes) -> None:
    with pytest.raises(CorruptState):
        checked(1, packed, N_TYPES)
    with pytest.raises(CorruptState):
        History(1, packed, 0).items()


def test_nothing_is_nothing() -> None:
    assert checked(0, b"", N_TYPES) == NOTHING == history_of([]) and not NOTHING and NOTHING.items() == []
    assert not any(array.any() for array in arrays_of([NOTHING, NOTHING], 3))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=8), st.integers(0, 3), st.integers(1, 4))
def test_what_comes_before_an_item_is_distinct_recent_and_not_the_item(
    items: list[tuple[int, int]], own: int, n: int
) -> None:
    seen = Arrays(
        *(np.array([column], dtype) for column, dtype in zip(_columns(items), (np.uint64, int, int), strict=True))
    )
    found = np.zeros((1, n), np.uint64)
    before(np.array([10]), np.array([own], np.uint64), seen.key, seen.ms, 5.0, found)
    expected = list(dict.fromkeys(key + 1 for key, ms in items if ms >= 5 and key + 1 != own))[:n]
    assert found[0].tolist() == expected + [0] * (n - len(expected))


def _columns(items: list[tuple[int, int]]) -> list[list[int]]:
    return [[key + 1 for key, _ in items], [0] * len(items), [ms for _, ms in items]]


@pytest.mark.parametrize(
    "entry", [b"\x93\xa1a\x02\x01", b"\x93\xa1a\xcf" + b"\xff" * 8 + b"\x01", b"\x93\xa2\xff\xfe\x01\x01"]
)
def test_a_type_that_there_is_not_and_text_that_is_none_are_refused_by_all_who_read(entry: bytes) -> None:
    """A model looks its weights up by the number of the type: beyond them there is somebody else's memory."""
    with pytest.raises(CorruptState):
        checked(1, entry, 2)
    good = history_of([("a", 1, 5)]).packed
    data, start_B = joined([good, entry, good])
    found, is_read_B = read(data, start_B[:-1], start_B[1:], np.ones(3, dtype=np.int64), 4, 2)
    assert is_read_B.tolist() == [True, False, True]
    assert found.key[:, 0].tolist() == [hash64("a"), 0, hash64("a")] and not found.type[1].any()
