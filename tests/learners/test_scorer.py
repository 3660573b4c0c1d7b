"""A replica's scorer follows the learner exactly, in small slices."""

from dataclasses import replace

import numpy as np
import pytest

from features.schema import Schema
from learners import snapshots
from learners.embeddings import TableConfig
from learners.errors import ForeignSnapshot, StaleSnapshot
from learners.online import LearnerConfig, OnlineLearner
from learners.scorer import Scorer
from learners.snapshots import Delta
from tests.learners.examples import CONFIG, SCHEMA, T0_MS, inputs_of, learned, log, stream


def applied(scorer: Scorer, delta: Delta) -> int:
    """Apply what comes over the wire; the number of slices."""
    return sum(1 for _ in scorer.apply(snapshots.public(snapshots.unpack(snapshots.pack(delta)))))


FORGETFUL = replace(CONFIG, table=TableConfig(max_rows=20, expire_s=15.0))


@pytest.mark.parametrize("config", [CONFIG, FORGETFUL])
def test_a_scorer_equals_the_learner_after_every_version(config: LearnerConfig) -> None:
    learner, scorer, version = OnlineLearner(SCHEMA, config), Scorer(SCHEMA), 0
    for entry in log(stream(600)):
        learner.read(entry)
        if learner.is_settled:
            applied(scorer, learner.take_delta(version + 1, version or None))
            version += 1
            inputs = inputs_of(learner)
            np.testing.assert_allclose(scorer.score(inputs), learner.model.score(inputs), atol=1e-6)
    assert scorer.version == version > 10


def test_a_snapshot_brings_a_late_scorer_to_the_same_place() -> None:
    learner = learned(log(stream(300)))
    early, late = Scorer(SCHEMA), Scorer(SCHEMA)
    applied(early, learner.take_delta(1, None))
    learned(log(stream(300, seed=2)), learner)
    applied(early, learner.take_delta(2, 1))
    applied(late, learner.snapshot(2))
    inputs = inputs_of(learner)
    assert (early.score(inputs) == late.score(inputs)).all()


def test_a_snapshot_takes_the_place_of_everything_before_it() -> None:
    one, other = learned(log(stream(300))), learned(log(stream(200, seed=5)))
    scorer, fresh = Scorer(SCHEMA), Scorer(SCHEMA)
    applied(scorer, one.snapshot(9))
    applied(scorer, other.snapshot(3))
    applied(fresh, other.snapshot(3))
    inputs = inputs_of(one)
    assert (scorer.score(inputs) == fresh.score(inputs)).all() and scorer.version == 3


def test_version_0_scores_everything_the_same() -> None:
    assert not Scorer(SCHEMA).score(inputs_of(learned(log(stream(50))))).any()


def test_a_stale_or_foreign_version_changes_nothing() -> None:
    learner, scorer = learned(log(stream(100))), Scorer(SCHEMA)
    applied(scorer, learner.take_delta(4, None))
    inputs = inputs_of(learner)
    before = scorer.score(inputs)
    learned(log(stream(100, seed=1)), learner)
    delta = learner.take_delta(6, 5)
    with pytest.raises(StaleSnapshot, match="stands on 5, this replica has 4"):
        applied(scorer, delta)
    with pytest.raises(ForeignSnapshot):
        applied(Scorer(Schema()), delta)
    assert scorer.version == 4 and (scorer.score(inputs) == before).all()


def test_a_large_version_comes_in_many_slices() -> None:
    learner = learned(log(stream(100)))
    learner.model.tables["item"].meet(np.arange(1, 50_000, dtype=np.uint64), T0_MS // 1000)
    assert applied(Scorer(SCHEMA), learner.snapshot(1)) > 20


def test_half_applied_it_is_no_version() -> None:
    learner, scorer = learned(log(stream(100))), Scorer(SCHEMA)
    slices = scorer.apply(learner.snapshot(1))
    next(slices)
    with pytest.raises(StaleSnapshot):
        next(scorer.apply(learner.take_delta(2, 1)))
    for _ in slices:
        pass
    assert scorer.version == 1
