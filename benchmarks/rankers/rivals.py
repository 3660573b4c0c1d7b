"""What a good engineer would put in our place: every rival by name, each with the settings that are tried.

Where there are several, the best *on the queries it is judged by* is quoted: an advantage that it would not have live.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Final

import numpy as np

from benchmarks.rankers.logistic import logistic_scores
from benchmarks.rankers.neighbours import neighbour_scores
from benchmarks.rankers.popularity import popularity_scores
from benchmarks.rankers.rules import rule_scores
from benchmarks.rankers.stream import F64, Stream
from benchmarks.rankers.wabbit import wabbit_scores

Progress = Callable[[int], None]
Rank = Callable[[Stream, Progress], F64]

POPULARITY_HALF_LIVES_S: Final = (15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
RULE_HALF_LIVES_S: Final = (1800.0, 43200.0, np.inf)
NEIGHBOURS: Final = ((100, 100), (500, 100), (500, 500))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """One kind of rival."""

    name: str
    settings: Mapping[str, Rank]
    has_probabilities: bool = False
    package: str = ""
    """Module that must be installed; empty for none."""

    @property
    def absence(self) -> str:
        """Why it cannot run; empty if it can."""
        if self.package and not find_spec(self.package):
            return f"{self.name}: {self.package} is not installed (python deployments/locks/install.py bench)"
        return ""


def _at_once(rank: Callable[[Stream], F64]) -> Rank:
    """A ranking that reports no progress on its way."""

    def ranked(stream: Stream, on_progress: Progress) -> F64:
        found_QK = rank(stream)
        on_progress(stream.n_events)
        return found_QK

    return ranked


RIVALS: Final = {
    "all-time": Rival(
        name="popularity, all time", settings={"": _at_once(partial(popularity_scores, half_life_s=np.inf))}
    ),
    "popularity": Rival(
        name="popularity, decayed",
        settings={
            f"half-life {half_life_s:g} s": _at_once(partial(popularity_scores, half_life_s=half_life_s))
            for half_life_s in POPULARITY_HALF_LIVES_S
        },
    ),
    "neighbours": Rival(
        name="session neighbours",
        settings={
            f"{n_nearest} nearest, {n_latest} events": _at_once(
                partial(neighbour_scores, n_latest=n_latest, n_nearest=n_nearest)
            )
            for n_latest, n_nearest in NEIGHBOURS
        },
    ),
    "rules": Rival(
        name="sequential rules",
        settings={
            f"half-life {half_life_s:g} s, last {n_asked}": _at_once(
                partial(rule_scores, half_life_s=half_life_s, n_asked=n_asked)
            )
            for half_life_s in RULE_HALF_LIVES_S
            for n_asked in (1, 10)
        },
    ),
    "vw": Rival(name="Vowpal Wabbit", settings={"": wabbit_scores}, has_probabilities=True, package="vowpalwabbit"),
    "river": Rival(name="River", settings={"": logistic_scores}, has_probabilities=True, package="river"),
}
