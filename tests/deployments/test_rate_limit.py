"""Rates, at one door and at several."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.rate_limit import DEPTH_S, HOLD_S, KeyRates

SETTLED_S, MEASURED_S = 13, 5


def admitted(rates: KeyRates, per_s: float, asked_per_s: int, seconds: range) -> int:
    """How many of those are let in that come evenly, in whole seconds."""
    times = (second + number / asked_per_s for second in seconds for number in range(asked_per_s))
    return sum(rates.take("web", per_s, 1.0, at) == 0.0 for at in times)


def test_whoever_keeps_to_the_rate_is_never_refused() -> None:
    assert admitted(KeyRates(), 100.0, 100, range(20)) == 2000


@given(st.integers(1, 300), st.integers(1, 3000))
def test_no_more_than_the_rate_and_one_bucket_is_let_in(per_s: int, asked_per_s: int) -> None:
    n_s = 4
    assert admitted(KeyRates(), per_s, asked_per_s, range(n_s)) <= per_s * (n_s + DEPTH_S) + 1


def test_a_large_request_leaves_a_debt_that_others_wait_for() -> None:
    rates = KeyRates()
    assert rates.take("web", 100.0, 1.0, 0.0) == 0.0
    rates.add("web", 999.0)
    assert rates.take("web", 100.0, 1.0, 0.0) == pytest.approx(9.0)
    assert rates.take("web", 100.0, 1.0, 9.5) == 0.0


def test_one_name_waits_for_no_other() -> None:
    rates = KeyRates()
    rates.take("web", 1.0, 50.0, 0.0)
    assert rates.take("web", 1.0, 1.0, 0.0) >= HOLD_S
    assert rates.take("kiosk", 1.0, 1.0, 0.0) == 0.0


@given(st.lists(st.integers(0, 400), min_size=1, max_size=5), st.integers(20, 200))
@example([4, 66], 61)
@example([1, 20, 70], 79)
def test_all_doors_together_hold_the_rate(asked: list[int], per_s: int) -> None:
    """Whatever door is asked for how much: within a tenth, and one a door for what is rounded.

    That is, as soon as the buckets are empty: what is a tenth above the rate empties one second of it in ten.
    """
    doors = [KeyRates() for _ in asked]
    rates = {"web": float(per_s)}
    for door in doors:
        door.take("web", per_s, 0.0, 0.0)  # every door knows the key
    let_in = []
    for second in range(SETTLED_S + MEASURED_S):
        let_in.append(
            sum(admitted(door, per_s, n, range(second, second + 1)) for door, n in zip(doors, asked, strict=True) if n)
        )
        told = [door.demand(rates, second + 1.0) for door in doors]
        for door, mine in zip(doors, told, strict=True):
            door.share_out(mine, told, rates)
    steady = sum(let_in[SETTLED_S:]) / MEASURED_S
    total = sum(asked)
    assert steady <= 1.1 * per_s + len(doors)
    assert steady >= 0.9 * min(total, per_s) - len(doors)


def test_a_door_that_holds_back_whom_it_refused_counts_as_asked_for_the_rate() -> None:
    rates = KeyRates()
    rates.take("web", 10.0, 11.0, 0.0)
    assert rates.demand({"web": 10.0}, 1.0) == {"web": 11.0}
    rates.take("web", 10.0, 2.0, 1.0)
    assert rates.demand({"web": 10.0}, 2.0) == {"web": 2.0}
    rates.take("web", 10.0, 11.0, 2.0)
    rates.demand({"web": 10.0}, 3.0)
    assert rates.take("web", 10.0, 1.0, 2.05) > 0.0
    assert rates.demand({"web": 10.0}, 4.0) == {"web": 10.0}


def test_a_key_that_is_newer_than_the_rates_may_give_all_of_its_own() -> None:
    rates = KeyRates()
    rates.take("web", 10.0, 1.0, 0.0)
    rates.share_out({}, [{}, {"web": 50.0}], {})
    assert admitted(rates, 10.0, 10, range(1, 5)) == 40


def test_names_without_a_rate_are_forgotten() -> None:
    rates = KeyRates()
    rates.take("web", 10.0, 1.0, 0.0)
    assert rates.demand({}, 1.0) == {}
    assert rates.take("web", 10.0, 10.0, 1.0) == 0.0
