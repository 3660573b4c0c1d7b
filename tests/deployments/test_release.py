"""Laws of releases: another one is what has to be started anew."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.config import Config, config_from_dict, with_store
from deployments.release import release_of
from deployments.shipping import PACKAGES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the packages, somewhere else."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_same_source_elsewhere_is_the_same_release(source: Path) -> None:
    assert release_of(Config(), source) == release_of(Config()) == release_of(Config(), ROOT)


@pytest.mark.parametrize("path", ["features/functions.lua", "learners/model.py", "deployments/ranker.py"])
def test_changed_source_is_another_release(source: Path, path: str) -> None:
    before = release_of(Config(), source)
    with (source / path).open("a") as file:
        file.write("\n")
    assert release_of(Config(), source) != before


@pytest.mark.parametrize(
    "values",
    [
        {"rank": {"deadline_ms": 100}},
        {"policy": {"name": "plackett_luce"}},
        {"n_rankers": 3, "n_events": 2},
        {"autoscale": {"max_rankers": 9, "busy_ratio": 0.3}},
    ],
)
def test_what_is_taken_over_while_things_run_is_the_same_release(values: dict[str, object]) -> None:
    assert release_of(config_from_dict(values)) == release_of(Config())


def test_any_other_setting_is_another_release() -> None:
    others = [
        with_store(Config(), url="redis://127.0.0.1:1/0"),
        replace(Config(), offer_s=2.0),
        config_from_dict({"learner": {"batch_size": 64}}),
        config_from_dict({"autoscale": {"late_ms": 10}}),
    ]
    assert len({release_of(config) for config in [Config(), *others]}) == len(others) + 1
