"""Lineages are found again: those that are made, and those that were begun."""

from dataclasses import replace
from pathlib import Path

import pytest

from features.backfill.leaving_out import Choice
from features.backfill.lineages import Begun, Made, begin, begun_before, finish, lineages
from features.backfill.planning import plan_of
from features.events import EVENT
from tests.features.backfill.streams import SCHEMA
from tests.features.backfill.test_archived import archived
from tests.features.backfill.worlds import Act, World
from tests.features.examples import KEYS

MADE = Made(1_764_000_000_000, 3, {"bad": 1}, {}, 0.25)


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    """One of a small archive."""
    return planned(tmp_path, 3)


def planned(path: Path, n: int, **other: object) -> Begun:
    entries = World(SCHEMA, KEYS).live([Act(EVENT, "u1", source="bad") for _ in range(n)]).entries
    url, further = archived(path, entries, 50), {"choice": Choice(without=("bad",)), **other}
    plan = plan_of([url], SCHEMA, KEYS.n_partitions, "", **further)
    return Begun(replace(plan, folder=f"{path}/lineages/{plan.name}"), (), url, {"bad": 7})


def test_what_was_begun_is_read_as_it_was_written(begun: Begun, tmp_path: Path) -> None:
    root = f"{tmp_path}/lineages"
    assert lineages(root) == []
    begin(begun)
    (one,) = lineages(root)
    assert (one.begun, one.made, one.name) == (begun, None, begun.plan.name)
    assert one.begun.plan.name == begun.plan.name and one.begun.plan.cut == begun.plan.cut
    finish(begun, MADE)
    assert lineages(root) == [one._replace(made=MADE)]


def test_one_that_is_not_finished_is_gone_on_with_though_the_archive_has_grown(begun: Begun, tmp_path: Path) -> None:
    root = f"{tmp_path}/lineages"
    begin(begun)
    assert begun_before(root, begun) == begun
    longer = planned(tmp_path / "other", 5)
    assert longer.plan.name != begun.plan.name
    grown = Begun(longer.plan, begun.before, begun.archive, begun.since_ms)
    assert begun_before(root, grown) == begun
    finish(begun, MADE)
    assert begun_before(root, grown) is None


def test_one_of_other_work_is_not(begun: Begun, tmp_path: Path) -> None:
    begin(begun)
    root, plan = f"{tmp_path}/lineages", begun.plan
    others = [
        Begun(plan, ("history/",), begun.archive, begun.since_ms),
        Begun(plan, (), begun.archive, {"bad": 8}),  # released meanwhile: more may have come
        Begun(replace(plan, choice=Choice(counted=("bad",))), (), begun.archive, begun.since_ms),
        Begun(replace(plan, n_partitions=5), (), begun.archive, begun.since_ms),
    ]
    assert [begun_before(root, other) for other in others] == [None] * 4


def test_nor_one_whose_segments_are_gone(begun: Begun, tmp_path: Path) -> None:
    begin(begun)
    for segment in (tmp_path / "archive").rglob("*.parquet"):
        segment.unlink()
    assert begun_before(f"{tmp_path}/lineages", begun) is None
