"""Laws of how many replicas a load needs."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.autoscaling import BUSY, LATE, AutoscaleConfig, Load, desired
from deployments.errors import ConfigError
from deployments.load_policy import LoadPolicy

CONFIG = AutoscaleConfig(max_rankers=100, busy_ratio=0.5, late_ms=50)
replicas = st.integers(1, 100)
ratios = st.floats(0.0, 1.0)


@given(replicas, ratios)
def test_what_is_asked_for_is_not_changed_again_under_the_same_load(n: int, busy: float) -> None:
    wanted = desired(n, busy, 0.0, CONFIG)
    assert desired(wanted, min(1.0, n * busy / wanted), 0.0, CONFIG) == wanted


@given(replicas, ratios)
def test_nobody_is_busier_than_wanted_then(n: int, busy: float) -> None:
    assert n * busy / desired(n, busy, 0.0, CONFIG) <= CONFIG.busy_ratio + 1e-9


@given(replicas, ratios, ratios)
def test_more_load_never_asks_for_fewer(n: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert desired(n, low, 0.0, CONFIG) <= desired(n, high, 0.0, CONFIG)
    assert desired(n, low, low, CONFIG) <= desired(n, low, high, CONFIG)


@given(replicas, ratios)
def test_late_answers_ask_for_more_however_idle_replicas_are(n: int, busy: float) -> None:
    assert desired(n, busy, 0.011, CONFIG) > n or n * busy > CONFIG.busy_ratio * n * 1.5
    assert desired(n, 0.0, 0.01, CONFIG) == 1


def test_a_meter_tells_shares_since_it_was_last_asked() -> None:
    clock = SimpleNamespace(now_s=10.0, busy_s=1.0)
    load = Load(0.05, lambda: clock.now_s, lambda: clock.busy_s)
    for took_s in (0.01, 0.06, float("inf"), 0.05):
        load.note(took_s)
    clock.now_s, clock.busy_s = 14.0, 2.0
    assert load.take() == {BUSY: 0.25, LATE: 0.5}
    clock.now_s = 15.0
    assert load.take() == {BUSY: 0.0, LATE: 0.0}
    assert load.take() == {BUSY: 0.0, LATE: 0.0}


def test_serve_gets_the_mean_of_those_that_told_something() -> None:
    context = SimpleNamespace(
        current_num_replicas=2,
        policy_state={"kept": 1},
        aggregated_metrics={BUSY: {"a": 0.9, "b": 0.7}, LATE: {"a": 0.0, "b": 0.0}},
    )
    assert LoadPolicy(**asdict(CONFIG))(context) == (4, {"kept": 1})
    for nothing in (None, {}, {BUSY: {}, LATE: {}}):
        context.aggregated_metrics = nothing
        assert LoadPolicy(**asdict(CONFIG))(context) == (2, {"kept": 1})


@pytest.mark.parametrize(
    ("field", "value"), [("max_rankers", -1), ("max_rankers", 2000), ("busy_ratio", 0.0), ("late_ms", 0)]
)
def test_a_bound_that_makes_no_sense_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        AutoscaleConfig(**{field: value})
