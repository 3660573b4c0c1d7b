"""Laws of the drift detector: one change is one alarm, in one direction, and nothing else is."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.drift import N_EQUAL, DriftConfig, DriftDetector, _clearest_cut, _merged

N = 2000


def told(values: Iterable[float], delta: float = 0.002) -> tuple[DriftDetector, list[int]]:
    """A detector that was told these, one a millisecond, and when it gave an alarm."""
    detector = DriftDetector(DriftConfig(delta=delta))
    return detector, [now_ms for now_ms, value in enumerate(values) if detector.add(float(value), now_ms)]


def steps(seed: int, *means: float) -> np.ndarray:
    """Noise around each mean in turn, `N` times."""
    return np.random.default_rng(seed).normal(0.0, 0.2, len(means) * N) + np.repeat(means, N)


@pytest.mark.parametrize("seed", range(5))
def test_a_rise_is_one_alarm_soon_after_it(seed: int) -> None:
    detector, alarms = told(steps(seed, 0.0, 0.3))
    assert len(alarms) == 1 and N < alarms[0] < N + 60
    assert detector.metrics() == {"drifts": 1.0, "drifted_ms": alarms[0]}
    # What was before is forgotten, but for a bucket that holds the change.
    assert N - 60 < detector.n_values < N + 60


def test_a_fall_is_none_but_forgets_what_was_before() -> None:
    detector, alarms = told(steps(1, 0.3, 0.0))
    assert alarms == [] and detector.metrics() == {"drifts": 0.0, "drifted_ms": 0.0}
    assert detector.n_values <= N


def test_each_of_several_rises_is_an_alarm() -> None:
    _, alarms = told(steps(2, 0.0, 0.3, 0.0, 0.3, 0.6))
    assert [now_ms // N for now_ms in alarms] == [1, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_alarm_and_forgets_nothing(seed: int) -> None:
    detector, alarms = told(steps(seed, 0.5, 0.5))
    assert alarms == [] and detector.n_values == 2 * N


def test_what_is_always_the_same_is_no_alarm() -> None:
    assert told(np.full(500, 0.1))[1] == []


def test_the_bound_is_the_published_one() -> None:
    """After 100 zeros 10 ones: m = .11, v = .0826, and a delta of .002 gives L = 8.456, e = .392 + .620 = 1.012; .0025
    gives L = 8.232, e = .387 + .604 = .991."""
    buckets = np.array([[100.0, 0.0, 0.0], [10.0, 10.0, 10.0]])
    assert _clearest_cut(buckets, 0.002) is None
    assert _clearest_cut(buckets, 0.0025) == (1, 1.0)


@given(st.integers(1, 5000))
@settings(max_examples=30)
def test_a_window_of_any_length_is_few_buckets_that_hold_it_all(n: int) -> None:
    buckets = np.zeros((0, 3))
    for value in range(n):
        buckets = _merged(np.concatenate([buckets, [[1.0, value, value * value]]]))
    sizes, counts = np.unique(buckets[:, 0], return_counts=True)
    assert (np.diff(buckets[:, 0]) <= 0).all() and counts.max() <= N_EQUAL
    assert sizes.tolist() == [2.0**power for power in range(len(sizes))]
    everything = np.arange(n, dtype=float)
    assert buckets.sum(axis=0).tolist() == [n, everything.sum(), np.square(everything).sum()]


def test_its_state_goes_on_bit_for_bit() -> None:
    values = steps(3, 0.0, 0.3, 0.6)
    straight, alarms = told(values)
    assert len(alarms) == 2
    for n in (0, 1, N + 3, alarms[0] + 1, 2 * N + 5):
        first, _ = told(values[:n])
        resumed = DriftDetector(DriftConfig())
        resumed.state = first.state
        later = [n + at for at, value in enumerate(values[n:]) if resumed.add(float(value), n + at)]
        assert later == [at for at in alarms if at >= n]
        assert resumed.state == straight.state


@pytest.mark.parametrize("means", [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.0, 0.05)])
def test_the_first_change_is_found_when_river_finds_it(means: tuple[float, float]) -> None:
    """Up to then the windows are the same; what is left of them afterwards is not, see the module."""
    drift = pytest.importorskip("river.drift", reason="river is not installed; it comes with the bench extra")
    values = steps(4, *means)
    theirs = drift.ADWIN(delta=0.002, clock=1, max_buckets=N_EQUAL, min_window_length=1, grace_period=1)
    ours = DriftDetector(DriftConfig())
    for now_ms, value in enumerate(values.tolist()):
        n_before = ours.n_values
        has_risen = ours.add(value, now_ms)
        theirs.update(value)
        has_cut = ours.n_values <= n_before
        assert has_cut == theirs.drift_detected
        if has_cut:
            assert has_risen == (means[1] > means[0])
            return
        assert ours.n_values == theirs.width
    assert means[0] == means[1]


@pytest.mark.parametrize("delta", [0.0, 0.6])
def test_a_delta_out_of_range_is_named(delta: float) -> None:
    with pytest.raises(ValueError, match=r"drift\.delta: expected 1e-09 to 0.5"):
        DriftConfig(delta=delta)
