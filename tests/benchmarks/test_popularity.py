"""Expectations over items by rank: closed forms, a plain sum, and what draws really do."""

import math

import numpy as np
import pytest

from benchmarks.popularity import Popularity


@pytest.mark.parametrize("n_items", [1, 10, 1_000, 1_001, 10**8])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_shares_of_all_items_add_up_to_one(n_items: int, exponent: float):
    popularity = Popularity(n_items, exponent)
    assert popularity.counts.sum() == pytest.approx(n_items)
    assert popularity.counts @ popularity.shares == pytest.approx(1.0)


def test_equal_items_are_met_as_in_the_birthday_problem():
    assert Popularity(1e6, 0.0).distinct(1e6) == pytest.approx(1e6 * (1 - 1 / math.e))


@pytest.mark.parametrize("n_draws", [10.0, 1e3, 1e5])
def test_bins_give_what_every_single_item_gives(n_draws: float):
    weights = np.arange(1, 50_001) ** -1.1
    shares = weights / weights.sum()
    assert Popularity(50_000, 1.1).distinct(n_draws) == pytest.approx((1 - np.exp(-n_draws * shares)).sum(), rel=1e-3)


def test_draws_meet_as_many_as_expected():
    rng, weights = np.random.default_rng(7), 1.0 / np.arange(1, 5_001)
    drawn = rng.choice(5_000, size=(50, 2_000), p=weights / weights.sum())
    seen = np.mean([len(set(some)) for some in drawn.tolist()])
    assert Popularity(5_000, 1.0).distinct(2_000) == pytest.approx(seen, rel=0.02)


def test_draws_until_undoes_distinct():
    popularity = Popularity(1e6, 1.0)
    assert popularity.distinct(popularity.draws_until(2e5)) == pytest.approx(2e5)
    assert popularity.draws_until(1e6) == math.inf


def test_an_item_asked_for_and_written_alike_is_reread_every_other_time():
    """Of one item with a = w: a w / (a + w) = a / 2; what is never written is never read again."""
    one = Popularity(1, 0.0)
    assert one.rereads_per_s(10.0, 10.0) == pytest.approx(5.0)
    assert one.rereads_per_s(10.0, 0.0) == 0.0


def test_rereads_are_what_happens_to_a_row_by_chance():
    """A row that is asked for 3 times and written twice a second, at random: reads that find it written since."""
    rng = np.random.default_rng(7)
    is_ask = rng.random(100_000) < 3 / 5
    n_reads = np.count_nonzero(is_ask[1:] & ~is_ask[:-1])  # the first question after a write
    seconds = len(is_ask) / 5
    assert Popularity(1, 0.0).rereads_per_s(3.0, 2.0) == pytest.approx(n_reads / seconds, rel=0.02)
