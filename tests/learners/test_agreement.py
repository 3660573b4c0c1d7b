"""Whose labels say the opposite is told, and nobody else; alone, or as the majority, nobody is."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from learners.agreement import N_SOURCES, Agreement, AgreementConfig, agreements

F64 = NDArray[np.float64]
CONFIG: Final = AgreementConfig()
HONEST, WRONG = 0.7, 0.3

scores = arrays.arrays(np.float64, (5, 6), elements=st.integers(-9, 9).map(float))
labels = arrays.arrays(np.bool_, (5, 6))


def of(scores: list[float], *rewarded: int) -> float:
    """Agreement of one slate."""
    is_rewarded = np.isin(np.arange(len(scores)), rewarded)[None]
    return float(agreements(np.array([scores]), is_rewarded, np.ones((1, len(scores)), dtype=bool))[0])


def test_of_a_perfect_order_it_is_one_of_its_reverse_none_and_of_ties_a_half() -> None:
    assert of([4.0, 3.0, 2.0, 1.0], 0) == of([4.0, 3.0, 2.0, 1.0], 0, 1) == 1.0
    assert of([4.0, 3.0, 2.0, 1.0], 3) == of([4.0, 3.0, 2.0, 1.0], 2, 3) == 0.0
    assert of([1.0, 1.0, 1.0], 1) == of([np.nan, 1.0, 2.0], 0) == 0.5
    assert of([2.0, 2.0, 1.0], 0) == 0.75


def test_a_slate_without_a_pair_says_nothing() -> None:
    assert np.isnan([of([1.0, 2.0]), of([1.0, 2.0], 0, 1), of([1.0], 0)]).all()
    is_first = np.array([[True, False, False, False]])
    assert np.isnan(agreements(np.arange(4.0)[None], is_first, is_first))
    assert agreements(np.array([[3.0, 4.0, 2.0, 9.0]]), is_first, np.array([[True, False, True, False]])) == 1.0


@given(scores, labels, labels)
def test_it_does_not_change_with_the_scale_of_scores_and_turns_with_the_labels(
    scores_BK: F64, is_rewarded_BK: NDArray[np.bool_], mask_BK: NDArray[np.bool_]
) -> None:
    found_B = agreements(scores_BK, is_rewarded_BK, mask_BK)
    np.testing.assert_array_equal(agreements(np.exp(scores_BK) + 3.0, is_rewarded_BK, mask_BK), found_B)
    np.testing.assert_allclose(agreements(scores_BK, ~is_rewarded_BK, mask_BK), 1.0 - found_B)
    np.testing.assert_allclose(agreements(-scores_BK, is_rewarded_BK, mask_BK), 1.0 - found_B)
    assert ((found_B >= 0.0) & (found_B <= 1.0) | np.isnan(found_B)).all()


def live(
    agreement: Agreement, rng: np.random.Generator, n_batches: int, shares: Mapping[str | None, tuple[float, float]]
) -> dict[str, int]:
    """Batches of forty slates; whoever is told, in which of them.

    Args:
        shares: By source: its share of the slates, and its mean agreement.
    """
    sources, means = list(shares), np.array([mean for _, mean in shares.values()])
    told: dict[str, int] = {}
    for number in range(n_batches):
        which = rng.choice(len(sources), 40, p=[share for share, _ in shares.values()])
        agreement_B = rng.beta(2.0 * means[which], 2.0 * (1.0 - means[which]))
        agreement_B[rng.random(40) < 0.3] = np.nan
        agreement.add([sources[at] for at in which], agreement_B)
        told |= dict.fromkeys(agreement.take_told(), number)
    return told


def test_who_says_the_opposite_is_told_soon_and_who_does_not_never_is() -> None:
    took, n_wrong = [], 0
    for seed in range(40):
        rng, agreement = np.random.default_rng(seed), Agreement(CONFIG)
        shares = {"a": (0.4, HONEST), None: (0.3, HONEST), "bad": (0.2, WRONG), "weak": (0.1, 0.5)}
        told = live(agreement, rng, 300, shares)
        n_wrong += len(set(told) - {"bad"})
        took.append(told["bad"])
    assert n_wrong == 0 and np.median(took) < 80 and max(took) < 150


def test_who_told_the_truth_for_long_is_found_as_soon_and_the_reason_is_of_then() -> None:
    rng, agreement = np.random.default_rng(3), Agreement(CONFIG)
    assert live(agreement, rng, 2000, {"a": (0.4, HONEST), None: (0.4, HONEST), "b": (0.2, HONEST)}) == {}
    for _ in range(300):
        n_before = agreement.figures()["b"]["slates"]
        agreement.add(["a", "a", None, None, "b"], np.array([HONEST, 0.9, 0.6, HONEST, WRONG - 0.1]))
        told = agreement.take_told()
        if told:
            break
    assert "agreement 0.20 over" in told["b"] and "others 0.7" in told["b"]
    assert agreement.figures()["b"]["slates"] == n_before + 1


@pytest.mark.parametrize(
    "shares",
    [
        {"bad": (1.0, WRONG)},
        {"bad": (0.6, WRONG), "good": (0.4, HONEST)},
        {"bad": (0.3, WRONG), "too": (0.3, WRONG), "good": (0.4, HONEST)},
        {"bad": (0.2, WRONG), "good": (0.8, 0.5)},
        {None: (0.6, WRONG), "good": (0.4, HONEST)},
        {"bad": (0.5, WRONG), "too": (0.5, 0.2)},
    ],
    ids=["alone", "majority", "majority of two", "a model that knows nothing", "who names no source", "all"],
)
def test_where_nobody_can_say_who_is_right_nobody_is_told(shares: dict[str | None, tuple[float, float]]) -> None:
    for seed in range(10):
        assert live(Agreement(CONFIG), np.random.default_rng(seed), 400, shares) == {}


def test_a_majority_that_the_model_came_to_believe_does_not_speak_against_the_others() -> None:
    rng, agreement = np.random.default_rng(5), Agreement(CONFIG)
    assert live(agreement, rng, 500, {"most": (0.6, HONEST), "few": (0.4, HONEST)}) == {}
    assert live(agreement, rng, 200, {"most": (0.6, WRONG), "few": (0.4, HONEST)}) == {}
    assert agreement.figures()["most"]["in_doubt"] and not agreement.figures()["few"]["in_doubt"]
    assert live(agreement, rng, 500, {"most": (0.6, HONEST), "few": (0.4, WRONG)}) == {}
    agreement.forget("most")
    assert "few" in live(agreement, rng, 500, {"most": (0.6, HONEST), "few": (0.4, WRONG)})


def test_who_is_forgotten_and_behaves_is_not_told_again_and_who_does_not_behave_is() -> None:
    rng, agreement = np.random.default_rng(7), Agreement(CONFIG)
    bad, good = ({"a": (0.8, HONEST), "b": (0.2, mean)} for mean in (WRONG, HONEST))
    assert set(live(agreement, rng, 200, bad)) == {"b"}
    assert live(agreement, rng, 200, bad) == {}
    agreement.forget("b")
    assert live(agreement, rng, 1000, good) == {}
    assert agreement.figures()["b"]["agreement"] == pytest.approx(HONEST, abs=0.03)
    assert set(live(agreement, rng, 200, bad)) == {"b"}


def test_sources_beyond_the_bound_are_seen_as_if_they_named_none() -> None:
    agreement, rng = Agreement(CONFIG), np.random.default_rng(9)
    names = [f"s{n}" for n in range(N_SOURCES)]
    for _ in range(20):
        agreement.add(names, np.full(N_SOURCES, HONEST))
    for _ in range(200):
        agreement.add([*names, "beyond"], np.append(np.full(N_SOURCES, HONEST), WRONG))
    assert set(agreement.figures()) == set(names) and agreement.take_told() == {}
    for number in range(20_000):  # made-up names take no place of those that are seen often
        agreement.add(["s0", "s1", f"made up {number}"], rng.random(3) * 0.5 + 0.5)
    assert len(agreement) == N_SOURCES and {"s0", "s1"} < set(agreement.figures())


def test_one_source_that_no_longer_tells_anything_makes_room_for_another() -> None:
    agreement = Agreement(CONFIG)
    agreement.add([f"s{n}" for n in range(N_SOURCES)], np.full(N_SOURCES, HONEST))
    agreement.add(["s0", "new"], np.full(2, HONEST))
    assert {"s0", "new"} < set(agreement.figures()) and len(agreement) == N_SOURCES


@pytest.mark.parametrize("value", [-1.0, 1e6])
def test_a_config_out_of_range_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"sources\.sigmas"):
        AgreementConfig(sigmas=value)
