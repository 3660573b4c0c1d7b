"""From measured loads to what is claimed: medians over rounds, ratios between systems, goals met or missed.

Pure; knows no system, only their names. Not here: whether two figures differ by more than luck.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.latency import LoadResult

FIGURES: Final = ("rate_per_s", "p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
COMPARED: Final = ("rate_per_s", "p50_ms", "p99_ms")

Results = Mapping[tuple[str, str], Sequence[LoadResult]]
"""Rounds by (system, load)."""


def medians(runs: Sequence[LoadResult]) -> dict[str, float]:
    """Median of each figure over the rounds; NaN where nothing was answered in any."""
    return {name: _median([getattr(run, name) for run in runs]) for name in FIGURES}


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def errors(runs: Sequence[LoadResult]) -> dict[int, int]:
    """Errors by status over all rounds."""
    found: dict[int, int] = {}
    for run in runs:
        for status, count in run.errors.items():
            found[status] = found.get(status, 0) + count
    return found


def refused_ms(runs: Sequence[LoadResult]) -> float | None:
    """Median of the refusals' p99; None without any."""
    known = [run.refused_p99_ms for run in runs if run.refused_p99_ms is not None]
    return statistics.median(known) if known else None


def ratios(results: Results, ours: str, theirs: str) -> dict[str, dict[str, float]]:
    """One system against another by load: rate (higher is better), p50 and p99 (lower is better)."""
    found: dict[str, dict[str, float]] = {}
    for name, what in results:
        if name == ours and (theirs, what) in results:
            one, other = medians(results[ours, what]), medians(results[theirs, what])
            found[what] = {figure: one[figure] / other[figure] if other[figure] else math.nan for figure in COMPARED}
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A claim, what was measured, and whether it holds."""

    text: str
    value: float | None
    """None: not measured."""
    unit: str
    limit: float
    is_at_least: bool = True
    is_wanted: bool = False
    """A wish rather than a promise."""

    @property
    def verdict(self) -> str:
        """`met`, `MISSED` or `not measured`."""
        if self.value is None or math.isnan(self.value):
            return "not measured"
        is_met = self.value >= self.limit if self.is_at_least else self.value <= self.limit
        return "met" if is_met else "MISSED"

    def line(self) -> str:
        """One line for the report."""
        value = "-" if self.value is None else f"{self.value:.3g}{self.unit}"
        kind = "wanted" if self.is_wanted else "goal"
        sign = "at least" if self.is_at_least else "at most"
        return f"{self.text}: {value}, {kind} {sign} {self.limit:g}{self.unit}: {self.verdict}"


def serving_goals(results: Results, many: str, one: str) -> list[Goal]:
    """What the serving path promises.

    Args:
        many: Name of the closed loop at 64 connections.
        one: Name of the closed loop at one.
    """

    def figure(name: str, what: str, which: str) -> float | None:
        return medians(results[name, what])[which] if (name, what) in results else None

    def times(theirs: str) -> float | None:
        one_s, other_s = figure("headrace", many, "rate_per_s"), figure(theirs, many, "rate_per_s")
        return one_s / other_s if one_s is not None and other_s else None

    ours_ms, bare_ms = figure("headrace", one, "p50_ms"), figure("uvicorn", one, "p50_ms")
    added_ms = ours_ms - bare_ms if ours_ms is not None and bare_ms is not None else None
    return [
        Goal(text=f"{many}: rate against bare uvicorn", value=times("uvicorn"), unit=" x", limit=0.8),
        Goal(text=f"{many}: rate against default Ray Serve", value=times("serve"), unit=" x", limit=10.0),
        Goal(text=f"{many}: rate against mosec", value=times("mosec"), unit=" x", limit=1.0, is_wanted=True),
        Goal(text=f"{one}: p50 above bare uvicorn's", value=added_ms, unit=" ms", limit=0.35, is_at_least=False),
    ]
