"""Medians, ratios and verdicts from measured loads."""

import math

import pytest

from benchmarks.comparing import Goal, errors, medians, ratios, refused_ms, serving_goals
from benchmarks.latency import LoadResult


def result(rate_per_s: float, p50_ms: float = 1.0, **changes: object) -> LoadResult:
    figures = {
        "n": 100,
        "rate_per_s": rate_per_s,
        "p50_ms": p50_ms,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "p999_ms": 4.0,
        "max_ms": 5.0,
        "errors": {},
        "cpu_ratio": 0.1,
    }
    return LoadResult(**{**figures, **changes})


def test_the_median_of_rounds_ignores_a_round_without_answers():
    assert medians([result(10.0), result(30.0), result(20.0)])["rate_per_s"] == 20.0
    assert medians([result(0.0, math.nan), result(1.0, 7.0)])["p50_ms"] == 7.0
    assert math.isnan(medians([result(0.0, math.nan)])["p50_ms"])


def test_errors_are_summed_by_status_and_refusals_have_their_own_figure():
    runs = [result(1.0, errors={429: 2, 0: 1}, refused_p99_ms=1.0), result(1.0, errors={429: 3}, refused_p99_ms=3.0)]
    assert errors(runs) == {429: 5, 0: 1}
    assert refused_ms(runs) == 2.0
    assert refused_ms([result(1.0)]) is None


def test_ratios_are_told_for_loads_that_both_met():
    results = {
        ("headrace", "64"): [result(800.0, 2.0)],
        ("uvicorn", "64"): [result(1000.0, 1.0)],
        ("headrace", "1"): [result(1.0)],
    }
    assert ratios(results, "headrace", "uvicorn") == {"64": {"rate_per_s": 0.8, "p50_ms": 2.0, "p99_ms": 1.0}}


def test_goals_are_met_missed_or_not_measured():
    results = {
        ("headrace", "64"): [result(800.0)],
        ("uvicorn", "64"): [result(1000.0)],
        ("serve", "64"): [result(100.0)],
        ("headrace", "1"): [result(300.0, 1.4)],
        ("uvicorn", "1"): [result(400.0, 1.0)],
    }
    goals = serving_goals(results, "64", "1")
    assert [goal.verdict for goal in goals] == ["met", "MISSED", "not measured", "MISSED"]
    assert goals[3].value == pytest.approx(0.4)
    assert goals[0].line() == "64: rate against bare uvicorn: 0.8 x, goal at least 0.8 x: met"


def test_a_goal_without_a_number_is_not_met():
    assert Goal(text="x", value=math.nan, unit="", limit=1.0).verdict == "not measured"
