"""What the serving benchmark prints and draws, from loads that were made up; and what it leaves out."""

from pathlib import Path

import pytest

from benchmarks import plotting, systems
from benchmarks.bench_serving import Found, closed_load, curves, open_load, rows
from benchmarks.systems import KINDS, Kind, absence, packed
from tests.benchmarks.test_comparing import result


def found() -> Found:
    loads = [("headrace", closed_load(64)), ("floor", closed_load(64)), ("headrace", open_load(100.0))]
    return Found(
        results={key: [result(10.0, errors={429: 1}, refused_p99_ms=0.5)] for key in loads},
        busy_ratios={key: [0.5] for key in loads},
    )


def test_floors_come_first_in_the_table_of_each_load():
    table = list(rows(found()))
    assert [row[:2] for row in table] == [
        ["64 connections", "floor"],
        ["64 connections", "headrace"],
        ["open, 100/s", "headrace"],
    ]
    assert table[0][-4:] == [{429: 1}, 0.5, "50%", "10%"]


def test_curves_hold_what_met_fixed_rates():
    assert curves(found(), [100.0, 200.0]) == {"headrace": [(100.0, 1.0, 3.0)]}


def test_loads_are_named_by_connections_and_unusual_candidates():
    assert [closed_load(1), closed_load(4), closed_load(64, 10)] == [
        "1 connection",
        "4 connections",
        "64 connections, 10 candidates",
    ]


def test_a_system_whose_package_is_absent_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(systems.KINDS, "imaginary", Kind(module="imaginary", package="no-such-package"))
    assert "no-such-package is not installed" in absence("imaginary")
    assert all(absence(name) == "" for name in KINDS if not KINDS[name].package)


def test_bodies_are_put_in_lists_for_who_wants_lists():
    assert packed("bentoml", (b"{}",)) == (b"[{}]",)
    assert packed("mosec", (b"{}",)) == (b"{}",)


def test_pictures_are_written(tmp_path: Path):
    pytest.importorskip("matplotlib")
    points = {"headrace": [(100.0, 1.0, 3.0), (200.0, 2.0, 9.0)], "floor": [(100.0, 0.2, 0.5)]}
    plotting.plot_latency(points, "title", "a machine\nand more", tmp_path / "latency.png")
    panels = [{"label": "ms", "times_s": [0, 10], "series": {"p50": [1.0, 1.0], "p99": [2.0, 3.0]}, "is_log": True}]
    plotting.plot_series([*panels, {**panels[0], "is_log": False}], "title", "a machine", tmp_path / "series.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("latency.png", "series.png"))
