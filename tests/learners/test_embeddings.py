"""Laws of growing embedding tables."""

import numpy as np
import pytest
import torch

from learners.embeddings import FALLBACK, NOISE, SLICE, EmbeddingTable, noise


def keys(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def test_unknown_and_absent_keys_have_the_fallback_row() -> None:
    table = EmbeddingTable(4)
    assert table.lookup(keys(0, 5, 2**64 - 1)).tolist() == [FALLBACK] * 3
    assert len(table) == 1


def test_growing_gives_each_key_one_row_and_the_absent_key_none() -> None:
    table = EmbeddingTable(4, capacity=2)
    rows = table.lookup(keys(9, 0, 7, 9, 2**64 - 1).reshape(1, 5), grow=True)
    assert rows.tolist() == [[1, 0, 2, 1, 3]]
    assert table.key[:4].tolist() == [0, 9, 7, 2**64 - 1]


def test_capacity_grows_without_moving_a_value() -> None:
    small, large = EmbeddingTable(4, capacity=2), EmbeddingTable(4, capacity=5000)
    for start in range(1, 4001, 100):
        for table in (small, large):
            table.lookup(np.arange(start, start + 100, dtype=np.uint64), grow=True)
    assert torch.equal(small.weight[: len(small)], large.weight[: len(large)])


def test_a_new_row_is_the_fallback_plus_noise_of_its_key_whatever_the_order() -> None:
    one, other = EmbeddingTable(4), EmbeddingTable(4)
    for table in (one, other):
        table.weight[FALLBACK] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    one.lookup(keys(3, 8, 5), grow=True)
    other.lookup(keys(5), grow=True)
    other.lookup(keys(8, 3), grow=True)
    for key in (3, 5, 8):
        mine, yours = (table.weight[table.lookup(keys(key))[0]] for table in (one, other))
        assert torch.equal(mine, yours)
        assert float((mine - one.weight[FALLBACK]).abs().max()) <= NOISE


def test_noise_is_spread_evenly_and_differs_between_neighbours() -> None:
    values = noise(np.arange(1, 20_001, dtype=np.uint64), 8)
    assert abs(float(values.mean())) < 0.001
    assert float(values.std()) == pytest.approx(NOISE / np.sqrt(3), rel=0.01)
    assert abs(float(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1])) < 0.03


def test_adagrad_equals_its_formula_and_moves_no_other_row() -> None:
    table = EmbeddingTable(2)
    table.lookup(keys(4, 5), grow=True)
    before = table.weight[:3].clone()
    gradient = torch.tensor([[3.0, 4.0]])
    for _ in range(2):
        table.adagrad(torch.tensor([2]), gradient, rate=0.1)
    steps = 0.1 / np.sqrt(12.5) + 0.1 / np.sqrt(25.0)
    torch.testing.assert_close(table.weight[2], before[2] - gradient[0] * steps)
    assert torch.equal(table.weight[:2], before[:2])


def test_touched_rows_are_taken_once() -> None:
    table = EmbeddingTable(2)
    table.lookup(keys(4, 5, 6), grow=True)
    assert table.take_touched().tolist() == [0, 1, 2, 3]
    assert table.take_touched().tolist() == []
    table.adagrad(torch.tensor([2]), torch.ones(1, 2), rate=0.1)
    assert table.take_touched().tolist() == [2]


def test_loading_what_another_table_holds_makes_it_equal() -> None:
    source, target = EmbeddingTable(3), EmbeddingTable(3, capacity=2)
    source.lookup(np.arange(1, 3 * SLICE, dtype=np.uint64), grow=True)
    n = len(source)
    target.load(np.arange(n), source.key[:n], source.weight[:n].numpy(), source.accumulator[:n].numpy())
    assert len(target) == n
    assert torch.equal(target.weight[:n], source.weight[:n])
    assert target.lookup(keys(0, 17, 2 * SLICE)).tolist() == source.lookup(keys(0, 17, 2 * SLICE)).tolist()
    assert target.take_touched().tolist() == []
