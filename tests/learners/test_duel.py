"""A duel finds who is worse soon, and hardly ever one who is not."""

import numpy as np
import pytest

from learners.duel import Duel, DuelConfig


def batches(rng: np.random.Generator, n: int, mean: float, spread: float = 0.15) -> list[float]:
    """Differences of mean losses."""
    found: list[float] = rng.normal(mean, spread, n).tolist()
    return found


def alarm(duel: Duel, differences: list[float]) -> int | None:
    """Number of the batch with which the alarm comes."""
    return next((n for n, one in enumerate(differences) if duel.add(one)), None)


def test_who_is_worse_is_found_the_sooner_the_worse() -> None:
    took = []
    for mean in (0.04, 0.1, 0.4):
        each = [alarm(Duel(DuelConfig()), batches(np.random.default_rng(seed), 5000, mean, 0.15)) for seed in range(20)]
        took.append(float(np.median([n for n in each if n is not None])))
        assert None not in each
    assert took[0] < 1500 and took[1] < 400 and took[2] < 120 and took == sorted(took, reverse=True)


def test_a_change_is_found_as_soon_after_a_long_time_as_after_none() -> None:
    rng = np.random.default_rng(1)
    late = Duel(DuelConfig())
    assert alarm(late, batches(rng, 20_000, -0.1)) is None
    found = alarm(late, batches(rng, 1000, 0.1))
    assert found is not None and found < 500


@pytest.mark.parametrize("spread", [0.05, 0.15, 0.6])
def test_false_alarms_are_as_rare_as_is_said(spread: float) -> None:
    """At the very bound of what is tolerated: about one in a thousand batches on the average."""
    config = DuelConfig(tolerance=0.02, alarms=1e-3)
    rng, waited = np.random.default_rng(7), []
    for _ in range(60):
        found = alarm(Duel(config), batches(rng, 20_000, 0.02, spread))
        waited.append(20_000 if found is None else found)
    assert np.mean(waited) > 800


def test_who_is_as_good_or_better_is_left_in_peace() -> None:
    rng = np.random.default_rng(3)
    for mean in (0.0, -0.05):
        assert alarm(Duel(DuelConfig()), batches(rng, 100_000, mean)) is None


def test_what_is_not_finite_loses_and_one_batch_does_not_decide() -> None:
    duel = Duel(DuelConfig())
    assert not duel.add(float("nan")) and not duel.add(float("inf"))
    found = alarm(Duel(DuelConfig()), [float("nan")] * 200)
    assert found is not None and 5 < found < 80


@pytest.mark.parametrize(("field", "value"), [("tolerance", -0.1), ("alarms", 0.0), ("alarms", 0.5)])
def test_a_config_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"duel.{field}"):
        DuelConfig(**{field: value})
