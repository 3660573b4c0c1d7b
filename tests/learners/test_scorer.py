"""A scorer becomes one edition after the other, and never something in between."""

from dataclasses import replace

import numpy as np
import pytest

from features.schema import Schema
from learners.errors import ForeignSnapshot, StaleSnapshot
from learners.online import OnlineLearner
from learners.publisher import Publisher
from learners.scorer import Scorer
from tests.learners.examples import CONFIG, SCHEMA, T0_MS, inputs_of, learned, log, stream
from tests.learners.test_publisher import UNLIMITED, received


def test_an_edition_takes_the_place_of_everything_before_it() -> None:
    one, other = learned(log(stream(300))), learned(log(stream(200, seed=5)))
    scorer, fresh = Scorer(SCHEMA), Scorer(SCHEMA)
    received(scorer, Publisher("one", UNLIMITED).draft(one.snapshot(9)))
    for subject in (scorer, fresh):
        received(subject, Publisher("other", UNLIMITED).draft(other.snapshot(3)))
    inputs = inputs_of(one)
    assert (scorer.score(inputs) == fresh.score(inputs)).all() and scorer.version == 3


def test_version_0_scores_everything_the_same() -> None:
    assert not Scorer(SCHEMA).score(inputs_of(learned(log(stream(50))))).any()


def test_a_stale_or_foreign_edition_changes_nothing() -> None:
    learner, scorer, publisher = learned(log(stream(100))), Scorer(SCHEMA), Publisher("here", UNLIMITED)
    draft = publisher.draft(learner.snapshot(4))
    received(scorer, draft)
    publisher.settle(draft)
    inputs = inputs_of(learner)
    before = scorer.score(inputs)
    learned(log(stream(100, seed=1)), learner)
    full = learner.snapshot(5)
    publisher.note_all(full)
    publisher.settle(publisher.draft(full))
    later = publisher.draft(full)
    with pytest.raises(StaleSnapshot, match=r"stands on .*number=2.* this replica has .*number=1"):
        received(scorer, later)
    with pytest.raises(ForeignSnapshot):
        received(Scorer(Schema()), publisher.draft(full))
    assert scorer.version == 4 and (scorer.score(inputs) == before).all()


def test_between_flip_and_settle_it_can_go_back_and_take_another_way() -> None:
    learner, scorer, publisher = learned(log(stream(100))), Scorer(SCHEMA), Publisher("here", UNLIMITED)
    first = publisher.draft(learner.snapshot(1))
    received(scorer, first)
    publisher.settle(first)
    inputs = inputs_of(learner)
    before = scorer.score(inputs)
    learned(log(stream(300, seed=1)), learner)
    full = learner.snapshot(2)
    publisher.note_all(full)
    draft = publisher.draft(full)
    scorer.begin(draft.head)
    for part in draft.parts:
        for _ in scorer.add(part):
            assert (scorer.score(inputs) == before).all() and scorer.version == 1
    scorer.flip()
    after = scorer.score(inputs)
    assert scorer.version == 2 and not (after == before).all()
    scorer.revert()
    assert scorer.version == 1 and (scorer.score(inputs) == before).all()
    received(scorer, draft)
    assert scorer.version == 2 and (scorer.score(inputs) == after).all()


def test_a_network_of_another_shape_answers_only_after_the_flip() -> None:
    wide = replace(CONFIG, model=replace(CONFIG.model, n_hidden=24))
    one, other = learned(log(stream(200))), learned(log(stream(200)), OnlineLearner(SCHEMA, wide))
    scorer, inputs = Scorer(SCHEMA), inputs_of(one)
    received(scorer, Publisher("one", UNLIMITED).draft(one.snapshot(1)))
    before, draft = scorer.score(inputs), Publisher("other", UNLIMITED).draft(other.snapshot(1))
    scorer.begin(draft.head)
    for part in draft.parts:
        for _ in scorer.add(part):
            assert (scorer.score(inputs) == before).all()
    scorer.flip()
    assert not (scorer.score(inputs) == before).all()
    scorer.revert()
    assert (scorer.score(inputs) == before).all()


def test_a_large_edition_comes_in_many_slices() -> None:
    learner = learned(log(stream(100)))
    learner.tables["item"].meet(np.arange(1, 50_000, dtype=np.uint64), T0_MS // 1000)
    draft = Publisher("here", UNLIMITED).draft(learner.snapshot(1))
    assert sum(1 for _ in Scorer(SCHEMA).apply(draft.head, draft.parts)) > 20
