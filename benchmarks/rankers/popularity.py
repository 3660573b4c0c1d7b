"""The rival that any ranking must beat: what was most popular lately.

A candidate's score is its decayed count of everything strictly before the query; log(1 + count) would order the same.
"""

from typing import Any

import numpy as np
from numba import njit

from benchmarks.rankers.stream import F64, Stream


def popularity_scores(stream: Stream, half_life_s: float) -> F64:
    """Decayed counts [Q, K] of each query's candidates; 0 for what nobody has touched.

    Args:
        half_life_s: Infinite for popularity of all time.
    """
    rate_per_ms = np.log(2.0) / (1000.0 * half_life_s)
    return _decayed_counts(
        stream.ts_ms_E, stream.item_E, stream.asked_ms_Q, stream.until_Q, stream.candidates_QK, stream.n_items,
        rate_per_ms,
    )  # fmt: skip


@njit(cache=True)
def _decayed_counts(
    ts_ms_E: Any, item_E: Any, asked_ms_Q: Any, until_Q: Any, candidates_QK: Any, n_items: int, rate_per_ms: float
) -> Any:
    count_I = np.zeros(n_items)
    seen_ms_I = np.zeros(n_items, np.int64)
    found_QK = np.zeros(candidates_QK.shape)
    at = 0
    for q in range(len(until_Q)):
        for e in range(at, until_Q[q]):
            item = item_E[e]
            count_I[item] = count_I[item] * np.exp(rate_per_ms * (seen_ms_I[item] - ts_ms_E[e])) + 1.0
            seen_ms_I[item] = ts_ms_E[e]
        at = max(at, until_Q[q])
        for k in range(candidates_QK.shape[1]):
            item = candidates_QK[q, k]
            found_QK[q, k] = count_I[item] * np.exp(rate_per_ms * (seen_ms_I[item] - asked_ms_Q[q]))
    return found_QK
