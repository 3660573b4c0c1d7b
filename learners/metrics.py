"""What a ranking is worth: slates that hold one true answer each, judged by its place and the probability it was given.

Ties are given their expectation over all orders, so neither the order of candidates nor a hash decides. Intervals are a
bootstrap over people, not over queries: one person's queries are alike. Probabilities are the softmax of a slate's
scores; figures that need them mean nothing for a score that is no logit.

A slot that holds no candidate has the score -inf. Not known here: who ranked, from what, and when.

Legend: Q queries, K candidates, P people, R replicates.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOP: Final = 10
REPLICATES: Final = 1000
N_BINS: Final = 10

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

RANK_METRICS: Final = ("MRR@10", "HR@10", "NDCG@10", "AUC")


class Figure(NamedTuple):
    """A mean, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def reciprocal_ranks(scores_QK: F64, true_Q: I64) -> F64:
    """1 / (1 + rank) of the true candidate where that is among the first ten, else 0; its expectation over ties.

    Args:
        true_Q: Column of the true candidate.
    """
    return _expected(scores_QK, true_Q, np.array([1.0 / (1 + rank) for rank in range(TOP)]))


def hits(scores_QK: F64, true_Q: I64) -> F64:
    """1 where the true candidate is among the first ten, else 0; its expectation over ties."""
    return _expected(scores_QK, true_Q, np.ones(TOP))


def discounted_gains(scores_QK: F64, true_Q: I64) -> F64:
    """NDCG@10: 1 / log2(2 + rank) where the true candidate is among the first ten, else 0; its expectation over ties.

    Source: Järvelin and Kekäläinen, 2002; with one true candidate the ideal gain is 1.
    """
    return _expected(scores_QK, true_Q, np.array([1.0 / math.log2(2 + rank) for rank in range(TOP)]))


def areas(scores_QK: F64, true_Q: I64) -> F64:
    """AUC: share of the other candidates that the true one is above, ties count half; 1 where there is no other."""
    n_above_Q, n_level_Q = _places(scores_QK, true_Q)
    n_others_Q = np.isfinite(scores_QK).sum(axis=1) - 1
    area_Q: F64 = 1.0 - (n_above_Q + (n_level_Q - 1) / 2) / np.maximum(n_others_Q, 1)
    return area_Q


def log_losses(scores_QK: F64, true_Q: I64) -> F64:
    """-log of the true candidate's probability. Ranking by chance has log K: see `uniform_log_losses`."""
    log_probability_QK = _log_softmax(scores_QK)
    loss_Q: F64 = -np.take_along_axis(log_probability_QK, true_Q[:, None], axis=1)[:, 0]
    return loss_Q


def uniform_log_losses(scores_QK: F64) -> F64:
    """Log loss of who calls all candidates equally likely."""
    loss_Q: F64 = np.log(np.isfinite(scores_QK).sum(axis=1))
    return loss_Q


def per_query(scores_QK: F64, true_Q: I64, *, has_probabilities: bool) -> dict[str, F64]:
    """Every metric of every query, by name; log loss only where scores are logits."""
    measures = (reciprocal_ranks, hits, discounted_gains, areas)
    found = {name: measure(scores_QK, true_Q) for name, measure in zip(RANK_METRICS, measures, strict=True)}
    if has_probabilities:
        found["log loss"] = log_losses(scores_QK, true_Q)
    return found


class People:
    """The Poisson bootstrap over people: each replicate counts each person a Poisson(1) number of times.

    The draws are made once, so that whatever is compared is compared on the same replicates.

    Source: Chamandy et al., Google, 2012.
    """

    def __init__(self, people_Q: NDArray[np.generic], seed: int = 7) -> None:
        _, self._person_Q = np.unique(people_Q, return_inverse=True)
        self._n_people = int(self._person_Q.max(initial=-1)) + 1
        self._weights_RP = np.random.default_rng(seed).poisson(1.0, (REPLICATES, self._n_people)).astype(np.float32)

    def interval(self, values_Q: F64, where_Q: NDArray[np.bool_] | None = None) -> Figure:
        """Mean of the values, of all queries or some, and its interval.

        Raises:
            ValueError: If there is no query.
        """
        where_Q = np.ones(len(values_Q), np.bool_) if where_Q is None else where_Q
        if not where_Q.any():
            raise ValueError("no mean: expected at least one query, got none")
        means_R = self.sums(values_Q * where_Q) / np.maximum(self.sums(where_Q.astype(np.float64)), 1e-9)
        low, high = np.percentile(means_R, [2.5, 97.5])
        return Figure(float(values_Q[where_Q].mean()), float(low), float(high))

    def sums(self, values_Q: F64) -> F64:
        """Sum of the values in each replicate: [R]."""
        total_P = np.bincount(self._person_Q, values_Q, minlength=self._n_people)
        return (self._weights_RP @ total_P.astype(np.float32)).astype(np.float64)


class Calibration(NamedTuple):
    """How often what was called likely came true."""

    error: Figure
    """Expected calibration error: mean distance, over what was called, of the bins' called and seen probability. Its
    interval leans upwards: in each replicate chance adds to the distance."""
    called: list[float]
    seen: list[float]
    n: list[float]
    """Of each bin: mean probability called, share that came true, and how many there were."""


def calibration_of_all(scores_QK: F64, true_Q: I64, people: People) -> Calibration:
    """Calibration of all candidates' probabilities, in deciles of what was called."""
    probability_QK = softmax(scores_QK)
    came_QK = np.zeros(probability_QK.shape)
    np.put_along_axis(came_QK, true_Q[:, None], 1.0, axis=1)
    return _calibration(probability_QK, came_QK, np.isfinite(scores_QK).astype(np.float64), people)


def calibration_of_first(scores_QK: F64, true_Q: I64, people: People) -> Calibration:
    """Calibration of the probability of the candidate that is ranked first, in deciles; ties in expectation."""
    probability_Q1 = softmax(scores_QK).max(axis=1, keepdims=True)
    came_Q1 = _expected(scores_QK, true_Q, np.ones(1))[:, None]
    return _calibration(probability_Q1, came_Q1, np.ones(came_Q1.shape), people)


def softmax(scores_QK: F64) -> F64:
    """Probabilities of a slate; 0 for a slot without a candidate."""
    probability_QK: F64 = np.exp(_log_softmax(scores_QK))
    return probability_QK


def figures(metrics: Mapping[str, F64], people: People, where_Q: NDArray[np.bool_] | None = None) -> dict[str, Figure]:
    """Mean and interval of every metric."""
    return {name: people.interval(values_Q, where_Q) for name, values_Q in metrics.items()}


def _calibration(called_QK: F64, came_QK: F64, is_called_QK: F64, people: People) -> Calibration:
    """Equal probabilities share a bin: its ends are quantiles, never a place in some order."""
    ends = np.quantile(called_QK[is_called_QK > 0], np.arange(1, N_BINS) / N_BINS)
    bin_QK = np.searchsorted(ends, called_QK, side="right")
    n, called, seen = np.zeros(N_BINS), np.zeros(N_BINS), np.zeros(N_BINS)
    distance_R: F64 = np.zeros(REPLICATES)
    for b in range(N_BINS):
        in_bin_QK = is_called_QK * (bin_QK == b)
        n[b], called[b], seen[b] = in_bin_QK.sum(), (called_QK * in_bin_QK).sum(), (came_QK * in_bin_QK).sum()
        distance_R += np.abs(people.sums(((called_QK - came_QK) * in_bin_QK).sum(axis=1)))
    error_R = distance_R / np.maximum(people.sums(is_called_QK.sum(axis=1)), 1e-9)
    low, high = np.percentile(error_R, [2.5, 97.5])
    error = Figure(float(np.abs(called - seen).sum() / n.sum()), float(low), float(high))
    is_used = n > 0
    per_one = np.maximum(n, 1)
    return Calibration(
        error, (called / per_one)[is_used].tolist(), (seen / per_one)[is_used].tolist(), n[is_used].tolist()
    )


def _log_softmax(scores_QK: F64) -> F64:
    shifted_QK = scores_QK - scores_QK.max(axis=1, keepdims=True)
    log_probability_QK: F64 = shifted_QK - np.log(np.exp(shifted_QK).sum(axis=1, keepdims=True))
    return log_probability_QK


def _places(scores_QK: F64, true_Q: I64) -> tuple[I64, I64]:
    """How many candidates are above the true one, and how many level with it, itself included."""
    own_Q1 = np.take_along_axis(scores_QK, true_Q[:, None], axis=1)
    return (scores_QK > own_Q1).sum(axis=1), (scores_QK == own_Q1).sum(axis=1)


def _expected(scores_QK: F64, true_Q: I64, gain: F64) -> F64:
    """Mean gain over the places that the true candidate may take among those of its score."""
    n_above_Q, n_level_Q = _places(scores_QK, true_Q)
    summed = np.concatenate([[0.0], np.cumsum(gain), np.full(scores_QK.shape[1], gain.sum())])
    expected: F64 = (summed[n_above_Q + n_level_Q] - summed[n_above_Q]) / n_level_Q
    return expected
