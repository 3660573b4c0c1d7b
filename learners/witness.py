"""Reads the log for a judge: the batches that a learner cuts, with what truly happened, and nothing learned.

Where several learners divide the examples, it takes as many as one of them: so it can keep up as long as they can.

No Ray, no store, no clock. Price: the item table (2.5 kB an item).
"""

from collections.abc import Iterable

import numpy as np

from features.events import Entry
from features.schema import Schema
from learners.judge import Judge
from learners.lateness import Lateness
from learners.losses import PointwiseLoss
from learners.parts import Part
from learners.reading import Batch, ExampleReader, ReadingConfig
from learners.snapshots import Delta, private_of

NOBODY = np.zeros(1, dtype=np.float32)
"""What a place adds to a logit is the business of each model that is asked."""


class Witness:
    """`read` entries in log order, `close_tick` after each tick; `judge` gets what is due."""

    def __init__(self, schema: Schema, config: ReadingConfig, judge: Judge, n_learners: int = 1) -> None:
        self.reader = ExampleReader(schema, config, 0, n_learners)
        self._schema = schema
        self._judge = judge
        self._lateness = Lateness()

    def restore(self, full: Delta) -> None:
        """Begin where a learner stood that took this full snapshot.

        Raises:
            ForeignSnapshot: If it is of another schema, or no learner's full snapshot.
        """
        self.reader.restore(full)
        self._lateness.state = private_of(full, self._schema).lateness

    def read(self, entry: Entry) -> None:
        """Take in the next entry of the log; of whom it erases the judge has nothing left."""
        self._tell(self.reader.read(entry))
        people = self.reader.take_erased()
        if len(people):
            self._judge.forget(people)

    def close_tick(self, end_ms: int) -> None:
        """Note that no entry before `end_ms` is still to come."""
        self._tell(self.reader.advance(end_ms))

    def _tell(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            parts = self.reader.parts(batch, self._lateness.log_odds_shift, (NOBODY, NOBODY))
            self._judge.take(parts, batch.first_ms)
            for part in parts:
                self._note_lateness(part)

    def _note_lateness(self, part: Part) -> None:
        if isinstance(part.loss, PointwiseLoss):
            reward, is_shown = part.loss.reward, part.loss.is_shown
            self._lateness.add(part.n_examples, float(reward[is_shown].sum()), float(reward[~is_shown].sum()))
