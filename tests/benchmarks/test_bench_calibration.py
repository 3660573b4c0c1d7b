"""Rates that were predicted and what came of them: closed forms, and one small world through everything."""

import math
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks.bench_calibration import WAYS, Student, goals, live_through, worth
from benchmarks.calibration import Bin, bins, judged, shifted, wilson
from benchmarks.impressions import ImpressionsConfig, entries_of, simulate
from deployments.config import load_config
from features.events import DECISION, EVENT, decode_decision, decode_event
from features.state import unpack
from tests.learners.examples import SCHEMA

WORLD = ImpressionsConfig(end_s=20.0, decisions_per_s=10.0, n_people=20, n_items=30, late_s=5.0)


def test_the_interval_of_a_share_is_as_published() -> None:
    """Newcombe, 1998, table I: 81 of 263, and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_bins_hold_equally_many_by_what_was_predicted() -> None:
    predicted = np.array([0.1, 0.3, 0.2, 0.4])
    low, high = bins(predicted, np.array([False, True, False, True]), n_bins=2)
    assert (low.n, low.n_clicks, low.predicted, low.came) == (2, 0, pytest.approx(0.15), 0.0)
    assert (high.n, high.n_clicks, high.predicted, high.came) == (2, 2, pytest.approx(0.35), 1.0)
    assert (low.ratio, high.ratio) == (math.inf, pytest.approx(0.35))


def test_equal_predictions_share_a_bin() -> None:
    assert [one.n for one in bins(np.full(10, 0.2), np.zeros(10, bool))] == [10]


def test_shifted_log_odds() -> None:
    """Of 9 : 1 against, with a tenth of the negatives kept, 9 : 10."""
    assert shifted(np.array([0.1]), math.log(10.0)) == pytest.approx(10 / 19)


def test_true_rates_are_judged_to_agree_and_uncorrected_ones_not() -> None:
    rng = np.random.default_rng(3)
    rate = rng.uniform(0.0, 0.1, 1_000_000)
    came = rng.random(len(rate)) < rate
    shift = -math.log(0.1)
    right, wrong = (judged(called, rate, came, shift) for called in (rate, shifted(rate, shift)))
    assert abs(right["whole"].ratio - 1.0) < 0.02 and abs(right["worst"] - 1.0) < 0.05
    assert right["uncorrected"] == pytest.approx(wrong["whole"].ratio) and wrong["whole"].ratio > 5
    assert right["log_loss"] == right["log_loss_of_true_rates"] < wrong["log_loss"]
    inside = [one for one in right["deciles"] if one.low <= one.predicted <= one.high]
    assert len(inside) >= 8
    verdicts = [goal.verdict for goal in goals({"keep_negatives": {"1.0": {"ways": {"right": right, "wrong": wrong}}}})]
    assert verdicts == ["met", "met", "MISSED", "MISSED"]
    assert isinstance(right["whole"], Bin)


def test_the_same_seed_gives_the_same_world_and_another_another() -> None:
    one, same, other = (simulate(WORLD, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(one, name), getattr(same, name)) for name in ("at_ms", "item", "delay_ms"))
    assert not np.array_equal(one.item, other.item)


def test_clicks_come_at_the_rates_that_the_world_tells_and_some_late() -> None:
    shown = simulate(ImpressionsConfig(end_s=300.0), 5)
    assert shown.is_clicked.mean() == pytest.approx(shown.rate.mean(), rel=0.03)
    assert 0.02 < shown.rate.mean() < 0.05
    assert (np.diff(shown.rate.mean(axis=0)) < 0).all()
    is_late = shown.delay_ms[shown.is_clicked] > 10_000
    assert 0.07 < is_late.mean() < 0.14


def test_the_log_holds_every_decision_and_click_once_in_order() -> None:
    shown = simulate(WORLD, 1)
    seconds = list(entries_of(shown, SCHEMA))
    entries = [entry for second in seconds for entry in second]
    assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
    assert len({entry.id.ms // 1000 for entry in entries}) == len(seconds)
    decisions = [decode_decision(entry.body) for entry in entries if entry.kind == DECISION]
    assert [decision.decision for decision in decisions] == [str(number) for number in range(len(shown.at_ms))]
    clicks = [decode_event(entry.body) for entry in entries if entry.kind == EVENT]
    clicked_ms = (shown.at_ms[:, None] + shown.delay_ms)[shown.is_clicked]
    assert len(clicks) == (clicked_ms <= shown.at_ms[-1]).sum() > 20
    for click in clicks:
        number = int(click.decision or 0)
        place = decisions[number].items.index(click.item)
        assert click.ts_ms - decisions[number].ts_ms == shown.delay_ms[number, place]


def test_a_state_is_that_of_all_clicks_before() -> None:
    clicks: dict[str, list[str]] = {}
    for entry in (entry for second in entries_of(simulate(WORLD, 1), SCHEMA) for entry in second):
        if entry.kind == EVENT:
            body = decode_event(entry.body)
            recent = unpack(entry.state, SCHEMA).recent
            assert [item for item, *_ in recent] == clicks.get(body.user, [])[: len(recent)]
            assert bool(recent) == (body.user in clicks)
            clicks.setdefault(body.user, []).insert(0, body.item)
    assert max(map(len, clicks.values())) > 3


def test_a_small_world_is_predicted_before_it_is_learned_from() -> None:
    shown, config = simulate(WORLD, 1), load_config(Path(benchmarks.__file__).parent / "impressions.toml", {})
    all_of_it, thinned = Student(config, 1.0), Student(config, 0.1)
    live_through(shown, config, [all_of_it, thinned], WORLD.start_ms)
    for student in (all_of_it, thinned):
        for way in WAYS:
            rates_NK = np.concatenate(student.rates[way])
            assert way == "counted" or rates_NK.shape == shown.rate.shape
            # Nothing is learned yet: a logit is 0, whatever share of the negatives the join keeps.
            assert (student.rates[way][0] == 0.5).all()
            assert (student.rates[way][-1] != 0.5).all()
        found = worth(student, shown)
        assert {seen["whole"].n_clicks for seen in found["ways"].values()} == {found["ways"]["shown"]["whole"].n_clicks}
        assert 0 < found["ways"]["counted"]["whole"].n < shown.rate.size
    assert thinned.learner.n_examples < all_of_it.learner.n_examples
