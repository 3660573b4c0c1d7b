"""When a change has been recovered from: closed forms, and one small world through everything."""

import math

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.bench_drift import (
    LIVE_NAME,
    POPULARITY,
    Outcome,
    curves,
    judged,
    lines_of,
    live_through,
    recovery,
    report,
)
from benchmarks.simulator import SimulatorConfig
from deployments.config import Config
from tests.learners.examples import CONFIG, SCHEMA

SINCE_S = np.arange(-50.0, 1000.0)


def outcome(**recovers_s: float) -> Outcome:
    """One query a second; each way of ranking is right before the change and from so many seconds after it."""
    right = {name: ((SINCE_S < 0) | (at_s <= SINCE_S)) * 1.0 for name, at_s in recovers_s.items()}
    return Outcome(SINCE_S, {LIVE_NAME: right.pop("live"), **right})


def test_recovered_is_when_nine_tenths_of_the_latest_queries_are_right_again() -> None:
    found = recovery([outcome(live=20.0, slow=200.0, never=math.inf)], n_window=10)
    assert found[LIVE_NAME] == {"before": 1.0, "after": 0.0, "steady": 1.0, "recovered_s": 28.0}
    assert found["slow"]["recovered_s"] == 208.0
    assert (found["never"]["recovered_s"], found["never"]["steady"]) == (math.inf, 0.0)


def test_where_nothing_was_lost_there_is_nothing_to_recover() -> None:
    assert math.isnan(recovery([outcome(live=0.0)], n_window=10)[LIVE_NAME]["recovered_s"])


def test_seeds_are_taken_together_in_the_order_of_time() -> None:
    """Of two seeds half of the latest queries are right from the earlier on, nine tenths only from the later."""
    found = recovery([outcome(live=20.0), outcome(live=40.0)], n_window=10)
    assert found[LIVE_NAME]["recovered_s"] == 43.0


def test_the_interval_lies_between_the_seeds() -> None:
    found = judged([outcome(live=float(at_s)) for at_s in (20, 30, 40)], n_window=10)[LIVE_NAME]
    assert 20 < found["recovered_low_s"] < found["recovered_s"] <= found["recovered_high_s"] < 50


def test_drifts_are_told_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [outcome(live=20.0)._replace(alarms_s=alarms_s) for alarms_s in ((-40.0, 5.4), ())]
    report(
        {
            "machine": machine.facts(),
            "settings": {"seeds": 2},
            "took_s": 1.0,
            "changes": {"swap": judged(outcomes, n_window=10)},
            "alarms_s": {"swap": [one.alarms_s for one in outcomes]},
        }
    )
    assert "by seed: -40, 5; none" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["swap", "launch"])
def test_a_small_world_is_lived_through(change: str) -> None:
    world = SimulatorConfig(
        change_s=100.0, end_s=160.0, clicks_per_s=15.0, n_people=50, n_items=200, n_clusters=4, dense_s=20.0
    )
    schema = Config(schema=SCHEMA, learner=CONFIG)
    found = live_through(change, world, schema, seed=3)  # type: ignore[arg-type]
    assert set(found.ranks) == {*lines_of(0), POPULARITY}
    assert all(len(ranks) == len(found.since_s) for ranks in found.ranks.values())
    is_after = found.since_s > 0
    live, stopped = found.ranks[LIVE_NAME], found.ranks["weights stopped at the change"]
    np.testing.assert_array_equal(live[~is_after], stopped[~is_after])
    assert (live != stopped)[is_after].any()
    shown = curves([found])
    assert all(len(values) == len(shown["times_s"]) for values in shown["series"].values())
