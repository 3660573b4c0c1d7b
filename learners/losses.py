"""Losses: from the scores of slates to the gradient of the scores, written in place.

*Listwise* where only what was taken is known: the slate is that and drawn negatives. *Pointwise* where it is known what
was shown: impressions and rewards, each counted by itself, so that a logit is that of a reward.

They know neither network nor features. Legend: B slates, K candidates.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learners import kernels

F32 = NDArray[np.float32]
Gradient = tuple[F32, F32]
"""A parameter and its gradient."""


@dataclass(slots=True)
class ListwiseLoss:
    """Cross entropy of candidate 0 and the softmax of its slate.

    loss_b = -log softmax(s_b)_0
    Source: Cao et al., ICML 2007 (ListNet), top-one probabilities.
    """

    share: float
    """Weight of a slate."""
    losses: F32 = field(init=False)
    """[B], before learning."""
    is_relative: ClassVar = True
    """It says nothing of how high scores are."""

    def __call__(self, scores_BK: F32, mask_BK: NDArray[np.bool_], gradient_BK: F32) -> None:
        """Write the gradient; masked candidates add nothing."""
        self.losses = np.empty(len(scores_BK), dtype=np.float32)
        kernels.listwise(scores_BK, mask_BK, np.float32(self.share), self.losses, gradient_BK)


@dataclass(slots=True)
class PointwiseLoss:
    """Logistic loss of impressions, and of rewards that come after they were counted.

    Of what is shown the rate of rewards *in time* is learned; what share of all rewards is late is known on the
    average, and corrects the log odds, as that of negatives left out does: `shift`. A late reward itself only says
    which item of its slate got it: its gradient adds up to zero over the slate. So the rates are right of each item,
    also of one whose rewards come later than others', and nothing that a whole slate has in common, the hour above
    all, is learned from rewards alone.

    shown: loss = log(1 + e^z) - reward z,  z = s + shift + what its place adds
    late:  dloss/dz_k = rate_k sum(reward) / sum(rate) - reward_k
    """

    share: float
    """Weight of an impression."""
    place: NDArray[np.int64]
    """[B, K] where each candidate was shown."""
    is_shown: NDArray[np.bool_]  # [B]
    reward: F32
    """[B, K]; of one that does not count as shown, what is added to it."""
    shift: float
    """Log odds of what is learned from beside those of everything shown, and of rewards in time beside all."""
    shown_at: Gradient
    """What a place adds to a logit, and the gradient of that, to which is added. The first place adds nothing."""
    rates: F32 = field(init=False)
    """[B, K] predicted rates of reward before learning; 0 where nothing counts as shown."""

    @property
    def is_relative(self) -> bool:
        """Late rewards alone say nothing of how high rates are."""
        return not self.is_shown.any()

    def __call__(self, scores_BK: F32, mask_BK: NDArray[np.bool_], gradient_BK: F32) -> None:
        """Write the gradient; masked candidates add nothing."""
        self.rates = np.empty_like(scores_BK)
        kernels.pointwise(
            *(scores_BK, mask_BK, self.place, self.is_shown, self.reward, np.float32(self.shift)),
            *(self.shown_at[0], np.float32(self.share), self.rates, gradient_BK, self.shown_at[1]),
        )
