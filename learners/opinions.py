"""What models make of slates whose truth is known.

No Ray, no log. Legend: B slates, K candidates.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from learners import parts
from learners.losses import ListwiseLoss, PointwiseLoss
from learners.metrics import log_losses, softmax
from learners.parts import Part
from learners.scorer import Scorer

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
LEAST: Final = 1e-6  # a rate below this counts as this


@dataclass(slots=True)
class Opinion:
    """What a model makes of some slates."""

    scores: F32  # [B, K]
    losses: F64  # [B]; of impressions those rows that count as shown, and so below
    called: F64  # [B]
    """Probability of what it calls likely."""
    came: F64  # [B]
    """How much of that came true."""


@dataclass(slots=True)
class Case:
    """Slates that something is known of."""

    part: Part
    first_ms: int
    """Since when they happened, in log time."""
    live: Opinion
    """Of what answers."""
    anchor: Opinion | None


def without(case: Case, is_kept_B: NDArray[np.bool_]) -> Case | None:
    """Some slates of a case; None if none of them counts."""
    if is_kept_B.all():
        return case
    part, loss = parts.without(case.part, is_kept_B), case.part.loss
    is_counted_B = is_kept_B if isinstance(loss, ListwiseLoss) else is_kept_B[loss.is_shown]
    if not is_counted_B.any():
        return None
    live, anchor = (
        None
        if one is None
        else Opinion(one.scores[is_kept_B], *(each[is_counted_B] for each in (one.losses, one.called, one.came)))
        for one in (case.live, case.anchor)
    )
    assert live is not None
    return Case(part, case.first_ms, live, anchor)


def opinion(scorer: Scorer, part: Part) -> Opinion:
    """What a model makes of slates whose truth is known."""
    scores_BK = scorer.score(part.inputs)
    loss = part.loss
    if isinstance(loss, ListwiseLoss):
        masked_BK = np.where(part.inputs.mask, scores_BK.astype(np.float64), -np.inf)
        first = np.zeros(len(masked_BK), dtype=np.int64)
        probability_BK = softmax(masked_BK)
        called_B = probability_BK.max(axis=1)
        came_BK = probability_BK == called_B[:, None]
        return Opinion(scores_BK, log_losses(masked_BK, first), called_B, came_BK[:, 0] / came_BK.sum(axis=1))
    return _of_impressions(scorer, part, loss, scores_BK)


def _of_impressions(scorer: Scorer, part: Part, loss: PointwiseLoss, scores_BK: F32) -> Opinion:
    shown_B = loss.is_shown
    shown_at = scorer.weights_of("shown_at")
    seen = PointwiseLoss(loss.share, loss.place, shown_B, loss.reward, loss.shift, (shown_at, np.zeros_like(shown_at)))
    seen(scores_BK, part.inputs.mask, np.empty_like(scores_BK))
    rate_BK = np.clip(seen.rates[shown_B].astype(np.float64), LEAST, 1.0 - LEAST)
    reward_BK = loss.reward[shown_B]
    mask_BK = part.inputs.mask[shown_B]
    loss_BK = -(reward_BK * np.log(rate_BK) + (1.0 - reward_BK) * np.log1p(-rate_BK))
    return Opinion(scores_BK, *(np.where(mask_BK, one, 0.0).sum(axis=1) for one in (loss_BK, rate_BK, reward_BK)))
