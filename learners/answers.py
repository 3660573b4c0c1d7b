"""Where predictions meet the true answers: after a run, and nowhere else.

Queries name the true item in a column `item`; what ranks is never given that column.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from learners.metrics import F64, I64, Figure, People, figures, per_query


def judge(predictions: pa.Table, queries: pa.Table) -> dict[str, Figure]:
    """Every metric of a model's predictions with its interval over people.

    Args:
        predictions: `query_id, scores`, the scores logits aligned with the query's candidates.
        queries: `query_id, user, candidates`, and the true `item`.
    Raises:
        ValueError: If a query was not answered, or its candidates do not hold the true item once.
    """
    metrics = per_query(aligned(predictions, queries), true_columns(queries), has_probabilities=True)
    return figures(metrics, People(queries["user"].to_numpy()))


def true_columns(queries: pa.Table) -> I64:
    """Column of the true item among each query's candidates.

    Raises:
        ValueError: If a query's candidates do not hold it once.
    """
    found = []
    for query, candidates, item in _rows(queries, "query_id", "candidates", "item"):
        if candidates.count(item) != 1:
            n_times = candidates.count(item)
            raise ValueError(
                f"query {query}: expected the true item {item} once among its candidates, got it {n_times} times"
            )
        found.append(candidates.index(item))
    return np.array(found, dtype=np.int64)


def aligned(predictions: pa.Table, queries: pa.Table) -> F64:
    """Scores [Q, K] of a `query_id, scores` table, in the order of the queries; -inf after the end of a shorter slate.

    Raises:
        ValueError: If a query was not answered, or not with a finite score for each candidate.
    """
    scores = dict(_rows(predictions, "query_id", "scores"))
    n_candidates = pc.list_value_length(queries["candidates"]).to_pylist()
    found = np.full((queries.num_rows, max(n_candidates, default=0)), -np.inf)
    for row, (query, length) in enumerate(zip(queries["query_id"].to_pylist(), n_candidates, strict=True)):
        given = scores.get(query, [])
        if len(given) != length or not np.isfinite(given).all():
            raise ValueError(f"query {query}: expected {length} finite scores, got {len(given)} that may not be finite")
        found[row, :length] = given
    return found


def _rows(table: pa.Table, *names: str) -> Any:
    return zip(*(table[name].to_pylist() for name in names), strict=True)
