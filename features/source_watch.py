"""What each source has sent lately, and which rules that breaks.

    event ──► the newest of its source ──► invalid? old? always the same? ──► told, or only suspected

Everything follows from the newest events: who sends well again is well after so many. Events without a source count as
those of one more, on which no rule acts.

No clock and no store. Price: the newest events of `MAX_SOURCES` sources, some megabytes; further ones are counted
together, and no rule looks at them.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from features.events import LoggedEvent
from features.sources import CONTEXT, SourceRules

MAX_SOURCES: Final = 64
UNNAMED: Final = ""
OTHERS: Final = "(others)"
N_RECENT: Final = 16  # times `n_newest`: of so many events, from anybody, shares are taken


@dataclass(slots=True)
class SourceReport:
    """What is known of a source; shares are of its newest events."""

    accepted: int = 0
    quarantined: int = 0
    invalid: int = 0
    invalid_ratio: float = 0.0
    lag_s: float | None = None
    """Age of the youngest as it arrived; None if that is not known."""
    same: dict[str, float] = field(default_factory=dict)
    """Largest share of one value, by field; of fields that most of them have."""


class _Source:
    """One of them."""

    def __init__(self, n_newest: int) -> None:
        self.report = SourceReport()
        self.newest: deque[tuple[LoggedEvent | None, int | None]] = deque(maxlen=n_newest)
        """None in place of an event that was refused; and the age of each as it arrived, milliseconds."""
        self.has_news = True
        """Since its report was made."""

    @property
    def is_known(self) -> bool:
        """Whether it has sent enough to be judged."""
        return len(self.newest) == self.newest.maxlen

    def look(self, fields: Sequence[str]) -> None:
        """Bring its report up to date."""
        self.has_news = False
        events = [event for event, _ in self.newest if event is not None]
        lags_ms = [lag_ms for _, lag_ms in self.newest if lag_ms is not None]
        self.report.invalid_ratio = 1.0 - len(events) / max(1, len(self.newest))
        self.report.lag_s = min(lags_ms) / 1000.0 if lags_ms else None
        self.report.same = {}
        for name in fields:
            values = Counter(value for event in events if (value := _value(event, name)) is not None)
            if 2 * values.total() > len(self.newest):
                self.report.same[name] = values.most_common(1)[0][1] / values.total()


class SourceWatch:
    """`note` and `refuse` events as they come; now and then `refresh`, and then `judge`.

    Args:
        context: Declared fields, which are watched beside those that rules name.
    """

    def __init__(self, rules: SourceRules, context: Sequence[str]) -> None:
        self._rules = rules
        fields = ("user", "item", "value", *rules.varied, *(f"{CONTEXT}{name}" for name in context))
        self._fields = tuple(dict.fromkeys(fields))
        self._sources: dict[str, _Source] = {}
        self._recent: deque[str] = deque(maxlen=N_RECENT * rules.n_newest)
        self.suspicions: list[str] = []
        """What was found at last and nobody acts on, in words."""

    def note(self, event: LoggedEvent, lag_ms: int | None, *, is_quarantined: bool = False) -> None:
        """Take in an event that is in the log.

        Args:
            lag_ms: How old it was as it arrived; None if log time is that of events.
        """
        name, source = self._source(event.source)
        source.newest.append((event, lag_ms))
        source.has_news = True
        source.report.quarantined += is_quarantined
        source.report.accepted += not is_quarantined
        if not is_quarantined:
            self._recent.append(name)

    def refuse(self, source: str | None) -> None:
        """Take in that an event was invalid."""
        name, known = self._source(source)
        known.newest.append((None, None))
        known.has_news = True
        known.report.invalid += 1
        self._recent.append(name)

    def refresh(self) -> Iterator[None]:
        """Bring the reports up to date, one source before each yield."""
        for source in list(self._sources.values()):
            if source.has_news:
                source.look(self._fields)
                yield

    def judge(self, quarantined: Collection[str] = ()) -> dict[str, str]:
        """Which sources are to be put in quarantine by what was reported, and why.

        Args:
            quarantined: Those that are there.
        """
        exempt = {UNNAMED, OTHERS, *self._rules.trusted, *quarantined}
        told: dict[str, str] = {}
        self.suspicions = []
        traffic = Counter(self._recent)
        for broken in (self._invalid, self._behind, self._constant):
            culprits = {name: why for name in self._sources if (why := self._judged(name, broken))}
            share = sum(traffic[name] for name in culprits if name not in quarantined) / max(1, len(self._recent))
            for name, why in culprits.items():
                if share > self._rules.max_share and name not in quarantined:
                    said = f"source {name!r}: {why}" if name else f"events without a source: {why}"
                    self.suspicions.append(f"{said}; no rule acts, since that holds for {share:.0%} of all that came")
                elif name not in exempt:
                    told.setdefault(name, why)
        return told

    def forget(self, source: str) -> None:
        """Judge a source by what it sends from now on."""
        if source in self._sources:
            self._sources[source].newest.clear()
            self._sources[source].has_news = True

    def reports(self) -> dict[str, SourceReport]:
        """What is known of each, as of the last `refresh`."""
        return {name: source.report for name, source in self._sources.items()}

    def _source(self, name: str | None) -> tuple[str, _Source]:
        name = UNNAMED if name is None else name
        found = self._sources.get(name)
        if found is None:
            if len(self._sources) >= MAX_SOURCES and name not in (UNNAMED, OTHERS):
                return self._source(OTHERS)
            found = self._sources[name] = _Source(self._rules.n_newest)
        return name, found

    def _judged(self, name: str, broken: Callable[[SourceReport], str]) -> str:
        source = self._sources[name]
        return broken(source.report) if source.is_known and name != OTHERS else ""

    def _invalid(self, report: SourceReport) -> str:
        ratio = report.invalid_ratio
        return f"{ratio:.0%} of its {self._newest} are invalid" if ratio > self._rules.max_invalid else ""

    def _behind(self, report: SourceReport) -> str:
        lag_s = report.lag_s
        if lag_s is None or lag_s <= self._rules.max_lag_s:
            return ""
        return f"the youngest of its {self._newest} was {lag_s:,.0f} s old: its clock is behind"

    def _constant(self, report: SourceReport) -> str:
        for name in self._rules.varied:
            ratio = report.same.get(name, 0.0)
            if ratio > self._rules.max_same:
                return f"{name} is the same in {ratio:.0%} of its {self._newest}"
        return ""

    @property
    def _newest(self) -> str:
        return f"{self._rules.n_newest} newest events"


def _value(event: LoggedEvent, name: str) -> Any:
    return event.context.get(name.removeprefix(CONTEXT)) if name.startswith(CONTEXT) else getattr(event, name)
