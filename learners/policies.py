"""Policies: scores to a slate with propensities.

    scores ──► greedy           best first; nothing is left to chance
           └─► Plackett-Luce    one item after the other, each drawn by the softmax of those not placed yet

A policy orders the candidates of one request and says with which conditional probability each item came to stand at
its position, given those above it. The product of the first p is the probability of the first p items in that order;
how to learn from it what another policy would have earned is `off_policy`'s business.

It knows nothing of features or people. Scores are finite; chance comes from a generator that is passed in, so a policy
is as random, and as repeatable, as its generator. The price of Plackett-Luce is regret: whatever is drawn instead of
the best item is shown to somebody.

Legend: K candidates, P positions of a slate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

PolicyName = Literal["greedy", "plackett_luce"]
MIN_TEMPERATURE: Final = 1e-6  # scores differ by no less: they have six digits after the point
MAX_TEMPERATURE: Final = 1e6  # all orders are alike long before

Slate = tuple[list[int], list[float], list[float]]
"""Candidate indices in order of position, their scores, their propensities."""

Policy = Callable[[NDArray[np.floating], int | None], Slate]
"""Scores of the real candidates, and the length of the slate or None for all, to a slate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """How scores become an order."""

    name: PolicyName = "greedy"
    """`plackett_luce` explores: every order can be shown, and its propensities make other policies estimable."""
    temperature: float = 1.0
    """Plackett-Luce only, in units of the score: of two items `temperature` apart, the better is drawn e times as
    often. At 1 a trained model puts an item first as often as it believes it to be the one that is acted on."""

    def __post_init__(self) -> None:
        if self.name not in get_args(PolicyName):
            raise ValueError(f"policy.name: expected one of {', '.join(get_args(PolicyName))}, got {self.name!r}")
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"policy.temperature: expected {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}, got {self.temperature}"
            )


def policy_of(config: PolicyConfig, rng: np.random.Generator) -> Policy:
    """The configured policy; one that leaves nothing to chance does not touch the generator."""
    if config.name == "greedy":
        return greedy
    return partial(plackett_luce, temperature=config.temperature, rng=rng)


def greedy(scores_K: NDArray[np.floating], limit: int | None = None) -> Slate:
    """Best first; ties keep the order of the request. Every propensity is 1.

    Args:
        scores_K: Logits of the real candidates.
        limit: Length of the slate; None for all.
    """
    order = np.argsort(-scores_K, kind="stable")[:limit]
    return order.tolist(), scores_K[order].tolist(), [1.0] * len(order)


def plackett_luce(
    scores_K: NDArray[np.floating], limit: int | None = None, *, temperature: float, rng: np.random.Generator
) -> Slate:
    """Draw position after position by the softmax of scores / temperature over the candidates not placed yet.

    Sorting by score / temperature + Gumbel noise draws all positions at once. Noise of 53 bits spans 41 at most, so
    what has less than one chance in 10^18 beside another is never above it, and no propensity is ever 0.

    Args:
        scores_K: Logits of the real candidates.
        limit: Length of the slate; None for all.
    Source: Yellott, J. Math. Psychology 15 (1977); Kool et al., ICML 2019, section 2.
    """
    utility_K = scores_K.astype(np.float64) / temperature
    order_K = np.argsort(-(utility_K + rng.gumbel(size=len(utility_K))))
    propensity_K = _given_those_above(utility_K[order_K])
    order = order_K[:limit]
    return order.tolist(), scores_K[order].tolist(), propensity_K[:limit].tolist()


def plackett_luce_propensities(
    scores_K: NDArray[np.floating], order_P: NDArray[np.integer], *, temperature: float
) -> NDArray[np.float64]:
    """With which conditional probabilities Plackett-Luce would have come to a slate that another policy drew.

    >>> plackett_luce_propensities(np.log([1.0, 3.0, 4.0]), np.array([1, 2]), temperature=1.0).round(3).tolist()
    [0.375, 0.8]

    Args:
        scores_K: Logits of all candidates, the ones that were not shown too.
        order_P: Distinct candidate indices in order of position; it may be shorter than there are candidates.
    """
    utility_K = scores_K.astype(np.float64) / temperature
    from_top_K = np.concatenate([utility_K[order_P], np.delete(utility_K, order_P)])
    return _given_those_above(from_top_K)[: len(order_P)]


def _given_those_above(utility_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(u_k) / sum_{j >= k} exp(u_j) of utilities in order of position.

    Summed from the last position up and as logarithms, since sums of exponentials, or differences of them, are 0 or
    worse where the utilities lie far apart.
    """
    log_left_K = np.logaddexp.accumulate(utility_K[::-1])[::-1]
    return np.exp(utility_K - log_left_K)
