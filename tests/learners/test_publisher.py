"""Laws of what replicas get: they hold what the publisher says they hold, as near to the model as fits."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learners import snapshots
from learners.editions import heads, parts, restored, rounded
from learners.embeddings import TableConfig
from learners.online import LearnerConfig, OnlineLearner
from learners.publisher import Draft, Publisher
from learners.scorer import Scorer
from learners.snapshots import Delta
from tests.learners.examples import CONFIG, SCHEMA, inputs_of, learned, log, stream

UNLIMITED = 1 << 40
FORGETFUL = replace(CONFIG, table=TableConfig(max_rows=20, expire_s=15.0))


def received(scorer: Scorer, draft: Draft) -> None:
    """Apply what comes over the wire."""
    head = heads.unpack(heads.pack(draft.head))
    for _ in scorer.apply(head, [parts.unpack(parts.pack(part)) for part in draft.parts]):
        pass


def versions(config: LearnerConfig, n_events: int = 600) -> Iterator[tuple[OnlineLearner, Delta, Delta]]:
    """A learner as it goes on: itself, what each version has changed, and all of it."""
    learner, full, version = OnlineLearner(SCHEMA, config), None, 0
    for entry in log(stream(n_events)):
        learner.read(entry)
        if learner.is_settled:
            delta = snapshots.unpack(snapshots.pack(learner.take_delta(version + 1, version or None)))
            full = delta if full is None else snapshots.merge(full, delta)
            version += 1
            yield learner, delta, full


@given(arrays(np.float32, (7, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_rounded_row_is_within_half_a_step(values: np.ndarray) -> None:
    scales, codes = rounded(values)
    assert (np.abs(restored(scales, codes) - values) <= 0.5001 * scales[:, None] + 1e-30).all()
    again = rounded(restored(scales, codes))
    np.testing.assert_array_equal(again[1], codes)


def test_a_row_that_is_not_finite_is_sent_as_zero() -> None:
    scales, codes = rounded(np.array([[1.0, np.nan], [np.inf, 2.0], [1.0, 2.0]], dtype=np.float32))
    assert not restored(scales[:2], codes[:2]).any() and restored(scales, codes)[2, 1] == pytest.approx(2.0)


@pytest.mark.parametrize("config", [CONFIG, FORGETFUL])
def test_a_scorer_is_as_near_to_the_learner_as_rounding_lets_it_after_every_version(config: LearnerConfig) -> None:
    publisher, scorer = Publisher("here", UNLIMITED), Scorer(SCHEMA)
    for learner, delta, full in versions(config):
        publisher.note(delta)
        draft = publisher.draft(full)
        received(scorer, draft)
        publisher.settle(draft)
        for name, table in learner.tables.items():
            rows = np.flatnonzero(table.key)
            there = scorer.tables[name].lookup(table.key[rows])
            assert (there > 0).all() and scorer.tables[name].n_live == len(rows)
            step = np.abs(table.weight[rows]).max(axis=1, keepdims=True, initial=0.0) / 127
            assert (np.abs(scorer.tables[name].weight[there] - table.weight[rows]) <= 0.51 * step).all()
        inputs = inputs_of(learner)
        np.testing.assert_allclose(scorer.score(inputs), learner.model.score(inputs), atol=0.02)
    assert scorer.version == publisher.version == full.version > 10


@pytest.mark.parametrize("max_bytes", [0, 200, 2000, UNLIMITED])
@pytest.mark.parametrize("config", [CONFIG, FORGETFUL])
def test_who_followed_from_the_start_and_who_comes_late_are_the_same_bit_for_bit(
    config: LearnerConfig, max_bytes: int
) -> None:
    publisher, scorer = Publisher("here", max_bytes), Scorer(SCHEMA)
    for number, (learner, delta, full) in enumerate(versions(config)):
        publisher.note(delta)
        draft = publisher.draft(full)
        if number % 3 == 1:
            continue  # it is held; what it would have brought comes with the next one
        received(scorer, draft)
        publisher.settle(draft)
        late = Scorer(SCHEMA)
        for _ in late.apply(*publisher.whole()):
            pass
        inputs = inputs_of(learner)
        np.testing.assert_array_equal(scorer.score(inputs), late.score(inputs))
        assert (late.version, late.place) == (scorer.version, scorer.place)


def test_what_has_moved_most_comes_first_and_everything_in_the_end() -> None:
    row_bytes = 12 + CONFIG.model.n_embedding
    publisher, scorer, sizes = Publisher("here", 10 * row_bytes), Scorer(SCHEMA), []
    for learner, delta, full in versions(CONFIG, 300):
        inputs = inputs_of(learner)
        publisher.note(delta)
        draft = publisher.draft(full)
        received(scorer, draft)
        publisher.settle(draft)
        sizes.append(sum(len(part.keys) for part in draft.parts))
    assert max(sizes[1:]) == 10 and draft.n_left > 0
    left = draft.n_left
    while draft.n_left:
        draft = publisher.draft(full)
        moved = [change.moved for change in draft.changes.values()]
        assert sum(map(len, moved)) == min(10, left)
        received(scorer, draft)
        publisher.settle(draft)
        left -= 10
    exact, whole = Publisher("elsewhere", UNLIMITED), Scorer(SCHEMA)
    received(whole, exact.draft(full))
    np.testing.assert_array_equal(scorer.score(inputs), whole.score(inputs))


def test_a_version_that_is_gone_back_to_comes_whole_whatever_it_takes() -> None:
    publisher, scorer = Publisher("here", UNLIMITED), Scorer(SCHEMA)
    every = [snapshots.unpack(snapshots.pack(full)) for _, _, full in versions(FORGETFUL)]
    for full in every:
        publisher.note_all(full)
        draft = publisher.draft(full)
        received(scorer, draft)
        publisher.settle(draft)
    publisher._max_bytes = 0
    for full in (every[3], every[0], every[-1]):
        publisher.note_all(full)
        draft = publisher.draft(full, is_limited=False)
        received(scorer, draft)
        publisher.settle(draft)
        exact, whole = Publisher("elsewhere", UNLIMITED), Scorer(SCHEMA)
        received(whole, exact.draft(full))
        inputs = inputs_of(learned(log(stream(50))))
        np.testing.assert_array_equal(scorer.score(inputs), whole.score(inputs))
        assert scorer.version == full.version


def test_nothing_is_sent_of_what_has_not_changed() -> None:
    publisher = Publisher("here", UNLIMITED)
    (_, _, full), *_ = versions(CONFIG)
    publisher.settle(publisher.draft(full))
    publisher.note_all(full)
    assert publisher.draft(full).parts == []


def test_nothing_is_published_before_the_first() -> None:
    with pytest.raises(RuntimeError, match="nothing is published"):
        Publisher("here", UNLIMITED).whole()
