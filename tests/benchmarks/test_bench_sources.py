"""The world in which one app says the opposite, and a short life in it."""

from pathlib import Path

import numpy as np

import benchmarks
from benchmarks.bench_sources import BAD, World, live_through, summary
from benchmarks.impressions import ImpressionsConfig, entries_of
from deployments.config import load_config
from features.events import EVENT, decode_event
from learners.judge import JudgeConfig
from tests.learners.examples import SCHEMA

WORLD = World(ImpressionsConfig(end_s=240.0, decisions_per_s=8.0, n_people=60, n_items=30), 0.2, 1)


def test_labels_are_those_of_the_truth_but_the_apps_from_the_moment_on() -> None:
    true, told = WORLD.told(False), WORLD.told(True)
    is_turned = WORLD.is_bad & (true.at_ms >= WORLD.wrong_ms)
    assert 0.1 < is_turned.mean() < 0.2
    np.testing.assert_array_equal(told.is_clicked[is_turned], ~true.is_clicked[is_turned])
    np.testing.assert_array_equal(told.delay_ms[~is_turned], true.delay_ms[~is_turned])
    assert {source == BAD for source, is_bad in zip(WORLD.sources, WORLD.is_bad, strict=True) if is_bad} == {True}


def test_what_is_in_quarantine_tells_nothing() -> None:
    for quarantined, expected in (
        ((), {BAD, "app0", "app1", "app2", "app3"}),
        ((BAD, "app1"), {"app0", "app2", "app3"}),
    ):
        entries = (e for some in entries_of(WORLD.true, SCHEMA, WORLD.sources, quarantined) for e in some)
        assert {decode_event(entry.body).source for entry in entries if entry.kind == EVENT} == expected


def test_the_best_misses_nothing_and_a_run_is_told_second_by_second() -> None:
    numbers = [3, 4]
    assert WORLD.missed(numbers, WORLD._worth_NK[numbers].astype(np.float32)).tolist() == [0.0, 0.0]
    config = load_config(Path(benchmarks.__file__).parent / "impressions.toml")
    found = live_through(WORLD, config, JudgeConfig(), False, False)
    assert 1000 < len(found["numbers"]) == len(found["loss"]) == len(found["missed"])
    row = summary(WORLD, found, found)
    assert row["told"] == {} and row["others"]["excess_worst"] == row["its people"]["excess_last"] == 0.0
    assert 0.0 < row["others"]["missed_last"] < 1.0
