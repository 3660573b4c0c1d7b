"""Laws of several learners: together they are one, and what they learn is a function of the log and their number."""

from dataclasses import replace

import numpy as np
import pytest

from features.events import DECISION, EVENT, Entry
from learners import snapshots
from learners.embeddings import EmbeddingTable, TableConfig
from learners.online import OnlineLearner
from learners.owners import EVERYBODY
from learners.rounds import RoundClock, RoundConfig, lay_table
from learners.shares import Share, TableShare
from learners.team import Team
from tests.learners.examples import CONFIG, SCHEMA, learned, log, shown, stream, ticked

THREE = replace(CONFIG, rounds=RoundConfig(n_learners=3, span_s=60.0, max_entries=70))
ENTRIES = log(stream(900))
END_MS = ENTRIES[-1].id.ms + 3_600_000


def read(team: Team, entries: list[Entry]) -> Team:
    for entry in entries:
        team.read(entry)
    team.close_tick(entries[-1].id.ms + 3_600_000)
    return team


def packed(learner: OnlineLearner) -> bytes:
    """All there is, but for the progressive validation and what watches it, which is everybody's own."""
    full = learner.snapshot(1)
    assert full.private is not None
    progress = snapshots.msgspec.structs.replace(full.progress, metrics={})
    private = snapshots.msgspec.structs.replace(full.private, progressive=[], drift=[])
    return snapshots.pack(snapshots.msgspec.structs.replace(full, progress=progress, private=private))


@pytest.fixture(scope="module")
def straight() -> Team:
    """Nothing came between."""
    return read(Team(SCHEMA, THREE), ENTRIES)


def test_after_a_round_all_learners_are_equal_to_the_last_bit(straight: Team) -> None:
    one, *others = map(packed, straight.learners)
    assert straight.n_rounds > 8
    assert all(other == one for other in others)


def test_reading_the_same_entries_gives_the_same_weights_bit_for_bit(straight: Team) -> None:
    assert packed(read(Team(SCHEMA, THREE), ENTRIES).learners[0]) == packed(straight.learners[0])


def test_an_event_whose_state_is_none_is_passed_over_by_all(caplog: pytest.LogCaptureFixture) -> None:
    """Its own learner notices at once, the others when they fold it."""
    bad = {number: ENTRIES[number]._replace(state=b"\x01nonsense") for number in (400, 401, 423)}
    team = read(Team(SCHEMA, THREE), [bad.get(number, entry) for number, entry in enumerate(ENTRIES)])
    one, *others = map(packed, team.learners)
    assert all(other == one for other in others)
    assert {learner.n_events for learner in team.learners} == {len(ENTRIES) - len(bad)}
    assert caplog.text.count("passed over") == len(bad) * len(team.learners)


def test_a_learner_whose_others_have_nothing_but_such_events_goes_on() -> None:
    config = replace(CONFIG, rounds=RoundConfig(n_learners=2))
    learner = OnlineLearner(SCHEMA, config, 0)
    for entry in ENTRIES[:3]:
        learner.read(entry._replace(partition=1, state=b"\x01nonsense"))
    share = learner.end_round(END_MS)
    assert (learner.n_events, share.n_examples) == (0, 0)


@pytest.mark.parametrize("tick_ms", [200, 7_000, 100_000])
def test_rounds_do_not_depend_on_when_ticks_are_closed(straight: Team, tick_ms: int) -> None:
    team = ticked(Team(SCHEMA, THREE), ENTRIES, tick_ms)
    team.close_tick(END_MS)
    assert packed(team.learners[0]) == packed(straight.learners[0])


def test_a_learner_lost_in_the_middle_of_a_round_hands_out_the_same_share() -> None:
    """It goes on from the version that the first learner offered, and reads the round again."""
    entries = shown(300)
    config = replace(THREE, rounds=RoundConfig(n_learners=2, span_s=20.0))
    learners = [OnlineLearner(SCHEMA, config, seat) for seat in range(2)]
    clock, n_lost, committed, since = RoundClock(config.rounds), 0, None, 0
    for number, entry in enumerate(entries):
        if clock.is_over(entry.id.ms):
            shares = [learner.end_round(clock.end_ms) for learner in learners]
            if committed is not None:
                again = OnlineLearner(SCHEMA, config, 1)
                again.restore(snapshots.unpack(snapshots.pack(committed)))
                again.remember(entries[:since])
                for lost in entries[since:number]:
                    again.read(lost)
                assert_same(again.end_round(clock.end_ms), shares[1])
                n_lost += 1
                learners[1] = again
            for learner in learners:
                learner.lay(shares)
            committed, since = learners[0].snapshot(1), number
            clock.start()
        for learner in learners:
            learner.read(entry)
        clock.count(entry.id.ms)
    assert n_lost > 4


def test_the_deltas_of_the_first_learner_hold_what_all_have_learned() -> None:
    team, full, version = Team(SCHEMA, THREE), None, 0
    for entry in ENTRIES:
        n_rounds = team.n_rounds
        team.close_tick(entry.id.ms)
        if team.n_rounds > n_rounds:
            version += 1
            delta = team.learners[0].take_delta(version, version - 1 or None)
            full = delta if full is None else snapshots.merge(full, delta)
            for learner in team.learners[1:]:
                learner.drop_delta()
        team.read(entry)
    team.close_tick(END_MS)
    full = snapshots.merge(full, team.learners[0].take_delta(version + 1, version))
    restored = OnlineLearner(SCHEMA, THREE, 2)
    restored.restore(full)
    assert packed(restored) == packed(team.learners[2])


@pytest.mark.parametrize(("entries", "kind"), [(ENTRIES, EVENT), (shown(300), DECISION)])
def test_everything_is_learned_once(entries: list[Entry], kind: int) -> None:
    team, alone = read(Team(SCHEMA, THREE), entries), learned(entries)
    assert any(entry.kind == kind for entry in entries)
    assert [learner.n_examples for learner in team.learners] == [alone.n_examples] * 3
    assert [learner.n_events for learner in team.learners] == [alone.n_events] * 3
    assert team.learners[1].positions == alone.positions
    assert [team.learners[2].table.pack(row) for row in range(1, 10)] == [alone.table.pack(row) for row in range(1, 10)]


def test_together_they_learn_what_one_learns(straight: Team) -> None:
    alone = learned(ENTRIES)
    assert straight.metrics["logloss"] < 0.5 * (straight.metrics["popularity_logloss"] + alone.metrics["logloss"])


def test_nobody_draws_what_another_draws(straight: Team) -> None:
    """Of a table that they all have."""
    drawn = []
    for learner in straight.learners:
        learner.reader._sampler.refresh(learner.table, END_MS)
        drawn.append(learner.reader._sampler.draw(0, 3)[0].tolist())
    assert drawn[0] != drawn[1] != drawn[2]


def test_changes_of_a_row_are_added_up_and_new_keys_get_rows_at_the_end() -> None:
    table = EmbeddingTable(2, TableConfig(max_rows=50), knows_people=True)
    table.meet(np.array([5, 6], np.uint64), 10, np.array([1, 2], np.uint64))
    before = table.weight[:3].copy()
    one = TableShare(
        *(np.array([1]), np.ones((1, 2), np.float32), np.array([3], np.float32)),
        *(np.array([7, 8], np.uint64), np.array([1, 1], np.uint64)),
    )
    other = TableShare(
        *(np.array([1, 2]), np.full((2, 2), 2.0, np.float32), np.array([4, 5], np.float32)),
        *(np.array([5, 7], np.uint64), np.array([1, 3], np.uint64)),
    )
    lay_table(table, [one, other], 11)
    assert np.allclose(table.weight[1], before[1] + 3.0) and np.allclose(table.weight[2], before[2] + 2.0)
    assert table.accumulator[1] == 7.0 and table.accumulator[2] == 5.0
    assert table.lookup(np.array([7, 8], np.uint64)).tolist() == [3, 4]
    assert table.owner[1:5].tolist() == [1, 2, int(EVERYBODY), 1]
    assert table.take_touched().tolist() == [1, 2, 3, 4]


def test_a_round_ends_with_its_span_or_when_it_is_full() -> None:
    clock = RoundClock(RoundConfig(span_s=1.0, max_entries=3))
    assert not clock.is_over(10_000_000)
    clock.count(1_500)
    assert not clock.is_over(1_999) and clock.is_over(2_000) and clock.end_ms == 2_000
    clock.count(1_600)
    clock.count(1_600)
    assert clock.is_over(1_600)
    clock.start()
    assert not clock.is_over(1_600)


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"rounds\.n_learners: expected 1 to 256, got 0"):
        RoundConfig(n_learners=0)


def assert_same(one: Share, other: Share) -> None:
    for name in (
        "seat",
        "positions",
        "n_steps",
        "weight",
        "n_examples",
        "n_skipped",
        "n_drawn",
        "mean_since",
        "sampled",
    ):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("change", "path", "mean", "square"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name, table in one.tables.items():
        for field in ("rows", "change", "squares", "met"):
            assert np.array_equal(getattr(table, field), getattr(other.tables[name], field)), (name, field)
