"""Policies made from a log of single impressions; and what Open Bandit's log says of policies whose truth is known."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.bench_off_policy import (
    campaign_of,
    coverage,
    judged,
    most_popular,
    read_log,
    smoothed_rates,
    softmax,
    uniform,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = [DATA / f"open_bandit_{name}.parquet" for name in ("impressions", "items")]

ITEMS = pa.table({"campaign": ["men", "men", "women", "women", "women"], "item_id": [0, 1, 0, 1, 2]})


def impressions(*rows: tuple[int, str, str, int, int, int]) -> pa.Table:
    ts_ms, policy, campaign, item, position, click = zip(*rows, strict=True)
    profile = {f"user_feature_{n}": ["x"] * len(rows) for n in range(4)}
    return pa.table(
        {
            "ts_ms": ts_ms,
            "policy": policy,
            "campaign": campaign,
            "item_id": item,
            "position": position,
            "click": click,
            "propensity": [0.5] * len(rows),
            **profile,
        }
    )


SHOWN = impressions(
    (4, "random", "men", 0, 2, 0),
    (3, "random", "men", 1, 1, 1),
    (2, "bts", "men", 0, 1, 0),
    (1, "random", "women", 2, 1, 0),
    (5, "random", "women", 1, 2, 1),
)


def test_a_log_is_of_one_policy_and_in_order_of_time():
    log = read_log(SHOWN, ITEMS, "random")
    assert log.item.tolist() == [4, 1, 0, 3]
    assert log.campaign.tolist() == [1, 0, 0, 1] and log.click.tolist() == [0, 1, 0, 1]
    assert log.take(slice(1, 3)).position.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"item_id: expected one of the items, got \('men', 7\)"):
        read_log(impressions((1, "random", "men", 7, 1, 0)), ITEMS, "random")


def test_every_campaign_has_a_distribution_of_its_own():
    campaign_K = campaign_of(ITEMS)
    rates_K = smoothed_rates(read_log(SHOWN, ITEMS, "random"), campaign_K)
    assert rates_K.tolist() == pytest.approx([50 / 101, 51 / 101, 0.5, 51 / 101, 50 / 101])
    for chance_K in (uniform(campaign_K), softmax(rates_K, campaign_K, 1.0), softmax(rates_K, campaign_K, 0.01)):
        assert np.bincount(campaign_K, chance_K).tolist() == pytest.approx([1, 1])
    even = softmax(np.full(5, 0.3), campaign_K, 0.25)
    assert even.tolist() == pytest.approx([1 / 2] * 2 + [1 / 3] * 3)
    assert uniform(campaign_K).tolist() == [1 / 2] * 2 + [1 / 3] * 3
    odds = rates_K / (1 - rates_K)
    assert softmax(rates_K, campaign_K, 0.5)[:2].tolist() == pytest.approx(odds[:2] ** 2 / (odds[:2] ** 2).sum())


def test_the_most_popular_is_that_of_its_campaign_and_position():
    first = impressions(
        (1, "random", "men", 0, 1, 0),
        (2, "random", "men", 1, 1, 1),
        (3, "random", "men", 0, 2, 1),
        (4, "random", "men", 1, 2, 0),
        (5, "random", "women", 0, 1, 0),
        (6, "random", "women", 2, 1, 1),
        (7, "random", "women", 1, 2, 1),
        (8, "random", "women", 2, 2, 0),
    )
    asked = impressions(
        *((n, "random", "men", n % 2, 1 + n // 2, 0) for n in range(4)), (9, "random", "women", 1, 2, 0)
    )
    chosen = most_popular(read_log(first, ITEMS, "random"), campaign_of(ITEMS), read_log(asked, ITEMS, "random"))
    assert chosen.tolist() == [0, 1, 1, 0, 1]


def test_simulated_coverage_counts_every_way_of_making_an_interval():
    rows = coverage(n_times=2)
    assert all(0 <= share <= 1 for row in rows for share in row["held"].values())
    assert rows[0]["n_rewarded"] > 10 * rows[2]["n_rewarded"] > 0


@pytest.mark.skipif(not all(path.exists() for path in FILES), reason="the Open Bandit files are not there")
def test_on_open_bandit_the_logging_policy_earns_its_mean_and_another_log_agrees():
    shown, items = (pq.read_table(path) for path in FILES)
    rows = {(row["policy"], row["log"], row["estimator"]): row for row in judged(shown, items)}
    own = read_log(shown, items, "random")
    for estimator in ("IPS", "SNIPS"):
        on_policy = rows["uniform", "its own", estimator]
        assert on_policy["value"] == pytest.approx(own.click.mean())
        assert (on_policy["n_effective"], on_policy["n_rewarded"]) == (pytest.approx(len(own)), int(own.click.sum()))
        other = rows["uniform", "Thompson's", estimator]
        assert other["low"] < own.click.mean() < other["high"]
        assert other["n_effective"] < 100  # a few propensities of 10^-6 outweigh all others
        greedy = rows["most popular by position", "second half", estimator]
        assert greedy["n_rewarded"] < 10 and (greedy["high"] is None or greedy["high"] > 2 * greedy["value"])
    for row in rows.values():
        assert row["high"] is None or row["low"] <= row["value"] <= row["high"]
