"""Laws of policies: what is shown how often, and that the propensities say just that."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from learners.policies import PolicyConfig, greedy, plackett_luce, plackett_luce_propensities, policy_of

CHI_SQUARE_23_999 = 49.73  # the value that 23 degrees of freedom exceed once in a thousand

scores = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30).map(np.array)
temperatures = st.floats(0.01, 100.0)
seeds = st.integers(0, 2**32 - 1)


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def naive(scores_K: NDArray[np.floating], order: list[int], temperature: float) -> list[float]:
    """The definition, position by position, each softmax made stable by its own maximum."""
    left, propensities = list(range(len(scores_K))), []
    for k in order:
        utilities = scores_K[left] / temperature
        chances = np.exp(utilities - utilities.max())
        propensities.append(float(chances[left.index(k)] / chances.sum()))
        left.remove(k)
    return propensities


def test_greedy_puts_the_best_first_for_certain_and_ties_keep_their_order() -> None:
    assert greedy(np.array([1.0, 3.0, 1.0, 2.0])) == ([1, 3, 0, 2], [3.0, 2.0, 1.0, 1.0], [1.0] * 4)
    assert greedy(np.array([1.0, 3.0, 1.0]), 2) == ([1, 0], [3.0, 1.0], [1.0, 1.0])


def test_equal_scores_are_drawn_from_what_is_left() -> None:
    order, _, propensities = plackett_luce(np.zeros(5), temperature=0.3, rng=rng())
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert propensities == pytest.approx([1 / 5, 1 / 4, 1 / 3, 1 / 2, 1])


def test_two_candidates_are_a_logistic_function_of_their_difference_in_temperatures() -> None:
    order, _, propensities = plackett_luce(np.array([2.0, 0.5]), temperature=0.5, rng=rng())
    first = 1 / (1 + math.exp(-3))
    assert propensities == pytest.approx([first if order == [0, 1] else 1 - first, 1.0])


@given(scores, temperatures, seeds)
def test_propensities_are_those_of_the_definition(scores_K: NDArray[np.float64], temperature: float, seed: int) -> None:
    order, shown, propensities = plackett_luce(scores_K, temperature=temperature, rng=rng(seed))
    assert sorted(order) == list(range(len(scores_K)))
    assert shown == scores_K[order].tolist()
    np.testing.assert_allclose(propensities, naive(scores_K, order, temperature), rtol=1e-9)


@given(scores, temperatures, st.data())
def test_over_what_could_stand_at_a_position_they_sum_to_one(
    scores_K: NDArray[np.float64], temperature: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(scores_K))))
    at = data.draw(st.integers(0, len(order) - 1))
    total = sum(
        plackett_luce_propensities(scores_K, np.array([*order[:at], k]), temperature=temperature)[-1]
        for k in order[at:]
    )
    assert total == pytest.approx(1.0)


@given(scores, temperatures, seeds)
def test_none_is_ever_zero_and_what_stands_last_was_certain(
    scores_K: NDArray[np.float64], temperature: float, seed: int
) -> None:
    """Else what was shown could not be weighed, though scores lie far apart."""
    propensities = plackett_luce(scores_K, temperature=temperature, rng=rng(seed))[2]
    assert all(0 < propensity <= 1 for propensity in propensities) and propensities[-1] == 1.0


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20, unique=True), seeds)
def test_greedy_is_the_limit_of_a_low_temperature(distinct: list[int], seed: int) -> None:
    scores_K = np.array(distinct, dtype=np.float64)
    assert plackett_luce(scores_K, temperature=1e-3, rng=rng(seed)) == greedy(scores_K)


@given(scores, temperatures, seeds, st.integers(1, 40))
def test_a_limit_cuts_the_slate_and_changes_nothing_above(
    scores_K: NDArray[np.float64], temperature: float, seed: int, limit: int
) -> None:
    whole = plackett_luce(scores_K, temperature=temperature, rng=rng(seed))
    cut = plackett_luce(scores_K, limit, temperature=temperature, rng=rng(seed))
    assert cut == tuple(part[:limit] for part in whole)


@given(scores, temperatures, seeds, st.floats(-1e3, 1e3))
def test_only_differences_of_scores_matter(
    scores_K: NDArray[np.float64], temperature: float, seed: int, shift: float
) -> None:
    order = rng(seed).permutation(len(scores_K))
    plain, moved = (
        plackett_luce_propensities(values, order, temperature=temperature) for values in (scores_K, scores_K + shift)
    )
    np.testing.assert_allclose(plain, moved, rtol=1e-7)


@given(scores, temperatures, seeds, st.integers(1, 40))
def test_the_order_of_the_candidates_does_not_matter(
    scores_K: NDArray[np.float64], temperature: float, seed: int, length: int
) -> None:
    """Neither of those shown, nor of those left out, which are summed in another order."""
    slate = rng(seed).permutation(len(scores_K))[:length]
    moved = rng(seed + 1).permutation(len(scores_K))
    there = np.argsort(moved)[slate]
    np.testing.assert_allclose(
        plackett_luce_propensities(scores_K, slate, temperature=temperature),
        plackett_luce_propensities(scores_K[moved], there, temperature=temperature),
        rtol=1e-9,
    )


@given(scores, temperatures, seeds, st.integers(1, 40))
def test_the_propensities_of_a_drawn_slate_are_found_again(
    scores_K: NDArray[np.float64], temperature: float, seed: int, limit: int
) -> None:
    order, _, propensities = plackett_luce(scores_K, limit, temperature=temperature, rng=rng(seed))
    again = plackett_luce_propensities(scores_K, np.array(order), temperature=temperature)
    np.testing.assert_allclose(again, propensities, rtol=1e-9)


@pytest.mark.parametrize("n_candidates", [1, 1000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e8])
def test_few_and_many_candidates_near_and_far_apart(n_candidates: int, spread: float) -> None:
    scores_K = spread * rng().normal(size=n_candidates)
    order, _, propensities = plackett_luce(scores_K, temperature=1.0, rng=rng())
    np.testing.assert_allclose(propensities, naive(scores_K, order, 1.0), rtol=1e-6)


@pytest.mark.parametrize("scores_K", [np.zeros(4), np.array([1.0, 0.0, -0.5, 2.0])])
def test_orders_are_as_frequent_as_their_propensities_say(scores_K: NDArray[np.float64]) -> None:
    """Chi-square over all 24 orders of four items, with chances computed from the definition."""
    n, generator = 20_000, rng()
    seen = Counter(tuple(plackett_luce(scores_K, temperature=0.8, rng=generator)[0]) for _ in range(n))
    expected = {order: n * math.prod(naive(scores_K, list(order), 0.8)) for order in permutations(range(4))}
    assert sum(expected.values()) == pytest.approx(n) and min(expected.values()) > 5
    assert sum((seen[order] - mean) ** 2 / mean for order, mean in expected.items()) < CHI_SQUARE_23_999


def test_a_policy_is_as_repeatable_as_its_generator() -> None:
    config = PolicyConfig(name="plackett_luce", temperature=2.0)
    scores_K = np.arange(50.0)
    one, two, other = (policy_of(config, rng(seed)) for seed in (1, 1, 2))
    assert one(scores_K, 10) == two(scores_K, 10) != other(scores_K, 10)


def test_greedy_is_the_default_and_draws_nothing() -> None:
    generator = rng()
    before = generator.bit_generator.state
    assert policy_of(PolicyConfig(), generator)(np.array([0.0, 1.0]), None) == ([1, 0], [1.0, 0.0], [1.0, 1.0])
    assert generator.bit_generator.state == before


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "best"}, "policy.name: expected one of greedy, plackett_luce, got 'best'"),
        ({"temperature": 0.0}, "policy.temperature: expected 1e-06 to 1e[+]06, got 0.0"),
        ({"temperature": math.nan}, "policy.temperature"),
        ({"temperature": math.inf}, "policy.temperature"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        PolicyConfig(**settings)  # type: ignore[arg-type]
