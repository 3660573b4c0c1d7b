"""What would other policies earn on Open Bandit, and how well can 60,000 impressions tell?

    python -m benchmarks.bench_off_policy IMPRESSIONS ITEMS [--coverage] [--json [FILE]]

Half of the impressions were drawn uniformly, half by Thompson sampling, both with the propensity of the item at its
position. Estimated are clicks an impression, by IPS and SNIPS with 95 % intervals:

- uniform from its own log, which must be the mean that was observed;
- uniform from Thompson sampling's log, whose truth is known: it was run;
- on the second half of the uniform log, policies made from the first: the item of the best smoothed click rate at each
  position, and softmax over the items' smoothed click rates.

People are not told. Whoever shares all four user features counts as one, which keeps a person's impressions together as
long as the features stay.
With --coverage, also how often an interval holds the truth where that is known, beside a bootstrap and plain ±: in
simulations of uniform logs with few rewards.

NOT shown: slates (the log holds single impressions, and propensities whatever stood above); what a policy that learns
on would earn; which of two policies is better (their intervals come from the same clicks).
Source: Saito et al., NeurIPS 2021 datasets and benchmarks (the data, CC BY 4.0).
"""

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import machine
from learners.metrics import F64, I64, People
from learners.off_policy import NORMAL_95, Estimate, ips, snips
from learners.policies import plackett_luce_propensities

PRIOR: Final = 100.0  # impressions' worth of the campaign's mean rate; an item has about 90 in half of the uniform log
TEMPERATURES: Final = (1.0, 0.25)
CLIP: Final = 10.0
FEW_CLICKS: Final = 10  # with fewer an interval is an order of magnitude
FEW_EFFECTIVE: Final = 100  # so it is with fewer impressions that count: a handful outweighs all others
ESTIMATORS: Final = {"IPS": ips, "SNIPS": snips}
N_TIMES: Final = 300


@dataclass(frozen=True, slots=True)
class Log:
    """Impressions in order of time, `[N]` each."""

    campaign: I64
    item: I64  # row of the table of items
    position: I64
    click: F64
    propensity: F64
    person: npt.NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.item)

    def take(self, which: Any) -> "Log":
        """Those of a slice or mask."""
        return Log(*(getattr(self, name)[which] for name in self.__slots__))


def read_log(impressions: pa.Table, items: pa.Table, policy: str) -> Log:
    """What one policy showed.

    Raises:
        ValueError: If an impression is of an item that the table of items lacks.
    """
    impressions = impressions.filter(pc.equal(impressions["policy"], policy)).sort_by("ts_ms")
    campaigns = sorted(set(items["campaign"].to_pylist()))
    rows = {
        key: row
        for row, key in enumerate(zip(items["campaign"].to_pylist(), items["item_id"].to_pylist(), strict=True))
    }
    shown = list(zip(impressions["campaign"].to_pylist(), impressions["item_id"].to_pylist(), strict=True))
    unknown = set(shown) - set(rows)
    if unknown:
        raise ValueError(f"item_id: expected one of the items, got {min(unknown)}")
    profiles = zip(*(impressions[f"user_feature_{n}"].to_pylist() for n in range(4)), strict=True)
    return Log(
        np.array([campaigns.index(campaign) for campaign, _ in shown]),
        np.array([rows[key] for key in shown]),
        impressions["position"].to_numpy().astype(np.int64),
        impressions["click"].to_numpy().astype(np.float64),
        impressions["propensity"].to_numpy(),
        np.array(["|".join(profile) for profile in profiles]),
    )


def campaign_of(items: pa.Table) -> I64:
    """Number of each item's campaign."""
    return np.unique(np.array(items["campaign"].to_pylist()), return_inverse=True)[1].astype(np.int64)


def uniform(campaign_K: I64) -> F64:
    """The chance of each item where all of its campaign are alike."""
    return 1.0 / np.bincount(campaign_K)[campaign_K]


def smoothed_rates(log: Log, campaign_K: I64) -> F64:
    """Clicks an impression of each item, with `PRIOR` impressions of its campaign's mean."""
    mean = np.bincount(log.campaign, log.click) / np.bincount(log.campaign)
    clicks_K, shown_K = (np.bincount(log.item, of, len(campaign_K)) for of in (log.click, np.ones(len(log))))
    return (clicks_K + PRIOR * mean[campaign_K]) / (shown_K + PRIOR)


def softmax(rates_K: F64, campaign_K: I64, temperature: float) -> F64:
    """The chance of each item to be drawn first of its campaign, by the logits of the rates."""
    logits_K = np.log(rates_K / (1 - rates_K))
    chance_K = np.empty_like(logits_K)
    for campaign in np.unique(campaign_K):
        own = np.flatnonzero(campaign_K == campaign)
        chance_K[own] = [
            plackett_luce_propensities(logits_K[own], np.array([k]), temperature=temperature)[0]
            for k in range(len(own))
        ]
    return chance_K


def most_popular(first: Log, campaign_K: I64, log: Log) -> F64:
    """1 where the impression is of the item that had the best smoothed rate at its position in `first`, else 0."""
    chance_N = np.zeros(len(log))
    for position in np.unique(log.position):
        rates_K = smoothed_rates(first.take(first.position == position), campaign_K)
        for campaign in np.unique(campaign_K):
            best = int(np.argmax(np.where(campaign_K == campaign, rates_K, -1.0)))
            chance_N[(log.position == position) & (log.item == best)] = 1.0
    return chance_N


def judged(impressions: pa.Table, items: pa.Table) -> list[dict[str, Any]]:
    """Every policy by every estimator."""
    campaign_K = campaign_of(items)
    own, thompson = (read_log(impressions, items, policy) for policy in ("random", "bts"))
    even_K = uniform(campaign_K)
    first, second = own.take(slice(len(own) // 2)), own.take(slice(len(own) // 2, None))
    rates_K = smoothed_rates(first, campaign_K)
    asked: list[tuple[str, str, Log, F64, float | None]] = [
        ("uniform", "its own", own, even_K[own.item], None),
        ("uniform", "Thompson's", thompson, even_K[thompson.item], None),
        (f"uniform, weights clipped at {CLIP:g}", "Thompson's", thompson, even_K[thompson.item], CLIP),
        ("uniform", "second half", second, even_K[second.item], None),
        ("most popular by position", "second half", second, most_popular(first, campaign_K, second), None),
    ]
    for temperature in TEMPERATURES:
        chance_K = softmax(rates_K, campaign_K, temperature)
        asked.append((f"softmax, temperature {temperature:g}", "second half", second, chance_K[second.item], None))
    return [
        {"policy": policy, "log": source, "estimator": name, **_judge(estimate, log, evaluated_N, clip)}
        for policy, source, log, evaluated_N, clip in asked
        for name, estimate in ESTIMATORS.items()
    ]


def _judge(estimate: Any, log: Log, evaluated_N: F64, clip: float | None) -> dict[str, Any]:
    found: Estimate = estimate(log.click, log.propensity, evaluated_N, person_N=log.person, clip=clip)
    factor = found.high / found.value if found.value else math.inf
    return {
        **asdict(found),
        "high": found.high if math.isfinite(found.high) else None,
        "n": len(log),
        "n_for_tenth": len(log) * (math.log(factor) / math.log(1.1)) ** 2 if math.isfinite(factor) else None,
    }


def coverage(n_times: int = N_TIMES) -> list[dict[str, Any]]:
    """How many of `n_times` intervals hold the truth, by how they are made; uniform logs over 80 items."""
    rng = np.random.default_rng(7)
    skew_K = rng.normal(size=80)
    uneven_K, single_K = np.exp(skew_K) / np.exp(skew_K).sum(), (np.arange(80) == 3).astype(np.float64)
    cases = (
        ("uneven", uneven_K, 0.1),
        ("uneven", uneven_K, 0.01),
        ("uneven", uneven_K, 0.004),
        ("a single item", single_K, 0.1),
        ("a single item", single_K, 0.02),
    )
    return [_covered(name, evaluated_K, rate, n_times, rng) for name, evaluated_K, rate in cases]


def _covered(name: str, evaluated_K: F64, rate: float, n_times: int, rng: np.random.Generator) -> dict[str, Any]:
    """One policy at one mean click rate, 2,000 people who see two impressions each."""
    rates_K = np.exp(rng.normal(0, 0.7, 80))
    rates_K *= rate / rates_K.mean()
    truth, person = float(evaluated_K @ rates_K), np.repeat(np.arange(2000), 2)
    held = {"ours": 0, "SNIPS, ours": 0, "plain ±": 0, "bootstrap": 0}
    n_rewarded = 0
    for _ in range(n_times):
        item = rng.integers(0, 80, len(person))
        click = (rng.random(len(person)) < rates_K[item]).astype(np.float64)
        given = (click, np.full(len(person), 1 / 80), evaluated_K[item])
        found, normalised = ips(*given, person_N=person), snips(*given, person_N=person)
        earned = click * evaluated_K[item] * 80
        error = np.bincount(person, earned / 2).std(ddof=1) / math.sqrt(2000)
        held["ours"] += found.low <= truth <= found.high
        held["SNIPS, ours"] += normalised.low <= truth <= normalised.high
        held["plain ±"] += abs(found.value - truth) <= NORMAL_95 * error
        _, low, high = People(person, seed=int(rng.integers(2**31))).interval(earned)
        held["bootstrap"] += low <= truth <= high
        n_rewarded += found.n_rewarded
    shares = {way: int(times) / n_times for way, times in held.items()}
    return {"policy": name, "rate": rate, "n_rewarded": n_rewarded / n_times, "held": shares}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Estimate everything; returns what is reported."""
    impressions, items = pq.read_table(options.impressions), pq.read_table(options.items)
    return {
        "what": "off-policy estimates on Open Bandit",
        "machine": machine.facts(),
        "settings": {"prior": PRIOR, "temperatures": TEMPERATURES, "clip": CLIP},
        "n_impressions": impressions.num_rows,
        "n_clicks": int(pc.sum(impressions["click"]).as_py()),
        "rows": judged(impressions, items),
        "coverage": coverage() if options.coverage else None,
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(
        f"{machine.describe(found['machine'])}\n\n{found['n_impressions']:,} impressions, {found['n_clicks']} clicks\n"
    )
    header = ("policy", "log", "by", "clicks per 1,000 [95 %]", "clicks that count", "effective", "needed for ±10 %")
    rows = [
        [
            row["policy"],
            row["log"],
            row["estimator"],
            _text(row),
            row["n_rewarded"],
            f"{row['n_effective']:,.0f}",
            _needed(row),
        ]
        for row in found["rows"]
    ]
    print(machine.table(header, rows))
    few = [row for row in found["rows"] if row["n_rewarded"] < FEW_CLICKS or row["n_effective"] < FEW_EFFECTIVE]
    names = dict.fromkeys(f"{row['policy']} from {row['log']}" for row in few)
    print("\n'needed' counts impressions of this log. An order of magnitude and no more, as fewer than")
    print(f"{FEW_CLICKS} clicks or {FEW_EFFECTIVE} effective impressions tell of it: {'; '.join(names) or 'none'}")
    if found["coverage"]:
        print("\nshare of intervals that hold the truth, uniform logs of 4,000 impressions in simulation")
        ways = tuple(found["coverage"][0]["held"])
        cases = [
            [
                row["policy"],
                f"{row['rate']:g}",
                f"{row['n_rewarded']:.1f}",
                *(f"{row['held'][way]:.1%}" for way in ways),
            ]
            for row in found["coverage"]
        ]
        print(machine.table(("policy", "click rate", "clicks that count", *ways), cases))


def _text(row: dict[str, Any]) -> str:
    high = "∞" if row["high"] is None else f"{1000 * row['high']:.2f}"
    return f"{1000 * row['value']:.2f} [{1000 * row['low']:.2f}, {high}]"


def _needed(row: dict[str, Any]) -> str:
    return "∞" if row["n_for_tenth"] is None else f"{row['n_for_tenth']:,.0f}"


def main() -> None:
    """Estimate and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_off_policy", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("impressions", type=Path, help="Parquet of Open Bandit: policy, item_id, position, click, …")
    parser.add_argument("items", type=Path, help="Parquet: campaign, item_id")
    parser.add_argument("--coverage", action="store_true", help="also simulate how often intervals hold the truth")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
