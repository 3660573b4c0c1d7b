"""Laws of off-policy estimates: closed forms, who counts as one, what a slate's propensities say, and coverage."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.off_policy import Estimate, ips, prefix_propensities, snips
from learners.policies import plackett_luce_propensities

F64 = np.ndarray[Any, np.dtype[np.float64]]
Estimator = Callable[..., Estimate]

BOTH = pytest.mark.parametrize("estimate", [ips, snips])
REWARD, LOGGED, EVALUATED = [2.0, 0.0, 1.0, 3.0], [0.5, 0.5, 0.25, 0.1], [0.25, 0.5, 0.5, 0.4]  # weights 1/2, 1, 2, 4

impressions = st.lists(
    st.tuples(st.integers(0, 9), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 4)), min_size=1, max_size=30
).map(lambda rows: [np.array(column) for column in zip(*rows, strict=True)])


def ends(found: Estimate) -> list[float]:
    return [found.value, found.low, found.high]


def test_closed_forms() -> None:
    one, two = ips(REWARD, LOGGED, EVALUATED), snips(REWARD, LOGGED, EVALUATED)
    assert one.value == pytest.approx((1 + 0 + 2 + 12) / 4)
    assert two.value == pytest.approx((1 + 0 + 2 + 12) / 7.5)
    assert one.n_effective == two.n_effective == pytest.approx(7.5**2 / (1 / 4 + 1 + 4 + 16))
    assert one.n_rewarded == two.n_rewarded == 3


def test_the_interval_of_ips_is_that_of_a_mean_on_the_scale_of_logarithms() -> None:
    earned = np.array([1.0, 0.0, 2.0, 12.0])
    error = earned.std(ddof=1) / math.sqrt(4)
    factor = math.exp(1.959964 * error / earned.mean())
    assert ends(ips(REWARD, LOGGED, EVALUATED)) == pytest.approx([3.75, 3.75 / factor, 3.75 * factor])


@BOTH
def test_the_logging_policy_itself_earns_the_mean(estimate: Estimator) -> None:
    found = estimate(REWARD, LOGGED, LOGGED)
    assert (found.value, found.n_effective) == (np.mean(REWARD), 4)


def test_where_every_reward_is_the_same_the_self_normalised_knows_it() -> None:
    assert ends(snips([2.5] * 4, LOGGED, EVALUATED)) == pytest.approx([2.5] * 3)
    assert ips([2.5] * 4, LOGGED, EVALUATED).value != pytest.approx(2.5)


@given(impressions)
def test_the_self_normalised_stays_within_the_rewards(rows: list[F64]) -> None:
    reward, logged, evaluated, _ = rows
    assert reward.min() * (1 - 1e-9) <= snips(reward, logged, evaluated).value <= reward.max() * (1 + 1e-9)


@given(impressions, st.randoms(use_true_random=False))
def test_neither_the_order_of_impressions_nor_the_names_of_people_matter(rows: list[F64], random: Any) -> None:
    order = list(range(len(rows[0])))
    random.shuffle(order)
    for estimate in (ips, snips):
        plain = estimate(*rows[:3], person_N=rows[3])
        moved = estimate(*(column[order] for column in rows[:3]), person_N=[f"u{9 - p}" for p in rows[3][order]])
        np.testing.assert_allclose(ends(plain), ends(moved), rtol=1e-9)
        assert (plain.n_rewarded, plain.n_effective) == (moved.n_rewarded, pytest.approx(moved.n_effective))


@given(impressions, st.floats(0.1, 10))
def test_in_another_unit_of_reward_everything_is_in_that_unit(rows: list[F64], unit: float) -> None:
    for estimate in (ips, snips):
        plain = estimate(*rows[:3], person_N=rows[3])
        scaled = estimate(unit * rows[0], *rows[1:3], person_N=rows[3])
        np.testing.assert_allclose([unit * end for end in ends(plain)], ends(scaled), rtol=1e-9)


@BOTH
def test_what_one_person_does_ten_times_over_tells_no_more_than_once(estimate: Estimator) -> None:
    once = estimate(REWARD, LOGGED, EVALUATED, person_N=[1, 2, 3, 4])
    assert ends(once) == ends(estimate(REWARD, LOGGED, EVALUATED))
    repeated = [np.repeat(column, 10) for column in (REWARD, LOGGED, EVALUATED)]
    assert ends(estimate(*repeated, person_N=np.repeat([1, 2, 3, 4], 10))) == pytest.approx(ends(once))
    assert estimate(*repeated).high < once.high


def test_clipping_lowers_ips_by_what_it_clips() -> None:
    assert ips(REWARD, LOGGED, EVALUATED, clip=3.0).value == pytest.approx(3.75 - (4 - 3) * 3.0 / 4)
    assert snips(REWARD, LOGGED, EVALUATED, clip=3.0).value == pytest.approx((1 + 0 + 2 + 9) / 6.5)
    for estimate in (ips, snips):
        assert estimate(REWARD, LOGGED, EVALUATED, clip=4.0) == estimate(REWARD, LOGGED, EVALUATED)
        clipped = estimate(REWARD, LOGGED, EVALUATED, clip=0.5)
        assert (clipped.n_effective, clipped.n_rewarded) == (4, 3)


@BOTH
def test_without_a_reward_or_of_one_person_alone_no_interval_is_claimed(estimate: Estimator) -> None:
    assert ends(estimate([0, 0, 0], [0.5] * 3, [0.5] * 3)) == [0, 0, math.inf]
    assert ends(estimate([1, 0, 1], [0.5] * 3, [0.5] * 3, person_N=["a"] * 3))[1:] == [0, math.inf]
    matched = snips([1, 0, 1], [0.5] * 3, [1, 0, 0])
    assert (ends(matched), matched.n_effective, matched.n_rewarded) == ([1, 0, math.inf], 1, 1)


@BOTH
def test_weights_of_any_size_do_not_overflow(estimate: Estimator) -> None:
    with np.errstate(all="raise"):
        found = estimate([1, 0, 1, 1], [1e-300] * 4, [1.0, 0.5, 0.5, 1.0])
    assert all(map(math.isfinite, ends(found)))
    assert found.n_effective == pytest.approx(9 / 2.5)


@BOTH
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"reward_N": []}, "reward_N: expected one dimension, not empty"),
        ({"reward_N": [[1, 2, 3, 4]]}, "reward_N: expected one dimension"),
        ({"reward_N": [1, 1, -1, 1]}, "reward_N: expected finite numbers, not negative, got -1.0 at 2"),
        ({"reward_N": [1, math.nan, 1, 1]}, "reward_N: .* got nan at 1"),
        ({"reward_N": [1, math.inf, 1, 1]}, "reward_N: .* got inf at 1"),
        ({"logged_propensity_N": [0.5, 0.5]}, r"logged_propensity_N: expected shape \(4,\) as reward_N, got \(2,\)"),
        (
            {"logged_propensity_N": [0.5, 0.5, 0, 0.5]},
            "logged_propensity_N: expected numbers from 1e-300 to 1, got 0.0 at 2",
        ),
        ({"logged_propensity_N": [0.5, 0.5, 1.5, 0.5]}, "logged_propensity_N: .* got 1.5 at 2"),
        ({"logged_propensity_N": [math.nan, 0.5, 0.5, 0.5]}, "logged_propensity_N: .* got nan at 0"),
        ({"evaluated_propensity_N": [0.5] * 5}, "evaluated_propensity_N: expected shape"),
        ({"evaluated_propensity_N": [0.5, -0.1, 0, 0]}, "evaluated_propensity_N: .* got -0.1 at 1"),
        ({"evaluated_propensity_N": [0.5, math.nan, 0, 0]}, "evaluated_propensity_N: .* got nan at 1"),
        ({"evaluated_propensity_N": [0] * 4}, "evaluated_propensity_N: expected a positive one"),
        ({"person_N": [1, 2, 3]}, r"person_N: expected shape \(4,\)"),
        ({"clip": 0.0}, "clip: expected a positive number"),
        ({"clip": math.nan}, "clip: expected a positive number"),
    ],
)
def test_what_is_wrong_is_named(estimate: Estimator, changed: dict[str, Any], named: str) -> None:
    right = {"reward_N": REWARD, "logged_propensity_N": LOGGED, "evaluated_propensity_N": EVALUATED}
    with pytest.raises(ValueError, match=named):
        estimate(**{**right, **changed})


def test_the_probability_of_a_prefix_is_the_product_down_to_it() -> None:
    assert prefix_propensities([[0.5, 0.5, 1.0], [0.1, 1.0, 1.0]]).tolist() == [[0.5, 0.25, 0.25], [0.1, 0.1, 0.1]]
    with pytest.raises(ValueError, match="conditional_BP: expected two dimensions, got 1"):
        prefix_propensities([0.5])
    with pytest.raises(ValueError, match=r"conditional_BP: expected numbers from 0 to 1, got 1\.5 at 3"):
        prefix_propensities([[0.5, 0.5], [0.5, 1.5]])


class Slates:
    """Every slate of three out of four items, with its chance under a logging and another policy."""

    items = np.array(list(permutations(range(4), 3)))
    logged_scores, other_scores = np.array([1.0, 0.0, 0.5, -1.0]), np.array([-1.0, 0.0, 0.2, 1.5])

    def __init__(self) -> None:
        self.logged, self.other = (
            np.array([plackett_luce_propensities(scores, slate, temperature=1.0) for slate in self.items])
            for scores in (self.logged_scores, self.other_scores)
        )
        self.chance, self.other_chance = self.logged.prod(axis=1), self.other.prod(axis=1)

    def marginals(self, chance: F64) -> F64:
        """Chance of each slate's item at its position, whatever stands above."""
        at_KP = np.array([[chance[self.items[:, p] == k].sum() for p in range(3)] for k in range(4)])
        return at_KP[self.items, np.arange(3)]

    def mean_of_ips(self, reward_BP: F64, logged_BP: F64, other_BP: F64) -> float:
        """What `ips` finds on average: each slate counts as often as it is logged."""
        often_BP = np.broadcast_to((self.chance * len(self.chance))[:, None], reward_BP.shape)
        return ips((reward_BP * often_BP).ravel(), logged_BP.ravel(), other_BP.ravel()).value


def test_all_slates_are_there_once() -> None:
    slates = Slates()
    assert slates.chance.sum() == pytest.approx(1) and slates.other_chance.sum() == pytest.approx(1)


def test_the_prefix_is_unbiased_where_readers_go_from_the_top_down() -> None:
    """A reward may depend on its item, its position and all that stands above."""
    slates = Slates()
    attraction = np.array([0.1, 0.5, 0.3, 0.8])[slates.items]
    went_on = np.cumprod(1 - attraction, axis=1) / (1 - attraction)
    reward = attraction * went_on
    truth = (slates.other_chance @ reward).mean()
    found = slates.mean_of_ips(reward, prefix_propensities(slates.logged), prefix_propensities(slates.other))
    assert found == pytest.approx(truth)
    for wrong in (slates.mean_of_ips(reward, slates.logged, slates.other), slates.chance @ reward.mean(axis=1)):
        assert abs(wrong - truth) > 0.01


def test_marginals_are_unbiased_where_a_reward_depends_on_item_and_position_alone() -> None:
    slates = Slates()
    reward = np.array([0.1, 0.5, 0.3, 0.8])[slates.items] * np.array([1.0, 0.6, 0.3])
    truth = (slates.other_chance @ reward).mean()
    other = slates.marginals(slates.other_chance)
    assert slates.mean_of_ips(reward, slates.marginals(slates.chance), other) == pytest.approx(truth)
    assert abs(slates.mean_of_ips(reward, slates.logged, other) - truth) > 0.01  # a conditional one is no marginal


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_position_by_itself_is_that_of_a_policy_that_chooses_there_alone(position: int) -> None:
    """Whatever the reward depends on: here on the whole slate."""
    slates = Slates()
    reward = np.random.default_rng(7).random(len(slates.items))
    mixed = slates.logged.copy()
    mixed[:, position] = slates.other[:, position]
    found = slates.mean_of_ips(reward[:, None], slates.logged[:, [position]], slates.other[:, [position]])
    assert found == pytest.approx(mixed.prod(axis=1) @ reward)


def test_in_many_replications_values_are_right_on_average_and_95_of_100_intervals_hold_the_truth() -> None:
    """400 people, some of whom like everything and some nothing, see five impressions each.

    Of 600 intervals 570 are to hold it; 551 to 589 is 3.5 standard errors around that. Who forgets that impressions of
    a person are alike is right less often.
    """
    n_people, n_each, n_items, n_times = 400, 5, 8, 600
    rng = np.random.default_rng(7)
    logged, other = rng.dirichlet(np.full(n_items, 5.0)), rng.dirichlet(np.full(n_items, 5.0))
    rates = rng.uniform(0.1, 0.4, n_items)
    truth = other @ rates
    person = np.repeat(np.arange(n_people), n_each)
    found: dict[str, list[Estimate]] = {"ips": [], "snips": [], "forgetful": []}
    for _ in range(n_times):
        shown = rng.choice(n_items, n_people * n_each, p=logged)
        likes = rng.choice([0.0, 2.0], n_people)[person]
        reward = (rng.random(len(shown)) < likes * rates[shown]).astype(np.float64)
        found["ips"].append(ips(reward, logged[shown], other[shown], person_N=person))
        found["snips"].append(snips(reward, logged[shown], other[shown], person_N=person))
        found["forgetful"].append(snips(reward, logged[shown], other[shown]))
    held = {name: sum(e.low <= truth <= e.high for e in estimates) for name, estimates in found.items()}
    for name in ("ips", "snips"):
        values = np.array([estimate.value for estimate in found[name]])
        assert abs(values.mean() - truth) < 3.5 * values.std() / math.sqrt(n_times)
        assert 551 <= held[name] <= 589
    assert held["forgetful"] < 551
