"""The dense weights that serve: a running mean of the trained ones. Steps are noisy, their mean is less so.

The mean is over about the last hundred steps, fewer at its beginning; after a change of the world it begins anew, as
what it holds is of a world that is no more.

The rate of a mean logit is not the mean of rates. So every now and then what serves is asked for the rates that the
trained weights just predicted, and its bias is lifted by what is missing.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learners.losses import PointwiseLoss
from learners.model import RankingModel
from learners.parts import Part

AVERAGED: Final = 100  # steps whose mean serves
WARM: Final = 4  # steps after which the mean begins to count more than the newest
COMPARED: Final = 16  # steps between two looks at what serves: a look costs a third of a step
LIFTING: Final = 0.1  # share of what is found missing that a look adds
HIGHEST: Final = 2.0  # in log odds
SURE: Final = 30.0  # a logit beyond this is taken for this: the mean rate of such is never 0


class ServedMean:
    """`follow` the trained weights after every step; `compare` with them as often as `is_due` says.

    Args:
        model: Whose dense weights these are.
        since: Step with which the mean began.
        lift: What is to be added to its bias, by now.
        lifted: What has been; None: all of it.
    """

    def __init__(self, model: RankingModel, since: int = 0, lift: float = 0.0, lifted: float | None = None) -> None:
        self.since = since
        self.lift = lift
        self.lifted = lift if lifted is None else lifted
        self._model = model

    def pace(self, n_before: int, n_steps: float) -> float:
        """How far it moves towards what is trained.

        Args:
            n_before: Steps there were before.
            n_steps: Full steps that are taken; of a batch that is not full a part of one.
        """
        rate = max(1.0 / AVERAGED, WARM / (WARM + max(n_before - self.since, 0) + 1))
        return 1.0 - math.pow(1.0 - rate, n_steps)

    def follow(self, trained: Tensor, pace: float) -> None:
        """Move towards what is trained."""
        self._model.flat.lerp_(trained, pace)
        self.keep_lifted(pace)

    def keep_lifted(self, pace: float) -> None:
        """After it has moved: its bias is as much higher as it should be."""
        bias, _ = self._model.arrays_of("bias")
        bias += np.float32(pace * self.lifted + self.lift - self.lifted)
        self.lifted = self.lift

    def is_due(self, n_steps: int) -> bool:
        """Whether it is time to compare."""
        return n_steps % COMPARED == 0

    def compare(self, part: Part) -> None:
        """See whether it predicts as many rewards as the trained weights did, and aim the lift at that."""
        assert isinstance(part.loss, PointwiseLoss)
        is_shown_BK = part.inputs.mask & part.loss.is_shown[:, None]
        trained, served = (_mean_rate(scores[is_shown_BK]) for scores in (part.scores, self._model.score(part.inputs)))
        wanted = self.lift + LIFTING * math.log(trained / served)
        self.lift = min(max(wanted, -HIGHEST), HIGHEST)


def _mean_rate(logits: NDArray[np.float32]) -> float:
    rates: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -SURE, SURE)))
    return float(rates.mean())
