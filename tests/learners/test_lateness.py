"""How late rewards are."""

import math

import pytest

from learners.lateness import Lateness


def test_where_nothing_is_late_nothing_is_corrected() -> None:
    lateness = Lateness()
    assert lateness.share == lateness.log_odds_shift == 0.0
    lateness.add(1000, 30.0, 0.0)
    assert lateness.share == lateness.log_odds_shift == 0.0


def test_the_share_is_that_of_the_newest_impressions() -> None:
    lateness = Lateness()
    for late_share in (0.5, 0.1):
        for _ in range(1000):
            lateness.add(1000, 30.0 * (1 - late_share), 30.0 * late_share)
    assert lateness.share == pytest.approx(0.1, rel=1e-3)
    assert lateness.log_odds_shift == pytest.approx(math.log(0.9), rel=1e-3)


def test_a_first_late_reward_does_not_take_all_odds_away() -> None:
    lateness = Lateness()
    lateness.add(0, 0.0, 1.0)
    assert math.isfinite(lateness.log_odds_shift)
