"""Policies: scores to a slate with propensities.

A policy orders the candidates of one request and says with which conditional probability each item came to stand at
its position. It knows nothing of features or people.
"""

import numpy as np
from numpy.typing import NDArray

Slate = tuple[list[int], list[float], list[float]]
"""Candidate indices in order of position, their scores, their propensities."""


def greedy(scores_K: NDArray[np.floating], limit: int | None = None) -> Slate:
    """Best first; ties keep the order of the request. Every propensity is 1.

    Args:
        scores_K: Logits of the real candidates.
        limit: Length of the slate; None for all.
    """
    order = np.argsort(-scores_K, kind="stable")[:limit]
    return order.tolist(), scores_K[order].tolist(), [1.0] * len(order)
