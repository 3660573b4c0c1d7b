"""Are predicted rates of reward those that come, also where only a tenth of the negatives is learned from?

    python -m benchmarks.bench_calibration [--seconds 2400] [--warm-up 600] [--keep 1.0,0.1] [--seed 1]
                                           [--config benchmarks/impressions.toml] [--json [FILE]]

One simulated stream of shown slates and clicks (`benchmarks.impressions`), read by an `OnlineLearner` for each share of
negatives; no Ray, no store. Once a second, before a learner reads that second's entries, its model as it would be
published then says the rate of every item that is shown in it, place included. Those are all impressions, whatever the
join will keep; what came of them is known from the simulation, late clicks included.

Reported: rates over deciles of what was predicted, with Wilson intervals of what came (95 %); the same ratio over all,
also as it would be without the correction of the log odds; log loss, beside that of the true rates; and the time on one
core that learning took. Rates *agree* where predicted / came is within 5 % over all and in each upper decile, the five
that hold three clicks of four; shares agree where what they predict is, over all.

NOT shown: real people, or a stream that changes: then predictions lag. Clicks after the attribution window.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import benchmarks
from benchmarks import machine
from benchmarks.comparing import Goal
from benchmarks.impressions import ImpressionsConfig, Shown, entries_of, simulate
from deployments.config import Config, load_config
from features.events import DECISION, Entry, decode_decision
from features.joiner import Outcome
from features.schema import Schema
from learners.metrics import F64, N_BINS
from learners.off_policy import NORMAL_95
from learners.online import OnlineLearner
from learners.parts import impressions

TOLERANCE: Final = 0.05
Bools = NDArray[np.bool_]


class Bin(NamedTuple):
    """Impressions that were given about the same rate."""

    n: int
    n_clicks: int
    predicted: float
    came: float
    low: float
    high: float
    """Ends of the interval of `came`."""

    @property
    def ratio(self) -> float:
        """Predicted to came; infinite where nothing came."""
        return self.predicted / self.came if self.came else math.inf


def wilson(n_hits: int, n: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share.

    Source: Wilson, 1927; closed under few hits, where mean ± is not.
    """
    z2 = NORMAL_95**2
    middle = (n_hits + z2 / 2) / (n + z2)
    half = NORMAL_95 / (n + z2) * (n_hits * (n - n_hits) / n + z2 / 4) ** 0.5
    return middle - half, middle + half


def bins(predicted: F64, is_clicked: Bools, n_bins: int = N_BINS) -> list[Bin]:
    """Bins of equally many, by what was predicted; equal predictions share one."""
    ends = np.quantile(predicted, np.arange(1, n_bins) / n_bins)
    place = np.searchsorted(ends, predicted, side="right")
    return [_bin(predicted[place == number], is_clicked[place == number]) for number in np.unique(place)]


def _bin(predicted: F64, is_clicked: Bools) -> Bin:
    n, n_clicks = len(predicted), int(is_clicked.sum())
    return Bin(n, n_clicks, float(predicted.mean()), n_clicks / n, *wilson(n_clicks, n))


def log_loss(rate: F64, is_clicked: Bools) -> float:
    """Mean of -log of the probability of what came."""
    return float(-np.log(np.where(is_clicked, rate, 1.0 - rate)).mean())


def shifted(rate: F64, log_odds: float) -> F64:
    """The rate with its log odds moved."""
    found: F64 = rate / (rate + (1.0 - rate) * np.exp(-log_odds))
    return found


def judged(rate: F64, shown_rate: F64, is_clicked: Bools, log_odds_shift: float) -> dict[str, Any]:
    """What predicted rates are worth.

    Args:
        rate, shown_rate: Of each impression, as predicted and as it is.
        log_odds_shift: The correction that is in them.
    """
    whole, deciles = _bin(rate, is_clicked), bins(rate, is_clicked)
    return {
        "whole": whole,
        "deciles": deciles,
        "worst": max((one.ratio for one in deciles[len(deciles) // 2 :]), key=lambda ratio: abs(ratio - 1.0)),
        "uncorrected": float(shifted(rate, log_odds_shift).mean()) / whole.came,
        "log_loss": log_loss(rate, is_clicked),
        "log_loss_of_true_rates": log_loss(shown_rate, is_clicked),
    }


class Student:
    """A learner, what it predicted, and the processor time that its learning took."""

    def __init__(self, config: Config, keep_negatives: float) -> None:
        join = replace(config.learner.join, keep_negatives=keep_negatives)
        self.learner = OnlineLearner(config.schema, replace(config.learner, join=join))
        self.rates: list[F64] = []
        self.took_s = 0.0

    def predict(self, entries: Sequence[Entry]) -> None:
        """Note the rates of what these decisions show, as everything shown has them: without the join's shift."""
        outcomes = [
            Outcome(decision, entry.state, tuple(range(len(decision.items))), is_shown=True, reward=0.0)
            for entry in entries
            if entry.kind == DECISION
            for decision in [decode_decision(entry.body)]
        ]
        if not outcomes:
            return
        model = self.learner.model
        part = impressions(outcomes, self.learner.encoder, self.learner.table, 0.0, 1.0, model.arrays_of("shown_at"))
        scores = model.score(part.inputs)
        part.loss(scores, part.inputs.mask, np.empty_like(scores))
        self.rates.append(part.loss.rates.astype(np.float64))

    def learn(self, entries: Sequence[Entry]) -> None:
        """Read them."""
        began_s = time.process_time()
        for entry in entries:
            self.learner.read(entry)
        self.took_s += time.process_time() - began_s


def live_through(shown: Shown, schema: Schema, students: Sequence[Student], first_ms: int) -> None:
    """Predict and learn, second by second.

    Args:
        first_ms: The second from which on is predicted.
    """
    for entries in entries_of(shown, schema):
        for student in students:
            if entries[0].id.ms >= first_ms:
                student.predict(entries)
            student.learn(entries)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every share of negatives on one stream."""
    world = ImpressionsConfig(end_s=options.seconds)
    shown = simulate(world, options.seed)
    config = load_config(options.config)
    students = {str(share): Student(config, share) for share in options.keep}
    with threadpool_limits(1):
        live_through(shown, config.schema, list(students.values()), world.start_ms + 1000 * options.warm_up)
    found = {}
    for name, student in students.items():
        rate_NK = np.concatenate(student.rates)
        after = slice(len(shown.at_ms) - len(rate_NK), None)
        is_clicked = shown.is_clicked[after].ravel()
        shift = student.learner.config.join.log_odds_shift
        found[name] = {
            **judged(rate_NK.ravel(), shown.rate[after].ravel(), is_clicked, shift),
            "learned_from": student.learner.n_examples,
            "took_s": student.took_s,
        }
    return {
        "what": "calibration of rates of reward",
        "machine": machine.facts("numba"),
        "settings": {
            "seconds": options.seconds,
            "warm_up": options.warm_up,
            "seed": options.seed,
            "config": options.config.name,  # no path: results are read elsewhere
        },
        "keep_negatives": found,
    }


def goals(found: dict[str, Any]) -> list[Goal]:
    """What is promised of every share, and of the others beside the first."""
    rows = found["keep_negatives"]
    first, *others = rows
    ratios = {
        f"{name}: predicted / came {where}": ratio
        for name, row in rows.items()
        for where, ratio in (("over all", row["whole"].ratio), ("in the worst decile of the upper half", row["worst"]))
    }
    for name in others:
        ratio = rows[name]["whole"].predicted / rows[first]["whole"].predicted
        ratios[f"{name}: predicted / predicted of {first}, over all"] = ratio
    return [
        Goal(text=f"keep_negatives {what}, off by", value=abs(ratio - 1.0), unit="", limit=TOLERANCE, is_at_least=False)
        for what, ratio in ratios.items()
    ]


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}")
    for name, row in found["keep_negatives"].items():
        print(f"\nkeep_negatives {name}: impressions by the rate that was predicted")
        rows = [_cells(str(number), one) for number, one in enumerate(row["deciles"], 1)]
        header = ("decile", "impressions", "clicks", "predicted", "came [95 %]", "predicted / came")
        print(machine.table(header, [*rows, _cells("all", row["whole"])]))
    rows = [
        [
            name,
            *(f"{row['whole'].ratio:.3f}", f"{row['uncorrected']:.2f}", f"{row['log_loss']:.5f}"),
            *(f"{row['learned_from']:,}", f"{row['took_s']:.1f}"),
        ]
        for name, row in found["keep_negatives"].items()
    ]
    header = (
        "keep_negatives",
        "predicted / came",
        "without the correction",
        "log loss",
        "learned from",
        "learning took, s",
    )
    print(f"\n{machine.table(header, rows)}")
    some = next(iter(found["keep_negatives"].values()))
    print(f"log loss of the true rates: {some['log_loss_of_true_rates']:.5f}\n")
    for goal in goals(found):
        print(goal.line())


def _cells(name: str, one: Bin) -> list[str]:
    came = f"{one.came:.5f} [{one.low:.5f}, {one.high:.5f}]"
    return [name, f"{one.n:,}", f"{one.n_clicks:,}", f"{one.predicted:.5f}", came, f"{one.ratio:.3f}"]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_calibration", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=int, default=2400, help="of the stream, at 100 slates of ten a second")
    parser.add_argument("--warm-up", type=int, default=600, help="seconds before predictions count")
    parser.add_argument(
        "--keep",
        type=lambda text: [float(share) for share in text.split(",")],
        default=[1.0, 0.1],
        help="shares of negatives that are learned from (default 1.0,0.1)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the stream")
    parser.add_argument(
        "--config", type=Path, default=Path(benchmarks.__file__).parent / "impressions.toml", help="TOML file"
    )
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    if not 0 <= options.warm_up < options.seconds:
        parser.error(f"--warm-up: expected 0 to less than --seconds, {options.seconds}; got {options.warm_up}")
    found = run(options)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
