"""Laws of embedding tables that grow, and forget."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.embeddings import FALLBACK, SLICE, EmbeddingTable, TableConfig, noise
from learners.upkeep import FREED, NOISE, SWEPT

NOW_S = 1_764_000_000


def keys(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def row_of(table: EmbeddingTable, key: int) -> int:
    return int(table.lookup(keys(key))[0])


def test_unknown_and_absent_keys_have_the_fallback_row() -> None:
    table = EmbeddingTable(4)
    assert table.lookup(keys(0, 5, 2**64 - 1)).tolist() == [FALLBACK] * 3
    assert len(table) == 1


def test_meeting_gives_each_key_one_row_and_the_absent_key_none() -> None:
    table = EmbeddingTable(4, n_expected=2)
    met = keys(9, 0, 7, 9, 2**64 - 1).reshape(1, 5)
    table.meet(met, NOW_S)
    assert table.lookup(met).tolist() == [[1, 0, 2, 1, 3]]
    assert table.key[:4].tolist() == [0, 9, 7, 2**64 - 1]


def test_a_key_is_met_once_in_a_step() -> None:
    table = EmbeddingTable(4)
    table.meet(keys(9, 9, 7, 9), NOW_S)
    table.meet(keys(9, 9), NOW_S)
    assert table.uses[:3].tolist() == [0.0, 2.0, 1.0]


def test_usefulness_is_halved_in_a_week() -> None:
    table = EmbeddingTable(4)
    table.meet(keys(9), NOW_S)
    table.meet(keys(9), NOW_S + 7 * 86_400)
    assert table.uses[1] == 1.5 and table.met_s[1] == NOW_S + 7 * 86_400


def test_a_new_row_is_the_fallback_plus_noise_of_its_key_whatever_the_order() -> None:
    one, other = EmbeddingTable(4), EmbeddingTable(4)
    for table in (one, other):
        table.weight[FALLBACK] = [1.0, 2.0, 3.0, 4.0]
    one.meet(keys(3, 8, 5), NOW_S)
    other.meet(keys(5), NOW_S)
    other.meet(keys(8, 3), NOW_S)
    for key in (3, 5, 8):
        mine, yours = (table.weight[row_of(table, key)] for table in (one, other))
        assert (mine == yours).all()
        assert (mine == one.weight[FALLBACK] + noise(keys(key), 4)[0]).all()
        assert np.abs(mine - one.weight[FALLBACK]).max() <= NOISE + 1e-6


def test_noise_is_spread_evenly_and_differs_between_neighbours() -> None:
    values = noise(np.arange(1, 20_001, dtype=np.uint64), 8)
    assert abs(float(values.mean())) < 0.001
    assert float(values.std()) == pytest.approx(NOISE / np.sqrt(3), rel=0.01)
    assert abs(float(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1])) < 0.03


def test_adagrad_equals_its_formula_and_moves_no_other_row() -> None:
    table = EmbeddingTable(2)
    table.meet(keys(4, 5), NOW_S)
    before = table.weight[:3].copy()
    gradient = np.array([[3.0, 4.0]], dtype=np.float32)
    for _ in range(2):
        table.adagrad(np.array([2]), gradient, rate=0.1)
    steps = 0.1 / np.sqrt(12.5) + 0.1 / np.sqrt(25.0)
    np.testing.assert_allclose(table.weight[2], before[2] - gradient[0] * steps, rtol=1e-5)
    assert (table.weight[:2] == before[:2]).all()


def test_touched_rows_are_taken_once() -> None:
    table = EmbeddingTable(2)
    table.meet(keys(4, 5, 6), NOW_S)
    table.adagrad(np.array([3, 0]), np.ones((2, 2), dtype=np.float32), rate=0.1)
    assert table.take_touched().tolist() == [0, 1, 2, 3]
    assert table.take_touched().tolist() == []
    table.adagrad(np.array([2]), np.ones((1, 2), dtype=np.float32), rate=0.1)
    assert table.take_touched().tolist() == [2]


def test_loading_what_another_table_holds_makes_it_equal() -> None:
    source, target = EmbeddingTable(3), EmbeddingTable(3, n_expected=2)
    source.meet(np.arange(1, 3 * SLICE, dtype=np.uint64), NOW_S)
    n = len(source)
    target.load(np.arange(n), source.key[:n], source.weight[:n])
    assert len(target) == n
    assert (target.weight[:n] == source.weight[:n]).all()
    assert target.lookup(keys(0, 17, 2 * SLICE)).tolist() == source.lookup(keys(0, 17, 2 * SLICE)).tolist()
    assert target.take_touched().tolist() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_rows", 1), ("max_rows", 2**31 + 1), ("expire_s", 0.5), ("expire_s", float("nan")), ("admit_after", 0)],
)
def test_a_config_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"table.{field}: expected .* got {value}"):
        TableConfig(**{field: value})


def test_a_row_not_met_for_long_is_freed_and_given_to_the_next() -> None:
    table = EmbeddingTable(2, TableConfig(expire_s=100.0))
    table.meet(keys(4, 5), NOW_S)
    table.adagrad(np.array([1, 2]), np.ones((2, 2), dtype=np.float32), rate=0.1)
    table.meet(keys(5), NOW_S + 99)
    assert table.n_live == 3
    table.meet(keys(5), NOW_S + 100)
    assert (row_of(table, 4), table.n_live, table.key[1], table.accumulator[1]) == (FALLBACK, 2, 0, 0.0)
    table.meet(keys(6), NOW_S + 101)
    assert (row_of(table, 6), len(table), table.uses[1]) == (1, 3, 1.0)
    assert (table.weight[1] == table.weight[FALLBACK] + noise(keys(6), 2)[0]).all()


def test_what_is_met_in_a_step_never_makes_room_in_it() -> None:
    table = EmbeddingTable(2, TableConfig(max_rows=4))
    table.meet(keys(1, 2, 3, 4), NOW_S)
    assert [row_of(table, key) for key in (1, 2, 3, 4)] == [1, 2, 3, FALLBACK]
    table.meet(keys(4, 2, 3), NOW_S)
    assert [row_of(table, key) for key in (1, 2, 3, 4)] == [FALLBACK, 2, 3, 1]


def test_the_least_useful_goes() -> None:
    table = EmbeddingTable(2, TableConfig(max_rows=6))
    for number in range(3):
        table.meet(keys(1, 2, 4, 5), NOW_S + number)
    table.meet(keys(3), NOW_S)
    table.meet(keys(6), NOW_S + 3)
    assert row_of(table, 3) == FALLBACK and all(row_of(table, key) for key in (1, 2, 4, 5, 6))


def test_what_was_met_long_ago_goes_before_what_was_met_now() -> None:
    table = EmbeddingTable(2, TableConfig(max_rows=3))
    for _ in range(3):
        table.meet(keys(1), NOW_S)
    table.meet(keys(2), NOW_S + 30 * 86_400)
    table.meet(keys(3), NOW_S + 30 * 86_400)
    assert row_of(table, 1) == FALLBACK and row_of(table, 2) and row_of(table, 3)


def test_a_key_is_admitted_at_its_nth_meeting() -> None:
    table = EmbeddingTable(2, TableConfig(admit_after=3))
    for number in range(3):
        assert row_of(table, 7) == FALLBACK
        table.meet(keys(7, 7, 7, *range(100 + number, 101 + number)), NOW_S + number)
    assert row_of(table, 7) == 1 and len(table) == 2


def test_counters_of_admission_are_halved_when_they_fill() -> None:
    table = EmbeddingTable(2, TableConfig(admit_after=9))
    for start in range(1, 600_000, 100_000):
        table.meet(np.arange(start, start + 100_000, dtype=np.uint64), NOW_S)
        kept = table.keeping()
        assert kept.n_counted == int(kept.counts.sum()) <= len(kept.counts) // 2
    assert table.keeping().n_counted < 400_000


def test_a_step_sweeps_and_frees_so_many_rows_and_no_more() -> None:
    table = EmbeddingTable(2, TableConfig(expire_s=100.0))
    n = 4 * SWEPT
    table.meet(np.arange(1, n, dtype=np.uint64), NOW_S)
    late_s, hands = NOW_S + 1000, []
    while table.n_live > 1:
        n_live = table.n_live
        table.meet(keys(0), late_s)
        assert n_live - table.n_live <= FREED
        hands.append(table.keeping().hand)
    assert len(hands) <= n // FREED + n // SWEPT
    n_swept = (table.keeping().hand - hands[-2]) % (n - 1)
    assert n_swept <= SWEPT


Step = tuple[Sequence[int], int, bool]
STEPS = st.lists(
    st.tuples(st.lists(st.integers(0, 40), max_size=25), st.integers(0, 60), st.booleans()), min_size=1, max_size=30
)
CONFIGS = st.builds(
    TableConfig,
    max_rows=st.integers(2, 30),
    expire_s=st.sampled_from([50.0, 200.0, 1e9]),
    admit_after=st.integers(1, 3),
)


def trained(table: EmbeddingTable, met: np.ndarray, number: int) -> None:
    """Every key that is met is trained first, as in a step, by a gradient of its own."""
    rows = np.unique(table.lookup(met))
    gradient = np.full((len(rows), table.n_embedding), 0.5 + number, dtype=np.float32) + rows[:, None].astype(
        np.float32
    )
    table.adagrad(rows, gradient, rate=0.1)


@given(CONFIGS, STEPS)
@settings(max_examples=300)
def test_live_keys_hold_what_was_trained_and_nothing_else_does(config: TableConfig, steps: list[Step]) -> None:
    """Against a dict of key to weights and accumulator, which goes by `lookup` alone."""
    table, now_s = EmbeddingTable(3, config, n_expected=2), NOW_S
    known: dict[int, tuple[np.ndarray, float]] = {}
    for number, (named, later_s, _) in enumerate(steps):
        met, now_s = keys(*named), now_s + later_s
        trained(table, met, number)
        for key in {*named} & {*known}:
            row = row_of(table, key)
            known[key] = table.weight[row].copy(), float(table.accumulator[row])
        before = {*known}
        table.meet(met, now_s)
        n = len(table)
        live = {int(key): row for row, key in enumerate(table.key[:n].tolist()) if key}
        assert len(live) == np.count_nonzero(table.key[:n]) == table.n_live - 1 <= config.max_rows - 1
        assert table.lookup(keys(*range(41))).tolist() == [live.get(key, FALLBACK) for key in range(41)]
        for key in live.keys() - before:
            assert (table.weight[live[key]] == table.weight[FALLBACK] + noise(keys(key), 3)[0]).all()
            assert table.accumulator[live[key]] == 0.0 and table.uses[live[key]] == 1.0
        for key in live.keys() & before:
            assert (table.weight[live[key]] == known[key][0]).all() and table.accumulator[live[key]] == known[key][1]
        assert {*named} & before <= live.keys()
        known = {key: (table.weight[row].copy(), float(table.accumulator[row])) for key, row in live.items()}
        free = table.n_live < n
        assert not free or not table.weight[:n][(table.key[:n] == 0) & (np.arange(n) > 0)].any()
    assert len(table) <= config.max_rows


@given(CONFIGS, STEPS)
@settings(max_examples=200)
def test_a_replica_of_deltas_and_one_that_resumes_equal_the_table(config: TableConfig, steps: list[Step]) -> None:
    """What is resumed goes on as the table does, through every step after."""
    table, replica = EmbeddingTable(3, config, n_expected=2), EmbeddingTable(3, config)
    replica.load(np.arange(1), table.key[:1], table.weight[:1])
    again, now_s = table, NOW_S
    for number, (named, later_s, is_cut) in enumerate(steps):
        now_s += later_s
        for each in {id(table): table, id(again): again}.values():
            trained(each, keys(*named), number)
            each.meet(keys(*named), now_s)
        if is_cut:
            rows, n = table.take_touched(), len(table)
            replica.load(rows, table.key[rows], table.weight[rows])
            assert (replica.key[:n] == table.key[:n]).all() and (replica.weight[:n] == table.weight[:n]).all()
            everything = keys(*range(41))
            assert (replica.lookup(everything) == table.lookup(everything)).all() and len(replica) == n
            again = EmbeddingTable(3, config)
            again.load(np.arange(n), table.key[:n], table.weight[:n])
            again.resume(table.accumulator[:n], table.uses[:n], table.met_s[:n], table.keeping())
    n = len(table)
    for name in ("key", "weight", "accumulator", "uses", "met_s"):
        np.testing.assert_array_equal(getattr(again, name)[:n], getattr(table, name)[:n], err_msg=name)
    assert again.keeping().hand == table.keeping().hand and again.n_live == table.n_live
    assert (again.keeping().counts == table.keeping().counts).all()
