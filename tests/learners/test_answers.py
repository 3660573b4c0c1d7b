"""Predictions meet the true answers by query, whatever the order, and whole or not at all."""

import numpy as np
import pyarrow as pa
import pytest

from learners.answers import aligned, judge, true_columns

QUERIES = pa.table(
    {
        "query_id": [7, 8],
        "user": [1, 2],
        "candidates": [["a", "b", "x"], ["c", "d"]],
        "item": ["b", "c"],
    }
)
PREDICTIONS = pa.table({"query_id": [8, 7], "scores": [[0.0, 0.0], [0.5, 0.75, 0.0]]})


def test_predictions_are_matched_by_query_and_shorter_slates_filled_up() -> None:
    np.testing.assert_array_equal(aligned(PREDICTIONS, QUERIES), [[0.5, 0.75, 0.0], [0.0, 0.0, -np.inf]])
    assert true_columns(QUERIES).tolist() == [1, 0]


def test_a_judgement_has_every_metric_with_its_interval() -> None:
    judged = judge(PREDICTIONS, QUERIES)
    assert list(judged) == ["MRR@10", "HR@10", "NDCG@10", "AUC", "log loss"]
    assert judged["MRR@10"].mean == pytest.approx((1 + 3 / 4) / 2)
    assert judged["AUC"].mean == pytest.approx((1 + 1 / 2) / 2)
    assert judged["MRR@10"].low <= judged["MRR@10"].mean <= judged["MRR@10"].high


@pytest.mark.parametrize("scores", [[[0.0, 0.0]], [[0.0, 0.0], [0.1, 0.2]], [[0.0, 0.0], [0.1, 0.2, float("nan")]]])
def test_a_query_without_a_finite_score_for_each_candidate_is_named(scores: list[list[float]]) -> None:
    predictions = pa.table({"query_id": [8, 7][: len(scores)], "scores": scores})
    with pytest.raises(ValueError, match="query 7: expected 3 finite scores"):
        aligned(predictions, QUERIES)


@pytest.mark.parametrize("candidates", [["a", "x", "y"], ["b", "b", "x"]])
def test_a_true_item_that_is_not_once_among_the_candidates_is_named(candidates: list[str]) -> None:
    queries = QUERIES.set_column(2, "candidates", pa.array([candidates, ["c", "d"]]))
    with pytest.raises(ValueError, match="query 7: expected the true item b once among its candidates"):
        true_columns(queries)
