"""What are seconds worth when the world changes: after a swap of popularity, a turn of tastes, the launch of an item?

    python -m benchmarks.bench_drift [--seeds 5] [--changes swap,tastes,launch] [--config benchmarks/simulated.toml]
                                     [--json [FILE]] [--plot FILE.png]

Simulated streams (`benchmarks.simulator`), lived through as `headrace evaluate` does, with copies whose weights are
published every 1 s, 1 min or 1 h or stopped at the change (`benchmarks.refreshing`); their counters and people's states
are live. The change comes after fifty minutes, in the middle between two refreshes of an hour; the first of these came
after twenty. Beside them popularity without a network, at the half-life that was best on these very queries.

*Recovered* is when the mean over the latest `WINDOW` queries since the change, those of all seeds together in the order
of their time since then, first reaches

    after + 0.9 (steady - after)

where `after` is the mean of everything live over the first `WINDOW` queries, and `steady` its mean over the last ten
minutes: one mark for all, so a way of ranking that is worse in the long run may never reach it. Intervals: seeds drawn
with replacement. After a launch the item asked for is always the launched one. Beside these, when the learner noticed
that something had changed (`learners.drift`). In the first minutes popularity comes to know the items, and that is a
change too.

NOT shown: real changes, which are smaller; nor what a learner's lag adds to the period of publishing.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

import benchmarks
from benchmarks import machine, plotting
from benchmarks.rankers.popularity import popularity_scores
from benchmarks.rankers.stream import as_stream
from benchmarks.refreshing import LIVE, Every, Line, Until, scores_of
from benchmarks.simulator import CHANGES, Change, SimulatorConfig, simulate
from deployments.config import Config, load_config
from learners.answers import true_columns
from learners.metrics import F64, reciprocal_ranks

LIVE_NAME: Final = "everything live"
POPULARITY: Final = "popularity, no network"
PERIODS: Final = {"1 s": 1000, "1 min": 60_000, "1 h": 3_600_000}
HALF_LIVES_S: Final = (30.0, 120.0, 600.0, 1800.0)
WINDOW: Final = 500  # queries; 0.02 is the standard error of their mean
BEFORE_S: Final = 60.0
STEADY_S: Final = 600.0
SHARE: Final = 0.9
N_RESAMPLES: Final = 300


class Outcome(NamedTuple):
    """What one seed gave: when queries were asked, after the change, and how each way of ranking did."""

    since_s: F64
    ranks: dict[str, F64]
    """Reciprocal ranks by way of ranking."""
    alarms_s: Sequence[float] = ()
    """When the learner noticed a drift, after the change."""


def lines_of(change_ms: int) -> dict[str, Line]:
    """Everything live, weights that lag, and weights that stop."""
    late = {f"weights every {name}": Line(weights=Every(period_ms)) for name, period_ms in PERIODS.items()}
    return {LIVE_NAME: LIVE, **late, "weights stopped at the change": Line(weights=Until(change_ms))}


def live_through(change: Change, world: SimulatorConfig, config: Config, seed: int) -> Outcome:
    """One seed of one change."""
    stream = simulate(change, world, seed)
    true = true_columns(stream.queries)
    alarmed_ms: set[float] = set()
    scores = scores_of(
        *(lines_of(world.change_ms), stream.events, stream.queries, config),
        watch=lambda live: alarmed_ms.add(live.metrics["drifted_ms"]),
    )
    alarms_s = [(at_ms - world.change_ms) / 1000.0 for at_ms in sorted(alarmed_ms - {0.0})]
    ranks = {name: reciprocal_ranks(found, true) for name, found in scores.items()}
    numbered = as_stream(stream.events, stream.queries)
    alone = [reciprocal_ranks(popularity_scores(numbered, half_life_s), true) for half_life_s in HALF_LIVES_S]
    since_s = (stream.queries["ts_ms"].to_numpy() - world.change_ms) / 1000.0
    ranks[POPULARITY] = max(alone, key=lambda found: float(found[since_s >= 0].mean()))
    return Outcome(since_s, ranks, alarms_s)


def judged(outcomes: Sequence[Outcome], n_window: int = WINDOW) -> dict[str, Any]:
    """Levels and times of recovery by way of ranking, with intervals over the seeds."""
    found = recovery(outcomes, n_window)
    rng = np.random.default_rng(7)
    drawn = [
        recovery([outcomes[n] for n in rng.integers(len(outcomes), size=len(outcomes))], n_window)
        for _ in range(N_RESAMPLES)
    ]
    for name, row in found.items():
        others = [resample[name]["recovered_s"] for resample in drawn]
        row["recovered_low_s"], row["recovered_high_s"] = np.percentile(others, [2.5, 97.5], method="nearest").tolist()
    return found


def recovery(outcomes: Sequence[Outcome], n_window: int) -> dict[str, dict[str, float]]:
    """For each way of ranking: MRR@10 in the minute before, in the first window after, in the last ten minutes, and the
    seconds until it has recovered; infinite if it never does, NaN if nothing was lost."""
    since_s = np.concatenate([outcome.since_s for outcome in outcomes])
    order = np.argsort(since_s, kind="stable")
    since_s = since_s[order]
    is_after, end_s = since_s >= 0, float(since_s[-1])
    levels: dict[str, dict[str, float]] = {}
    target = math.nan
    for name in outcomes[0].ranks:
        ranks = np.concatenate([outcome.ranks[name] for outcome in outcomes])[order]
        latest = _latest(ranks[is_after], n_window)
        before = ranks[(since_s >= -BEFORE_S) & ~is_after]
        steady = float(ranks[since_s >= end_s - STEADY_S].mean())
        if name == LIVE_NAME:
            target = latest[0] + SHARE * (steady - latest[0]) if latest[0] < steady else math.nan
        levels[name] = {
            "before": float(before.mean()) if len(before) else math.nan,
            "after": float(latest[0]),
            "steady": steady,
            "recovered_s": _first(since_s[is_after][n_window - 1 :], latest, target),
        }
    return levels


def _latest(ranks: F64, n_window: int) -> F64:
    """Mean of the latest `n_window` values, at each from the first full window on."""
    summed = np.concatenate([[0.0], np.cumsum(ranks)])
    means: F64 = (summed[n_window:] - summed[:-n_window]) / n_window
    return means


def _first(times_s: F64, values: F64, target: float) -> float:
    """When the values first reach the target."""
    if math.isnan(target):
        return math.nan
    reached = np.flatnonzero(values >= target)
    return float(times_s[reached[0]]) if len(reached) else math.inf


def curves(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """MRR@10 by time since the change, in steps that grow by a fifth."""
    since_s = np.concatenate([outcome.since_s for outcome in outcomes])
    edges_s = np.geomspace(2.0, since_s.max(), 40)
    place = np.digitize(since_s, edges_s)
    is_seen = np.bincount(place[since_s >= 0], minlength=41)[1:40] > 0
    series = {}
    for name in outcomes[0].ranks:
        ranks = np.concatenate([outcome.ranks[name] for outcome in outcomes])
        series[name] = [float(ranks[place == n].mean()) for n in 1 + np.flatnonzero(is_seen)]
    return {"times_s": np.sqrt(edges_s[:-1] * edges_s[1:])[is_seen].tolist(), "series": series}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every change with every seed."""
    config, world = load_config(options.config), SimulatorConfig()
    began_s = time.monotonic()
    found: dict[str, Any] = {"changes": {}, "curves": {}, "alarms_s": {}}
    for change in options.changes:
        outcomes = []
        for seed in range(options.seeds):
            print(f"{change}, seed {seed}, {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
            outcomes.append(live_through(change, world, config, seed))
        found["changes"][change] = judged(outcomes)
        found["curves"][change] = curves(outcomes)
        found["alarms_s"][change] = [outcome.alarms_s for outcome in outcomes]
    return {
        "what": "recovery after a change",
        "machine": machine.facts(),
        "settings": {"seeds": options.seeds, "window": WINDOW, "clicks_per_s": world.clicks_per_s},
        "took_s": time.monotonic() - began_s,
        **found,
    }


def report(found: dict[str, Any]) -> None:
    """Print a table for each change."""
    print(f"\n{machine.describe(found['machine'])}; {found['took_s']:.0f} s, {found['settings']['seeds']} seeds")
    for change, rows in found["changes"].items():
        header = (change, "minute before", f"first {WINDOW} queries", "last 10 min", "recovered after, s [95 %]")
        cells = [
            [name, *(_level(row[level]) for level in ("before", "after", "steady")), _time(row)]
            for name, row in rows.items()
        ]
        print(f"\n{machine.table(header, cells)}")
        print(f"drifts noticed, seconds after the change, by seed: {_alarms(found['alarms_s'][change])}")


def _alarms(by_seed: Sequence[Sequence[float]]) -> str:
    return "; ".join(", ".join(f"{at_s:.0f}" for at_s in alarms_s) or "none" for alarms_s in by_seed)


def _level(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _time(row: dict[str, float]) -> str:
    if math.isnan(row["recovered_s"]):
        return "nothing was lost"
    at, low, high = (
        "never" if math.isinf(row[name]) else f"{row[name]:.0f}"
        for name in ("recovered_s", "recovered_low_s", "recovered_high_s")
    )
    return f"{at} [{low}, {high}]"


def plot(found: dict[str, Any], path: Path) -> None:
    """A panel a change."""
    panels = [{"label": f"{change}: MRR@10", "is_log_time": True, **curve} for change, curve in found["curves"].items()]
    caption = (
        f"Simulated, {found['settings']['clicks_per_s']:g} clicks/s, {found['settings']['seeds']} seeds together. "
        f"After the launch the launched item is asked for. Refreshes of an hour fall 30 minutes after the change.\n"
        f"{machine.describe(found['machine'])}"
    )
    plotting.plot_series(panels, "After the world has changed", caption, path, along="seconds since the change")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_drift", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="worlds of each kind")
    parser.add_argument("--changes", type=lambda text: text.split(","), default=list(CHANGES), help=",".join(CHANGES))
    parser.add_argument(
        "--config", type=Path, default=Path(benchmarks.__file__).parent / "simulated.toml", help="TOML file"
    )
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    parser.add_argument("--plot", type=Path, help="write quality over time as a PNG")
    options = parser.parse_args()
    if unknown := set(options.changes) - set(CHANGES):
        parser.error(f"--changes: expected some of {', '.join(CHANGES)}, got {min(unknown)!r}")
    if options.plot and (reason := plotting.absence()):
        parser.error(reason)
    found = run(options)
    report(found)
    machine.write_json(found, options.json)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
