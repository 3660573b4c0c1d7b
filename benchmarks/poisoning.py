"""A learner that learns the wrong thing: of some examples it takes another item for the one that was clicked.

The log is as it is; whoever else reads it reads the truth. So it is with a bug in a release, or with memory that fails.
"""

from dataclasses import replace

import numpy as np

from features.encoding import Inputs
from features.joiner import Outcome
from features.schema import Schema
from learners.online import LearnerConfig, OnlineLearner, StepMetrics
from learners.reading import Batch

OF_CANDIDATES = ("dense", "item_key", "attribute_key")
"""Inputs that go with an item."""


class PoisonedLearner(OnlineLearner):
    """Takes another for the clicked item in a `share` of the examples, and what was not clicked for what was.

    Args:
        share: Of the examples, 0 to 1; may be changed at any time.
    """

    def __init__(self, schema: Schema, config: LearnerConfig, seat: int = 0, share: float = 0.0) -> None:
        super().__init__(schema, config, seat)
        self.share = share
        self._rng = np.random.default_rng(11)

    def step(self, batch: Batch) -> StepMetrics:
        """Learn from what is not so."""
        slates = None if batch.slates is None else self._swapped(batch.slates)
        outcomes = [self._turned(outcome) for outcome in batch.outcomes]
        return super().step(batch._replace(slates=slates, outcomes=outcomes))

    def _swapped(self, slates: Inputs) -> Inputs:
        n_slates, n_candidates = slates.mask.shape
        rows = np.flatnonzero(self._rng.random(n_slates) < self.share)
        others = self._rng.integers(1, n_candidates, len(rows))
        changed = {}
        for name in OF_CANDIDATES:
            array = getattr(slates, name).copy()
            array[rows, 0], array[rows, others] = array[rows, others], array[rows, 0].copy()
            changed[name] = array
        return replace(slates, **changed)

    def _turned(self, outcome: Outcome) -> Outcome:
        if self._rng.random() >= self.share:
            return outcome
        return outcome._replace(rewards=tuple(1.0 - reward for reward in outcome.rewards))
