"""A judge lets pass what learns, holds what learns the wrong thing, and finds a decline that no edition shows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest

from benchmarks.poisoning import PoisonedLearner
from features.events import DECISION, Entry, LoggedEvent, StreamId
from features.schema import hash64
from learners import snapshots
from learners.duel import DuelConfig
from learners.editions import Place
from learners.erasing import without
from learners.errors import StaleSnapshot
from learners.judge import Judge, JudgeConfig
from learners.online import LearnerConfig
from learners.opinions import Case, opinion
from learners.parts import Part
from learners.publisher import Draft, Publisher
from learners.scorer import Scorer
from learners.verdicts import Verdict
from learners.witness import Witness
from tests.learners.erased import PERSON, SMALL, TRACES, at_erasure, lived
from tests.learners.examples import CONFIG, SCHEMA, click, inputs_of, log, shown, stream
from tests.people import in_value

LENIENT = JudgeConfig(n_slates=512)
USUAL = JudgeConfig()


@dataclass
class Loop:
    """A learner, who publishes what it learns, and who judges that."""

    config: JudgeConfig = LENIENT
    every: int = 8
    """Steps between versions."""
    verdicts: list[Verdict] = field(default_factory=list)
    n_versions: int = 0
    learning: LearnerConfig = CONFIG

    def __post_init__(self) -> None:
        self.learner = PoisonedLearner(SCHEMA, self.learning)
        self.judge = Judge(SCHEMA, self.config)
        self.witness = Witness(SCHEMA, self.learning, self.judge)
        self.publisher = Publisher("here", 1 << 40)
        self.full: snapshots.Delta | None = None
        self._n_steps = 0

    def live(self, entries: Sequence[Entry], *, is_news: bool = True) -> None:
        """Read these; versions come as the learner steps.

        Args:
            is_news: Whether the judge has not read them before.
        """
        for entry in entries:
            if is_news:
                self.witness.read(entry)
            before = self.learner.n_examples
            self.learner.read(entry)
            self._n_steps += self.learner.n_examples > before
            if self.learner.is_settled and self._n_steps >= self.every:
                self._n_steps = 0
                self.offer()

    def offer(self) -> Verdict:
        """A version, judged."""
        self.n_versions += 1
        delta = snapshots.unpack(snapshots.pack(self.learner.take_delta(self.n_versions, self.n_versions - 1 or None)))
        self.full = delta if self.full is None else snapshots.merge(self.full, delta)
        self.publisher.note(delta)
        draft = self.publisher.draft(self.full)
        verdict = self.weigh(draft)
        self.verdicts.append(verdict)
        return verdict

    def weigh(self, draft: Draft) -> Verdict:
        """Ask the judge, as the actor does."""
        self.judge.begin(draft.head)
        for part in draft.parts:
            list(self.judge.add(part))
        verdict = self.judge.decide()
        if not verdict.reasons and not verdict.decline:
            list(self.judge.settle())
            self.publisher.settle(draft)
        return verdict

    def lay_anchor(self) -> None:
        """What was just learned is the anchor."""
        assert self.full is not None
        draft = Publisher("anchor", 0).draft(self.full)
        list(self.judge.lay_anchor(draft.head, draft.parts, self.full.progress.trained_through_ms))


ENTRIES = {"slates": log(stream(6000)), "impressions": shown(2500)}


@pytest.mark.parametrize("kind", ENTRIES)
def test_who_learns_passes_all_the_time(kind: str) -> None:
    loop = Loop(every=2)
    loop.live(ENTRIES[kind])
    assert loop.n_versions > 40
    assert [verdict.reasons for verdict in loop.verdicts if verdict.reasons] == []


@pytest.mark.parametrize("kind", ENTRIES)
def test_who_learns_the_wrong_thing_is_held_within_two_versions_and_what_answers_stays(kind: str) -> None:
    loop, half = Loop(), len(ENTRIES[kind]) // 2
    loop.live(ENTRIES[kind][:half])
    n_before, inputs = loop.n_versions, inputs_of(loop.learner)
    loop.learner.share = 1.0
    loop.live(ENTRIES[kind][half:])
    is_held = [bool(verdict.reasons) for verdict in loop.verdicts[n_before:]]
    n_passed = is_held.index(True)
    assert n_passed < 2 and all(is_held[n_passed:])
    live = loop.judge.live
    assert (live.version, live.place) == (n_before + n_passed, loop.publisher.place)
    again = Scorer(SCHEMA)
    head, rows = loop.publisher.whole()
    list(again.apply(head, rows))
    assert (live.score(inputs) == again.score(inputs)).all()


def test_a_decline_that_no_edition_shows_is_found_and_nothing_else() -> None:
    alone = JudgeConfig(tolerance=1.0, anchor_tolerance=1.0, overconfidence=1.0, duel=DuelConfig(alarms=1e-3))
    declines = {}
    for share in (0.0, 0.6):
        loop, entries = Loop(alone), ENTRIES["slates"]
        loop.live(entries[:2000])
        loop.lay_anchor()
        loop.learner.share = share
        loop.live(entries[2000:])
        declines[share] = [verdict.decline for verdict in loop.verdicts if verdict.decline]
        assert not any(verdict.reasons for verdict in loop.verdicts)
        assert loop.judge.anchor and loop.judge.live.place == loop.publisher.place
    assert declines[0.0] == [] and "above that of anchor" in declines[0.6][0]


def test_what_lies_far_below_the_anchor_is_held_though_it_is_as_good_as_what_answers() -> None:
    config = JudgeConfig(tolerance=1.0, overconfidence=1.0)
    loop, entries = Loop(config), ENTRIES["slates"]
    loop.live(entries[:3000])
    loop.lay_anchor()
    loop.learner.share = 1.0
    loop.live(entries[3000:])
    reasons = [verdict.reasons for verdict in loop.verdicts if verdict.reasons]
    assert reasons and all("anchor" in found[-1] for found in reasons)


def test_who_catches_up_on_an_hour_that_was_unlike_now_passes() -> None:
    """What is learned from it makes nothing better now; beside an honest tolerance that is no reason to hold it."""
    half, n_odd = 3000, 400
    events = stream(6000)
    for number in range(half, half + n_odd):
        event = events[number]
        events[number] = msgspec.structs.replace(event, item=f"i{(7 * int(event.item[1:]) + 3) % 40}")
    entries = log(events)
    n_held = {}
    for tolerance in (USUAL.tolerance, USUAL.anchor_tolerance):
        loop = Loop(JudgeConfig(n_slates=512, anchor_tolerance=tolerance), every=2)
        loop.live(entries[:half])
        for entry in entries[half:]:  # while the learner is away
            loop.witness.read(entry)
        loop.live(entries[half:], is_news=False)
        n_held[tolerance] = sum(bool(verdict.reasons) for verdict in loop.verdicts)
    assert n_held[USUAL.anchor_tolerance] == 0 < n_held[USUAL.tolerance]


def test_a_weight_that_is_far_too_large_is_held_by_name() -> None:
    loop = Loop()
    loop.live(ENTRIES["slates"][:1000])
    loop.learner.tables["item"].weight[3] = 1e6
    loop.live(ENTRIES["slates"][1000:1500])
    assert any("a weight of" in reason for verdict in loop.verdicts for reason in verdict.reasons)


def test_the_first_version_passes_and_so_does_the_next_one_while_nothing_has_happened() -> None:
    loop = Loop()
    loop.learner.read(ENTRIES["slates"][0])
    loop.learner.close_tick(ENTRIES["slates"][0].id.ms + 60_000)
    assert loop.offer().reasons == () and loop.offer().reasons == ()


def test_another_anchor_is_wanted_when_it_is_old_and_after_what_answers_was_ordered() -> None:
    loop = Loop(JudgeConfig(anchor_age_s=60.0))
    assert loop.judge.wants_anchor(0)
    loop.live(ENTRIES["slates"][:1000])
    loop.lay_anchor()
    assert loop.full is not None
    through_ms = loop.full.progress.trained_through_ms
    assert not loop.judge.wants_anchor(through_ms + 59_000) and loop.judge.wants_anchor(through_ms + 60_000)
    draft = loop.publisher.draft(loop.full)
    loop.judge.begin(draft.head)
    loop.judge.follow()
    assert loop.judge.wants_anchor(through_ms)


def test_an_edition_on_what_does_not_answer_is_refused_and_nothing_has_changed() -> None:
    loop = Loop()
    loop.live(ENTRIES["slates"][:1000])
    assert loop.full is not None
    draft = loop.publisher.draft(loop.full)
    stale = msgspec.structs.replace(draft.head, base=Place("elsewhere", 3))
    before = loop.judge.live.version
    with pytest.raises(StaleSnapshot):
        loop.judge.begin(stale)
    assert loop.judge.live.version == before and loop.weigh(draft).reasons == ()


def test_who_begins_where_a_learner_stood_sees_what_he_would_have_seen() -> None:
    """A judge that is lost and comes back holds other slates, but cuts the same ones."""
    entries = ENTRIES["slates"]
    loop = Loop()
    loop.live(entries[:2000])
    assert loop.full is not None
    seen: list[list[Part]] = []

    class Notes(Judge):
        def take(self, parts: Iterable[Part], first_ms: int) -> list[Case]:
            seen[-1] += parts
            return []

    full = loop.learner.snapshot(loop.n_versions) if loop.learner.is_settled else loop.full
    at = max(StreamId(*position) for position in full.progress.positions.values())
    for witness in (Witness(SCHEMA, CONFIG, Notes(SCHEMA, LENIENT)), Witness(SCHEMA, CONFIG, Notes(SCHEMA, LENIENT))):
        seen.append([])
        if len(seen) == 2:
            witness.restore(full)
        for entry in entries:
            if len(seen) == 1 or entry.id > at:
                witness.read(entry)
    n = len(seen[1])
    assert n > 10
    for straight, restored in zip(seen[0][-n:], seen[1], strict=True):
        np.testing.assert_array_equal(straight.inputs.item_key, restored.inputs.item_key)
        np.testing.assert_array_equal(straight.inputs.dense, restored.inputs.dense)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["learns", "learns the wrong thing"])
def test_nobody_is_told_where_all_tell_what_happens(share: float) -> None:
    """Whatever answers: a learner that learns the wrong thing contradicts all of them."""
    loop, entries = Loop(), shown(2500, wrong_from=2500)
    loop.live(entries[:2000])
    loop.learner.share = share
    loop.live(entries[2000:])
    figures = loop.judge.agreement.figures()
    assert loop.judge.agreement.take_told() == {} and set(figures) == {"s0", "s1", "s2"}
    assert all(one["agreement"] > 0.55 and one["slates"] > 200 for one in figures.values())


@pytest.mark.parametrize("wrong_from", [0, 1500])
def test_a_source_that_tells_of_clicks_on_what_was_not_clicked_is_told(wrong_from: int) -> None:
    loop = Loop()
    loop.live(shown(6000, wrong_from=wrong_from))
    told = loop.judge.agreement.take_told()
    assert list(told) == ["s1"] and "labels say the opposite of what others tell" in told["s1"]


def test_sources_are_judged_by_the_anchor_whatever_what_answers_has_learned_since() -> None:
    blind = JudgeConfig(tolerance=10.0, anchor_tolerance=10.0, overconfidence=1.0, duel=DuelConfig(alarms=1e-12))
    agreement = {}
    for has_anchor in (True, False):
        loop, entries = Loop(blind, every=2), shown(2500, wrong_from=2500)
        loop.live(entries[:2000])
        if has_anchor:
            loop.lay_anchor()
        loop.learner.share = 1.0
        loop.live(entries[2000:])
        agreement[has_anchor] = [one["agreement"] for one in loop.judge.agreement.figures().values()]
    assert max(agreement[False]) < 0.6 < min(agreement[True])


@pytest.mark.parametrize("n_items", [40, 3000])
def test_who_comes_with_a_catalogue_of_its_own_is_not_told(n_items: int) -> None:
    """What nobody has heard of yet is not the opposite of what is known."""
    rng, events = np.random.default_rng(1), list[LoggedEvent]()
    for number, event in enumerate(stream(6000)):
        events.append(msgspec.structs.replace(event, source="old" if number % 2 else None))
        if number > 2000 and rng.random() < 0.25:
            new = click(f"v{rng.integers(12)}", f"n{rng.integers(n_items)}", event.ts_ms + 1)
            events.append(msgspec.structs.replace(new, source="new"))
    loop, entries = Loop(), log(events)
    loop.live(entries)
    assert loop.judge.agreement.take_told() == {} and loop.judge.agreement.figures()["new"]["agreement"] > 0.6
    beside_an_anchor = Loop()
    beside_an_anchor.live(entries[:2000])
    beside_an_anchor.lay_anchor()
    beside_an_anchor.live(entries[2000:])
    assert beside_an_anchor.judge.agreement.take_told() == {}
    assert "new" not in beside_an_anchor.judge.agreement.figures()


@pytest.mark.parametrize(("field", "value"), [("n_slates", 3), ("tolerance", -1.0), ("max_held", 0), ("sigmas", -1.0)])
def test_a_config_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"judge.{field}"):
        JudgeConfig(**{field: value})


@pytest.mark.parametrize("kind", ["slates", "decisions"])
def test_of_who_is_erased_no_slate_is_left_and_all_others_are_what_they_were(kind: str) -> None:
    entries = [entry for entry in lived() if kind == "decisions" or entry.kind != DECISION]
    at = at_erasure(entries)
    loop = Loop(replace(LENIENT, n_slates=2048), learning=SMALL)
    loop.live(entries[:at])
    loop.lay_anchor()
    before = list(loop.judge._cases)
    assert in_value(before, TRACES)
    loop.witness.read(entries[at])
    after = list(loop.judge._cases)
    assert {"id", "hash"} & set(in_value((loop.witness, after), TRACES)) == set()
    assert loop.judge._n_slates == sum(len(case.live.losses) for case in after)
    for case in after:
        part = case.part
        again = opinion(loop.judge.live, part)
        for name in ("scores", "losses", "called", "came"):
            np.testing.assert_allclose(getattr(case.live, name), getattr(again, name), rtol=1e-4, atol=1e-6)
        assert len(part.sources) == len(part.people) == len(part.inputs.mask) == len(part.is_known)
        assert case.anchor is not None and len(case.anchor.losses) == len(case.live.losses)
    people = Counter(np.concatenate([case.part.people for case in before]).tolist())
    assert people.pop(hash64(PERSON)) > 10
    assert people <= Counter(np.concatenate([case.part.people for case in after]).tolist())
    loop.learner.read(entries[at])
    n_before = loop.n_versions
    loop.live(entries[at + 1 :])
    assert loop.n_versions > n_before and not any(verdict.reasons for verdict in loop.verdicts[n_before:])


def test_what_answers_and_the_anchor_lose_rows_and_what_was_found_out_goes_on() -> None:
    loop, entries = Loop(LENIENT, learning=SMALL), lived()
    at = at_erasure(entries)
    loop.live(entries[:at])
    loop.lay_anchor()
    for case in list(loop.judge._cases):
        loop.judge.take([case.part], loop.judge._live_through_ms)
    duel, version = loop.judge._duel, loop.judge.anchor
    assert duel.n_batches > 0 and loop.full is not None
    people = np.array([hash64(PERSON)], dtype=np.uint64)
    loop.full = without(loop.full, people)
    loop.publisher.note_all(loop.full)
    gone = loop.publisher.draft_gone(loop.full)
    assert gone is not None
    loop.publisher.settle(gone)
    head, rows = loop.publisher.whole()
    loop.judge.begin(head)
    for part in rows:
        list(loop.judge.add(part))
    loop.judge.take_over()
    list(loop.judge.settle())
    again = Publisher("anchor", 0).draft(loop.full)
    list(loop.judge.lay_anchor_again(again.head, again.parts))
    loop.judge.forget(people)
    assert in_value((loop.judge._live, loop.judge._anchor), TRACES) == {}
    assert loop.judge._duel is duel and loop.judge.anchor == version and not loop.judge.wants_anchor(0)
    assert loop.judge.live.place == loop.publisher.place
