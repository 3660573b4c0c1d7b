"""What a ranking is worth, in closed form, and what popularity is."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench_quality import cut
from benchmarks.popularity import popularity_scores
from benchmarks.scoring import aligned, hits, interval, reciprocal_ranks, true_columns


def scores_of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def test_the_reciprocal_rank_counts_from_the_best_and_ends_after_ten():
    scores = -np.arange(20.0)[None].repeat(4, axis=0)
    assert reciprocal_ranks(scores, np.array([0, 1, 9, 10])).tolist() == pytest.approx([1.0, 0.5, 0.1, 0.0])
    assert hits(scores, np.array([0, 1, 9, 10])).tolist() == [1.0, 1.0, 1.0, 0.0]


def test_ties_are_worth_their_expectation():
    (value,) = reciprocal_ranks(scores_of([5.0, 1.0, 1.0, 0.0]), np.array([2]))
    assert value == pytest.approx((1 / 2 + 1 / 3) / 2)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
def test_the_order_of_candidates_decides_nothing(scores: list[int]):
    order = np.random.default_rng(len(scores)).permutation(len(scores))
    plain = scores_of([float(score) for score in scores])
    moved = int(np.flatnonzero(order == 0)[0])
    for measure in (reciprocal_ranks, hits):
        assert measure(plain, np.array([0])) == pytest.approx(measure(plain[:, order], np.array([moved])))


def test_the_interval_is_that_of_people_not_of_queries():
    """A thousand queries of one person are one person's."""
    values = np.array([1.0] * 1000 + [0.0] * 10)
    _, low, high = interval(values, np.array(["alike"] * 1000 + [f"u{n}" for n in range(10)]))
    assert low < 0.1 and high > 0.99


def test_popularity_knows_what_came_strictly_before_and_forgets_by_half():
    events = pa.table({"ts_ms": [0, 0, 60_000, 120_000], "item": ["a", "a", "b", "c"]})
    queries = pa.table({"ts_ms": [60_000, 120_000], "candidates": [["a", "b"], ["a", "b"]]})
    found = popularity_scores(events, queries, half_life_s=60.0)
    np.testing.assert_allclose(found, [[1.0, 0.0], [0.5, 0.5]])


def test_queries_are_cut_at_the_time_of_the_last_event():
    events = pa.table({"ts_ms": [10, 20, 30, 40]})
    queries = pa.table({"ts_ms": [31, 30, 5], "query_id": [3, 2, 1]})
    first, asked = cut(events, queries, 3)
    assert first.num_rows == 3
    assert asked["query_id"].to_pylist() == [1, 2]


def test_predictions_are_matched_by_query():
    queries = pa.table({"query_id": [7, 8], "candidates": [["a", "b"], ["c", "d"]], "item": ["b", "c"]})
    predictions = pa.table({"query_id": [8, 7], "scores": [[0.1, 0.2], [0.3, 0.4]]})
    np.testing.assert_allclose(aligned(predictions, queries), [[0.3, 0.4], [0.1, 0.2]])
    assert true_columns(queries).tolist() == [1, 0]
    with pytest.raises(KeyError):
        aligned(predictions.slice(0, 1), queries)
