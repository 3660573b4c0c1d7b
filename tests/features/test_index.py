"""The index of a table against a dict."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.index import SPREAD, KeyIndex

# Few keys, so that they go and come back; the last ones crowd about the end of any array, so that it is gone around.
INVERSE = pow(int(SPREAD), -1, 2**64)
KEYS = [*range(1, 60), 2**64 - 1, *(INVERSE * ((2**32 - 1) << 32 | n) % 2**64 for n in range(40))]
CALLS = st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(KEYS), max_size=30)), max_size=40)


@given(CALLS, st.integers(1, 40))
@settings(max_examples=300)  # the first call compiles
def test_it_holds_what_a_dict_would(calls: list[tuple[bool, list[int]]], n_expected: int) -> None:
    index, expected, row = KeyIndex(n_expected), dict[int, int](), 0
    everything = np.array([0, *KEYS], dtype=np.uint64)
    for is_put, keys in calls:
        if is_put:
            rows = np.arange(row + 1, row + 1 + len(keys))
            row += len(keys)
            index.put(np.array(keys, dtype=np.uint64), rows)
            expected.update(zip(keys, rows.tolist(), strict=True))
        else:
            index.drop(np.array(keys, dtype=np.uint64))
            for key in keys:
                expected.pop(key, None)
        assert index.get(everything).tolist() == [expected.get(int(key), 0) for key in everything]
        assert len(index) == len(expected)
        assert 2 * len(index) <= len(index.slots)


def test_keys_move_a_few_at_a_time_while_it_grows() -> None:
    index, most, n_growths = KeyIndex(1 << 15), 0, 0
    for start in range(1, 200_000, 100):
        before, was_old = int(index.state[1]), index.old
        index.put(np.arange(start, start + 100, dtype=np.uint64), np.arange(start, start + 100))
        if index.old is was_old and len(was_old):
            most = max(most, int(index.state[1]) - before)
        n_growths += index.old is not was_old and len(index.old) > 0
    assert n_growths == 3 and 0 < most <= 64 + 4 * 100
    keys = np.arange(1, 200_001, dtype=np.uint64)
    assert (index.get(keys) == np.arange(1, 200_001)).all()


def test_absent_keys_are_never_entered() -> None:
    index = KeyIndex(4)
    index.put(np.array([0, 5, 0], dtype=np.uint64), np.array([1, 2, 3]))
    index.drop(np.array([0, 7], dtype=np.uint64))
    assert index.get(np.array([[0, 5]], dtype=np.uint64)).tolist() == [[0, 2]] and len(index) == 1
