"""Off-policy estimates: what another policy would have earned an impression, from what this one showed.

    logged decisions + feedback ──► reward, logged propensity, propensity of the evaluated policy ──► ips, snips

An impression is worth its reward times w = evaluated / logged propensity: what the other policy shows more often counts
for more. It can only be judged by what was shown, so the logging policy must have left something to chance (not
`greedy`) wherever the other one would go. Give every impression, the unrewarded too, and choose them without regard to
their reward.

Which propensities to give, for slates, depends on what may be assumed; the logged ones are conditional, each given the
items above (`policies`).

- *A position by itself*: both conditional, as logged. Estimated is what the position earns when the other policy
  chooses there and this one everywhere else. Nothing is assumed of the reader; it is the other policy's own value at
  the first position only.
- *The prefix*: both through `prefix_propensities`. Estimated is the whole other policy. Assumed is that a reward at a
  position does not depend on what stands below it. Weights are products and spread with every position: `n_effective`
  says how soon nothing is left.
- *Item and position*: both marginal, the chance of the item at the position whatever stands above. Assumed is that a
  reward depends on item and position alone. Decisions do not hold marginals (a log like Open Bandit's does), and
  conditional ones must not stand in for them: below an item already placed, they are about another choice.

To know another Plackett-Luce policy's propensities of a slate, one needs its scores of all candidates
(`plackett_luce_propensities`); a decision holds those that were shown, the first 50.

Intervals are of the linearised ratio, over people rather than impressions, on the scale of logarithms: a bootstrap over
people holds the truth no more often where rewards are few, needs chance and costs a thousand passes; plain ± reaches
below 0 and holds it less often (`benchmarks/bench_off_policy.py` compares all three). An interval knows only those
weights that were met: where `n_rewarded` is below ten or so, or a few weights outweigh all others, it is an order of
magnitude.

Legend: N impressions, B slates, P positions.
Source: Horvitz and Thompson, JASA 1952; Swaminathan and Joachims, NeurIPS 2015 (self-normalised); McInerney et al., KDD
2020 (prefixes); Li et al., KDD 2018 (item and position).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Pair = tuple[F64, F64]

NORMAL_95: Final = 1.959964  # half the width of a 95 % interval, in standard errors
MIN_PROPENSITY: Final = 1e-300  # below it a sum of weights may overflow; a prefix's product comes there first


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a policy earns an impression, and how much is known of that."""

    value: float
    low: float
    """Low end of the 95 % interval; 0 where nothing is known."""
    high: float
    """High end; infinite where nothing is known: no reward, or a single person's impressions."""
    n_effective: float
    """Impressions drawn by the evaluated policy itself that would tell as much: (sum w)^2 / sum w^2."""
    n_rewarded: int
    """Impressions that the value is made of: those of positive weight and reward."""


def ips(
    reward_N: npt.ArrayLike,
    logged_propensity_N: npt.ArrayLike,
    evaluated_propensity_N: npt.ArrayLike,
    *,
    person_N: npt.ArrayLike | None = None,
    clip: float | None = None,
) -> Estimate:
    """Inverse propensity scoring: sum w r / N. Unbiased without `clip`; a constant added to all rewards adds noise.

    >>> ips([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], [0.8, 0.2, 0.8, 0.2]).value
    0.8

    Args:
        reward_N: Not negative.
        logged_propensity_N: Probability with which it was shown; at least 1e-300, so that weights are finite.
        evaluated_propensity_N: Probability with which the other policy would have shown it there, in [0, 1].
        person_N: Whose impression it is; one person's are alike, and so are one decision's. None: all are independent.
        clip: Weights above it become it. Fewer large weights, less variance, and a value too low, by the mean of
            (w - clip) r over the weights clipped. The interval is that of the clipped value and knows nothing of it.
    Raises:
        ValueError: Naming the argument that is of another length, out of range or not a number; also if the other
            policy would have shown nothing of this, as nothing can be said then.
    """
    reward_N, weight_N = _checked(reward_N, logged_propensity_N, evaluated_propensity_N, clip)
    return _estimate(reward_N, weight_N, np.ones_like(weight_N), person_N)


def snips(
    reward_N: npt.ArrayLike,
    logged_propensity_N: npt.ArrayLike,
    evaluated_propensity_N: npt.ArrayLike,
    *,
    person_N: npt.ArrayLike | None = None,
    clip: float | None = None,
) -> Estimate:
    """The self-normalised one: sum w r / sum w, a mean of rewards and never outside their range.

    Its bias vanishes as 1 / `n_effective`. Usually it varies less than `ips`: what chance does to the weights cancels.
    With `clip` the value leans towards the rewards of what was clipped least; which way that is depends on them.

    >>> snips([1, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [0.8, 0.2, 0.8, 0.2]).value
    0.9

    Args, raises: As `ips`.
    """
    reward_N, weight_N = _checked(reward_N, logged_propensity_N, evaluated_propensity_N, clip)
    return _estimate(reward_N, weight_N, weight_N, person_N)


def prefix_propensities(conditional_BP: npt.ArrayLike) -> F64:
    """Probability of the items from the first to each position, in that order: the running product of conditional ones.

    Args:
        conditional_BP: Slates of one length, or padded with ones.
    Raises:
        ValueError: If it is no table of numbers from 0 to 1.
    """
    conditional = np.asarray(conditional_BP, dtype=np.float64)
    if conditional.ndim != 2:
        raise ValueError(f"conditional_BP: expected two dimensions, got {conditional.ndim}")
    flat = conditional.ravel()
    _refuse("conditional_BP", flat, (flat >= 0) & (flat <= 1), "numbers from 0 to 1")
    return np.cumprod(conditional, axis=1, dtype=np.float64)


def _estimate(reward_N: F64, weight_N: F64, share_N: F64, person_N: npt.ArrayLike | None) -> Estimate:
    """The ratio sum w r / sum share; what a person adds to its relative error is w r / sum w r - share / sum share."""
    earned_N = weight_N * reward_N
    scaled_N = weight_N / weight_N.max()  # its squares do not overflow
    n_effective = float(scaled_N.sum() ** 2 / (scaled_N @ scaled_N))
    n_rewarded = int(np.count_nonzero(earned_N))
    value = float(earned_N.sum() / share_N.sum())
    people_N = np.arange(len(reward_N)) if person_N is None else _numbered(person_N, len(reward_N))
    n = np.count_nonzero(np.bincount(people_N, share_N))
    if n_rewarded == 0 or n == 1:
        return Estimate(value, 0.0, math.inf, n_effective, n_rewarded)
    residual = np.bincount(people_N, earned_N / earned_N.sum() - share_N / share_N.sum())
    factor = math.exp(NORMAL_95 * math.sqrt(n / (n - 1) * float(residual @ residual)))
    return Estimate(value, value / factor, value * factor, n_effective, n_rewarded)


def _checked(reward: npt.ArrayLike, logged: npt.ArrayLike, evaluated: npt.ArrayLike, clip: float | None) -> Pair:
    """Rewards and weights."""
    reward_N = np.asarray(reward, dtype=np.float64)
    logged_N = np.asarray(logged, dtype=np.float64)
    evaluated_N = np.asarray(evaluated, dtype=np.float64)
    if reward_N.ndim != 1 or not len(reward_N):
        raise ValueError(f"reward_N: expected one dimension, not empty, got shape {reward_N.shape}")
    for name, values in (("logged_propensity_N", logged_N), ("evaluated_propensity_N", evaluated_N)):
        if values.shape != reward_N.shape:
            raise ValueError(f"{name}: expected shape {reward_N.shape} as reward_N, got {values.shape}")
    _refuse("reward_N", reward_N, (reward_N >= 0) & (reward_N < math.inf), "finite numbers, not negative")
    is_right_N = (logged_N >= MIN_PROPENSITY) & (logged_N <= 1)
    _refuse("logged_propensity_N", logged_N, is_right_N, f"numbers from {MIN_PROPENSITY:g} to 1")
    _refuse("evaluated_propensity_N", evaluated_N, (evaluated_N >= 0) & (evaluated_N <= 1), "numbers from 0 to 1")
    if not evaluated_N.any():
        raise ValueError("evaluated_propensity_N: expected a positive one, got only 0; the log does not tell of it")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a positive number or None, got {clip}")
    return reward_N, np.minimum(evaluated_N / logged_N, math.inf if clip is None else clip)


def _refuse(name: str, values: F64, is_right: npt.NDArray[np.bool_], expected: str) -> None:
    if not is_right.all():
        at = int(np.argmin(is_right))
        raise ValueError(f"{name}: expected {expected}, got {values[at]} at {at}")


def _numbered(person_N: npt.ArrayLike, n: int) -> I64:
    """People as 0, 1, 2, …"""
    people = np.asarray(person_N)
    if people.shape != (n,):
        raise ValueError(f"person_N: expected shape ({n},) as reward_N, got {people.shape}")
    return np.unique(people, return_inverse=True)[1].astype(np.int64)
