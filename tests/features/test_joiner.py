"""The join: every impression once, with the reward it got, whatever order things arrive in."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput
from features.events import LoggedDecision, LoggedEvent
from features.joiner import JoinConfig, Joiner, Outcome
from tests.features.examples import T0_MS

CONFIG = JoinConfig(attribution_s=60.0, wait_s=10.0, rewards={"view": 0.25})


def decision(name: str, ts_ms: int = 0, user: str = "u", items: str = "abc") -> LoggedDecision:
    """Shown `ts_ms` after the start."""
    return LoggedDecision(name, user, T0_MS + ts_ms, 1, {}, list(items), [1.0] * len(items), b"\0" * 4 * len(items))


def feedback(name: str | None, item: str, ts_ms: int, kind: str = "click", user: str = "u") -> LoggedEvent:
    return LoggedEvent(kind, user, item, T0_MS + ts_ms, 1.0, {}, None, name)


def told_by(source: str | None, name: str, item: str, ts_ms: int, kind: str = "click") -> LoggedEvent:
    """Feedback of a source."""
    return LoggedEvent(kind, "u", item, T0_MS + ts_ms, 1.0, {}, None, name, source)


def learned(outcomes: list[Outcome]) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str], float]]:
    """How often each shown item was counted, and the sum of its rewards."""
    counted, rewards = Counter[tuple[str, str]](), defaultdict[tuple[str, str], float](float)
    for outcome in outcomes:
        for place, reward in zip(outcome.places, outcome.rewards, strict=True):
            name = outcome.decision.decision, outcome.decision.items[place]
            counted[name] += outcome.is_shown
            rewards[name] += reward
    return +counted, {name: reward for name, reward in rewards.items() if reward}


def shown(*names: str, items: str = "abc") -> Counter[tuple[str, str]]:
    """Each item of these decisions once."""
    return Counter((name, item) for name in names for item in items)


def test_an_impression_is_learned_after_its_wait_with_the_reward_it_got_and_a_later_one_when_it_comes() -> None:
    joiner = Joiner(CONFIG, 2)
    joiner.add_decision(decision("d"), b"state")
    assert joiner.add_feedback(feedback("d", "b", 2000))
    assert joiner.pop_ready(T0_MS + 9999) == []
    (counted,) = joiner.pop_ready(T0_MS + 10_000)
    assert (counted.places, counted.is_shown, counted.rewards) == ((0, 1, 2), True, (0.0, 1.0, 0.0))
    assert joiner.add_feedback(feedback("d", "c", 12_000))
    (late,) = joiner.pop_ready(T0_MS + 12_000)
    assert (late.places, late.is_shown, late.rewards) == ((0, 1, 2), False, (0.0, 0.0, 1.0))
    assert late.state == b"state"


def test_a_late_reward_makes_up_for_an_impression_taken_as_negative() -> None:
    joiner = Joiner(CONFIG, 2)
    joiner.add_decision(decision("d"), b"")
    outcomes = joiner.pop_ready(T0_MS + 20_000)
    assert joiner.add_feedback(feedback("d", "a", 30_000))
    outcomes += joiner.pop_ready(T0_MS + 30_000)
    assert learned(outcomes) == (shown("d"), {("d", "a"): 1.0})


def test_feedback_after_the_window_for_another_item_or_by_somebody_else_is_not_joined() -> None:
    joiner = Joiner(CONFIG, 2)
    joiner.add_decision(decision("d"), b"")
    assert not joiner.add_feedback(feedback("d", "z", 1000))
    assert not joiner.add_feedback(feedback("d", "a", 60_000))
    assert not joiner.add_feedback(feedback("d", "a", -1))
    assert not joiner.add_feedback(feedback("d", "a", 1000, user="v"))
    assert not joiner.add_feedback(feedback(None, "a", 1000))
    joiner.pop_ready(T0_MS + 60_000)
    assert not joiner.add_feedback(feedback("d", "a", 59_000))
    assert not len(joiner)


def test_of_several_rewards_the_highest_counts_in_whatever_order() -> None:
    for kinds in (("view", "click"), ("click", "view"), ("click", "click", "view")):
        joiner = Joiner(CONFIG, 2)
        joiner.add_decision(decision("d"), b"")
        for kind in kinds:
            joiner.add_feedback(feedback("d", "a", 1000, kind))
        assert learned(joiner.pop_ready(T0_MS + 10_000)) == (shown("d"), {("d", "a"): 1.0})


@pytest.mark.parametrize(
    ("sources", "expected"),
    [(["web"], "web"), (["web", "web"], "web"), (["web", "app"], None), (["web", None], None), ([None, "web"], None)],
)
def test_an_outcome_names_who_told_of_its_rewards_if_it_was_one(sources: list[str | None], expected: str) -> None:
    for order in (sources, [*sources[::-1], *sources]):
        joiner = Joiner(CONFIG, 2)
        joiner.add_decision(decision("d"), b"")
        for item, source in zip("abcd", order, strict=False):
            joiner.add_feedback(told_by(source, "d", item, 1000))
        joiner.add_feedback(told_by("app", "d", "a", 100_000))  # too late: it gives nothing
        assert [outcome.source for outcome in joiner.pop_ready(T0_MS + 10_000)] == [expected]


def test_a_late_reward_names_its_own_source_and_what_gives_nothing_names_none() -> None:
    joiner = Joiner(JoinConfig(attribution_s=60.0, wait_s=10.0, rewards={"seen": 0.0}), 2)
    joiner.add_decision(decision("d"), b"")
    joiner.add_decision(decision("e"), b"")
    for event in (
        told_by("tv", "d", "a", 500, "seen"),
        told_by("web", "d", "a", 1000),
        told_by("tv", "e", "a", 9, "seen"),
    ):
        assert joiner.add_feedback(event)
    assert [outcome.source for outcome in joiner.pop_ready(T0_MS + 10_000)] == ["web", None]
    assert joiner.add_feedback(told_by("app", "d", "b", 12_000))
    assert [outcome.source for outcome in joiner.pop_ready(T0_MS + 12_000)] == ["app"]


def test_feedback_that_is_ahead_of_its_decision_waits_for_it() -> None:
    joiner = Joiner(CONFIG, 2)
    assert not joiner.add_feedback(feedback("d", "a", 500))
    joiner.add_decision(decision("d"), b"")
    assert learned(joiner.pop_ready(T0_MS + 10_000)) == (shown("d"), {("d", "a"): 1.0})
    assert not joiner.add_feedback(feedback("e", "a", 500))
    joiner.pop_ready(T0_MS + 10_500)
    joiner.add_decision(decision("e"), b"")
    assert learned(joiner.pop_ready(T0_MS + 10_500)) == (shown("e"), {})


def test_beyond_the_memory_the_oldest_decisions_are_counted_and_forgotten() -> None:
    joiner = Joiner(JoinConfig(max_bytes=2500), 2)
    for number in range(4):
        joiner.add_decision(decision(f"d{number}", number), b"")
    assert (len(joiner), joiner.n_forgotten) == (2, 2)
    assert learned(joiner.pop_ready(T0_MS + 10)) == (shown("d0", "d1"), {})
    assert not joiner.add_feedback(feedback("d0", "a", 100)) and joiner.add_feedback(feedback("d3", "a", 100))


def test_a_decision_that_makes_no_sense_is_refused() -> None:
    for items in ("aa", ""):
        with pytest.raises(InvalidInput, match="decision d: expected distinct items"):
            Joiner(CONFIG, 2).add_decision(decision("d", items=items), b"")
    with pytest.raises(InvalidInput, match=r"decision d: expected float16 \[3, 5\], got 12 bytes"):
        Joiner(CONFIG, 5).add_decision(decision("d"), b"")


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"join\.keep_negatives: expected 1e-06 to 1.0, got 0"):
        JoinConfig(keep_negatives=0)
    with pytest.raises(ValueError, match=r"join\.rewards\.click: expected 0 to 1, got 2"):
        JoinConfig(rewards={"click": 2.0})


@pytest.mark.parametrize("at_ms", [5_000, 30_000])
def test_of_impressions_without_reward_in_time_a_share_is_kept_and_all_with_one(at_ms: int) -> None:
    """Once shown, if at all; once rewarded, whether in time or late."""
    joiner, outcomes = Joiner(JoinConfig(attribution_s=60.0, wait_s=10.0, keep_negatives=0.2), 2), []
    for number in range(1000):
        joiner.add_decision(decision(f"d{number}"), b"")
    outcomes += joiner.pop_ready(T0_MS + min(at_ms, 20_000))
    for number in range(1000):
        joiner.add_feedback(feedback(f"d{number}", "b", at_ms))
    outcomes += joiner.pop_ready(T0_MS + 60_000)
    counted, rewards = learned(outcomes)
    assert set(counted.values()) == {1} and set(rewards.values()) == {1.0}
    kept = Counter(item for _, item in counted)
    assert len(rewards) == 1000 and 150 < kept["a"] < 250 and 150 < kept["c"] < 250
    assert kept["b"] == 1000 if at_ms < 10_000 else 150 < kept["b"] < 250


arrivals = st.lists(
    st.one_of(
        st.builds(decision, st.sampled_from("xyz").map(lambda n: f"d{n}"), st.just(0)),
        st.builds(feedback, st.sampled_from(["dx", "dy", "dz", "dw"]), st.sampled_from("abq"), st.integers(-5, 9_000)),
        st.builds(feedback, st.just("dx"), st.just("a"), st.integers(0, 9_000), st.just("view")),
    ),
    max_size=14,
)


@given(arrivals, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_changes_what_is_learned(
    things: list[LoggedDecision | LoggedEvent], random: object
) -> None:
    found = []
    shuffled = [*things, *things]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for order in (things, shuffled):
        joiner = Joiner(CONFIG, 2)
        for thing in order:
            if isinstance(thing, LoggedDecision):
                joiner.add_decision(thing, b"")
            else:
                joiner.add_feedback(thing)
        found.append(learned(joiner.pop_ready(T0_MS + 10_000)))
    assert found[0] == found[1]
    counted, rewards = found[0]
    assert counted == shown(*{thing.decision for thing in things if isinstance(thing, LoggedDecision)})
    assert all(0.0 < reward <= 1.0 for reward in rewards.values())


@given(st.lists(st.tuples(st.integers(0, 40_000), st.sampled_from("abc")), max_size=12), st.integers(1, 7_000))
def test_when_one_asks_changes_nothing_either(clicks: list[tuple[int, str]], step_ms: int) -> None:
    """Each impression is learned once, with all rewards of its window, however often one looks."""
    joiner, outcomes = Joiner(CONFIG, 2), []
    joiner.add_decision(decision("d"), b"")
    waiting = sorted(clicks)
    for now_ms in range(0, 70_000, step_ms):
        while waiting and waiting[0][0] <= now_ms:
            ts_ms, item = waiting.pop(0)
            joiner.add_feedback(feedback("d", item, ts_ms))
        outcomes += joiner.pop_ready(T0_MS + now_ms)
    outcomes += joiner.pop_ready(T0_MS + 70_000)
    assert learned(outcomes) == (shown("d"), {("d", item): 1.0 for _, item in clicks})


def test_of_who_is_erased_nothing_is_learned_any_more_and_of_others_all() -> None:
    """Whether shown and not counted, counted and ready, or told before its decision."""
    ready = []
    for is_there in (True, False):
        joiner = Joiner(CONFIG, 2)
        if is_there:
            joiner.add_decision(decision("counted", user="v"), b"state")
            joiner.add_decision(decision("open", 5000, user="v"), b"state")
            joiner.add_feedback(feedback("early", "a", 6000, user="v"))
        joiner.add_decision(decision("mine", 100), b"state")
        joiner.add_feedback(feedback("mine", "b", 2000))
        joiner.add_feedback(feedback("unknown", "b", 2500))
        first = joiner.pop_ready(T0_MS + 10_050)
        joiner.add_feedback(feedback("counted", "c", 9000, user="v"))
        joiner.erase("v")
        assert len(joiner) == 1 and joiner._n_bytes == joiner._open["mine"].n_bytes
        if is_there:
            joiner.add_decision(decision("early", 5500, user="v"), b"state")
            joiner.erase("v")
        times = range(T0_MS + 10_050, T0_MS + 100_000, 500)
        ready.append([outcome for now_ms in times for outcome in joiner.pop_ready(now_ms)])
        assert bool(first) == is_there and len(joiner) == 0
    assert ready[0] == ready[1] and learned(ready[0])[0] == shown("mine")
