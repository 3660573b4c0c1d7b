"""Laws of the watch over sources: who sends nonsense is told, and nobody whose fault it may not be."""

from collections.abc import Collection, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.events import LoggedEvent
from features.source_watch import MAX_SOURCES, OTHERS, UNNAMED, SourceWatch
from features.sources import SourceRules
from tests.features.examples import event

N = 32
RULES = SourceRules(n_newest=N, max_lag_s=60.0, varied=("user", "item", "context.device"))
HOUR_MS = 3_600_000


def good(source: str | None) -> Iterator[LoggedEvent]:
    """Events as they should be."""
    for number in count():
        device = ("tv", "phone", "web")[number % 3]
        yield event(f"u{number}", f"i{number % 7}", source=source, context={"device": device})


def look(watch: SourceWatch, quarantined: Collection[str] = ()) -> dict[str, str]:
    """Which sources are told."""
    for _ in watch.refresh():
        pass
    return watch.judge(quarantined)


class Traffic:
    """What several sources send by turns."""

    def __init__(self, rules: SourceRules = RULES, *sources: str | None) -> None:
        self.watch = SourceWatch(rules, ("device",))
        self.good = {source: good(source) for source in sources or ("a", "b", None)}

    def send(self, n: int, **bad: str) -> None:
        """So many events of each; those named send nonsense of some kind."""
        for number in range(n):
            for source, events in self.good.items():
                self._send(source, next(events), bad.get(source or "unnamed", ""), number)

    def _send(self, source: str | None, sent: LoggedEvent, kind: str, number: int) -> None:
        if kind == "invalid" and number % 4:
            self.watch.refuse(source)
            return
        changes: dict[str, Any] = {
            "user": {"user": "u1"},
            "item": {"item": "a"},
            "device": {"context": {"device": "tv"}},
        }.get(kind, {})
        told = {**{name: getattr(sent, name) for name in ("user", "item", "context")}, **changes}
        self.watch.note(event(source=source, **told), HOUR_MS + number if kind == "late" else 20 * number)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("invalid", "75% of its 32 newest events are invalid"),
        ("late", "the youngest of its 32 newest events was 3,600 s old: its clock is behind"),
        ("user", "user is the same in 100% of its 32 newest events"),
        ("item", "item is the same in 100% of its 32 newest events"),
        ("device", "context.device is the same in 100% of its 32 newest events"),
    ],
)
def test_nonsense_of_one_source_is_told_with_the_reason_and_others_are_not(kind: str, why: str) -> None:
    traffic = Traffic()
    traffic.send(3 * N)
    assert look(traffic.watch) == {}
    traffic.send(N, a=kind)
    assert look(traffic.watch) == {"a": why}
    assert look(traffic.watch, {"a"}) == {}
    assert traffic.watch.suspicions == []


def test_of_few_events_nothing_is_known() -> None:
    traffic = Traffic()
    traffic.send(N - 1, a="user")
    assert look(traffic.watch) == {}
    traffic.send(1, a="user")
    assert set(look(traffic.watch)) == {"a"}


@pytest.mark.parametrize("kind", ["invalid", "late", "user"])
def test_where_most_of_what_comes_breaks_a_rule_nobody_knows_who_is_wrong(kind: str) -> None:
    """As when the server's own clock is put forward, or its schema does not know a type any more."""
    traffic = Traffic()
    traffic.send(20 * N, a=kind, b=kind, unnamed=kind)
    assert look(traffic.watch) == {}
    assert [told.split(":")[0] for told in traffic.watch.suspicions] == [
        "source 'a'",
        "source 'b'",
        "events without a source",
    ]


def test_a_source_alone_is_only_suspected() -> None:
    traffic = Traffic(RULES, "a")
    traffic.send(2 * N, a="user")
    assert look(traffic.watch) == {} and "no rule acts" in traffic.watch.suspicions[0]


@pytest.mark.parametrize("source", [None, "a"])
def test_no_rule_acts_on_events_without_a_source_or_on_one_that_is_trusted(source: str | None) -> None:
    rules = SourceRules(n_newest=N, max_lag_s=60.0, trusted=("a",))
    traffic = Traffic(rules, source, "b", "c")
    traffic.send(3 * N, **{source or "unnamed": "late"})
    assert look(traffic.watch) == {} and traffic.watch.suspicions == []
    assert traffic.watch.reports()[source or UNNAMED].lag_s == 3600.0 + 2 * N / 1000


def test_who_sends_well_again_is_well_after_as_many_events() -> None:
    traffic = Traffic()
    traffic.send(N)
    traffic.send(N, a="invalid")
    assert look(traffic.watch)
    traffic.send(N)
    assert look(traffic.watch) == {}


def test_who_is_forgotten_is_judged_by_what_comes_then() -> None:
    traffic = Traffic()
    traffic.send(N, a="user")
    traffic.watch.forget("a")
    traffic.watch.forget("nobody")
    traffic.send(N - 1, a="user")
    assert look(traffic.watch) == {}
    traffic.send(1, a="user")
    assert set(look(traffic.watch)) == {"a"}


def test_what_is_in_quarantine_is_watched_but_is_no_part_of_what_comes() -> None:
    traffic = Traffic()
    traffic.send(N)
    for sent in [next(traffic.good["a"]) for _ in range(50 * N)]:
        traffic.watch.note(sent, HOUR_MS, is_quarantined=True)
    traffic.send(N, b="late")
    assert look(traffic.watch, {"a"}) == {
        "b": "the youngest of its 32 newest events was 3,600 s old: its clock is behind"
    }
    report = traffic.watch.reports()["a"]
    assert (report.accepted, report.quarantined, report.invalid) == (2 * N, 50 * N, 0)


def test_on_the_event_clock_nobody_is_late() -> None:
    traffic = Traffic()
    for _ in range(N):
        for events in traffic.good.values():
            traffic.watch.note(next(events), None)
    assert look(traffic.watch) == {}
    assert traffic.watch.reports()["a"].lag_s is None


def test_a_field_that_few_events_have_is_not_constant() -> None:
    watch = SourceWatch(SourceRules(n_newest=N, varied=("context.kind",)), ())
    for number in range(N):
        watch.note(event(f"u{number}", source="a", context={"kind": "x"} if number % 3 == 0 else {}), 0)
        watch.note(event(f"u{number}"), 0)
        watch.note(event(f"u{number}"), 0)
    assert look(watch) == {} and "context.kind" not in watch.reports()["a"].same


@given(st.lists(st.text(min_size=1, max_size=3), min_size=MAX_SOURCES, max_size=200))
def test_however_many_sources_there_are_a_bounded_number_is_watched(names: list[str]) -> None:
    watch = SourceWatch(SourceRules(n_newest=16), ())
    for name in names:
        for _ in range(20):
            watch.refuse(name)
    look(watch)
    assert len(watch.reports()) <= MAX_SOURCES + 1
    assert sum(report.invalid for report in watch.reports().values()) == 20 * len(names)
    assert OTHERS not in look(watch)


@pytest.mark.parametrize(
    "wrong", [{"n_newest": 2}, {"max_invalid": 1.5}, {"max_lag_s": -1.0}, {"varied": ("decision",)}, {"max_share": 2.0}]
)
def test_rules_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"sources.{next(iter(wrong))}: expected"):
        SourceRules(**wrong)
