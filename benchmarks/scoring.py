"""Scoring ranked slates that hold one true item each: reciprocal rank, hits, and intervals that respect people.

Ties are given their expectation over all orders, so neither the order of candidates nor a hash decides. Intervals are a
bootstrap over people, not over queries: one person's queries are alike.

Not known here: who ranked, or from what.

Legend: Q queries, K candidates.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TOP: Final = 10
REPLICATES: Final = 1000

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def reciprocal_ranks(scores_QK: F64, true_Q: I64) -> F64:
    """1 / (1 + rank) of the true candidate where that is among the first ten, else 0; its expectation over ties.

    Args:
        true_Q: Column of the true candidate.
    """
    return _expected(scores_QK, true_Q, 1.0 / (1.0 + np.arange(TOP)))


def hits(scores_QK: F64, true_Q: I64) -> F64:
    """1 where the true candidate is among the first ten, else 0; its expectation over ties."""
    return _expected(scores_QK, true_Q, np.ones(TOP))


def interval(values_Q: F64, people_Q: npt.NDArray[np.generic], seed: int = 7) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval: a Poisson bootstrap over people.

    Source: Chamandy et al., Google, 2012.
    """
    _, person = np.unique(people_Q, return_inverse=True)
    totals, counts = np.bincount(person, values_Q), np.bincount(person)
    weights = np.random.default_rng(seed).poisson(1.0, (REPLICATES, len(counts)))
    means = weights @ totals / np.maximum(weights @ counts, 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values_Q.mean()), float(low), float(high)


def true_columns(queries: pa.Table) -> I64:
    """Column of the true item among each query's candidates.

    Raises:
        ValueError: If a query's candidates do not hold it.
    """
    found = [
        row.index(item) for row, item in zip(*(queries[c].to_pylist() for c in ("candidates", "item")), strict=True)
    ]
    return np.array(found, dtype=np.int64)


def aligned(predictions: pa.Table, queries: pa.Table) -> F64:
    """Scores [Q, K] of a `query_id, scores` table, in the order of the queries.

    Raises:
        KeyError: If a query was not answered.
    """
    scores = dict(zip(predictions["query_id"].to_pylist(), predictions["scores"].to_pylist(), strict=True))
    return np.array([scores[query] for query in queries["query_id"].to_pylist()], dtype=np.float64)


def _expected(scores_QK: F64, true_Q: I64, gain: F64) -> F64:
    """Mean gain over the places that the true candidate may take among those of its score."""
    own_Q1 = np.take_along_axis(scores_QK, true_Q[:, None], axis=1)
    n_above_Q = (scores_QK > own_Q1).sum(axis=1)
    n_level_Q = (scores_QK == own_Q1).sum(axis=1)
    summed = np.concatenate([[0.0], np.cumsum(gain), np.full(scores_QK.shape[1], gain.sum())])
    expected: F64 = (summed[n_above_Q + n_level_Q] - summed[n_above_Q]) / n_level_Q
    return expected
