"""From the scores of several ways of ranking to what is reported: figures, differences in pairs, by age, over time.

All ways are judged on the same queries and the same bootstrap draws. Not known here: how anything was ranked.

Legend: Q queries, K candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.rankers.stream import F64, HOUR_MS, I64
from learners.metrics import (
    Calibration,
    People,
    calibration_of_all,
    calibration_of_first,
    figures,
    per_query,
    reciprocal_ranks,
)

N_PERIODS: Final = 20
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of ranking, and what it answered."""

    name: str
    scores_QK: F64
    has_probabilities: bool
    """The scores are logits: log loss and calibration mean something."""
    took_s: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What answers are judged by, query by query in time order."""

    true_Q: I64
    """Column of the true item."""
    people_Q: npt.NDArray[np.generic]
    age_ms_Q: I64
    """Of the true item; -1 where nobody had acted on it."""
    hours_Q: F64
    """Since the stream began."""


def best_of(ways: Sequence[Way], true_Q: I64) -> Way:
    """The way of the highest MRR@10. Chosen by the answers: an advantage that it would not have live."""
    return max(ways, key=lambda way: reciprocal_ranks(way.scores_QK, true_Q).mean())


def ages(age_ms_Q: I64) -> dict[str, npt.NDArray[np.bool_]]:
    """Queries by the age of their true item; the ages that occur."""
    known_Q = age_ms_Q >= 0
    split = {
        "cold": ~known_Q,
        "< 1 h": known_Q & (age_ms_Q < HOUR_MS),
        "1-24 h": (age_ms_Q >= HOUR_MS) & (age_ms_Q < DAY_MS),
        "> 24 h": age_ms_Q >= DAY_MS,
    }
    return {name: where_Q for name, where_Q in split.items() if where_Q.any()}


def periods(n_queries: int) -> list[npt.NDArray[np.bool_]]:
    """As many queries in each twentieth, in time order; fewer periods for fewer queries."""
    period_Q = np.arange(n_queries) * N_PERIODS // max(n_queries, 1)
    return [period_Q == period for period in np.unique(period_Q)]


def judged(ways: Sequence[Way], truth: Truth) -> dict[str, Any]:
    """Everything that is reported; differences are to the first way.

    Returns:
        `metrics`, `difference`, `by_age` (MRR@10), `over_time` (MRR@10) and `calibration`, each by way. A figure that a
        way cannot have, as log loss without probabilities, is absent.
    """
    people = People(truth.people_Q)
    found = {way.name: per_query(way.scores_QK, truth.true_Q, has_probabilities=way.has_probabilities) for way in ways}
    first = found[ways[0].name]
    age_Q, period_Q = ages(truth.age_ms_Q), periods(len(truth.true_Q))
    return {
        "metrics": {name: figures(metrics, people) for name, metrics in found.items()},
        "difference": {way.name: figures(_less(found[way.name], first), people) for way in ways[1:]},
        "by_age": {
            name: {age: people.interval(metrics["MRR@10"], where_Q) for age, where_Q in age_Q.items()}
            for name, metrics in found.items()
        },
        "n_by_age": {age: int(where_Q.sum()) for age, where_Q in age_Q.items()},
        "over_time": {
            name: [people.interval(metrics["MRR@10"], where_Q) for where_Q in period_Q]
            for name, metrics in found.items()
        },
        "hours": [float(truth.hours_Q[where_Q].mean()) for where_Q in period_Q],
        "calibration": {way.name: _calibrations(way, truth, people) for way in ways if way.has_probabilities},
    }


def _less(metrics: Mapping[str, F64], other: Mapping[str, F64]) -> dict[str, F64]:
    return {name: values_Q - other[name] for name, values_Q in metrics.items() if name in other}


def _calibrations(way: Way, truth: Truth, people: People) -> dict[str, dict[str, Any]]:
    measures = {"first": calibration_of_first, "all": calibration_of_all}
    return {name: _plain(measure(way.scores_QK, truth.true_Q, people)) for name, measure in measures.items()}


def _plain(calibration: Calibration) -> dict[str, Any]:
    return calibration._asdict()
