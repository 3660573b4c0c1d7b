"""Are predicted rates of reward those that come, also where only a tenth of the negatives is learned from?

    python -m benchmarks.bench_calibration [--seconds 1800] [--warm-up 600] [--keep 1.0,0.1] [--seed 1]
                                           [--config benchmarks/impressions.toml] [--json [FILE]]

One simulated stream of shown slates and clicks (`benchmarks.impressions`), read by an `OnlineLearner` for each share of
negatives; no Ray, no store. The rate of every item shown is predicted, place included and never learned from before:

    counted    by the trained weights, when the join counts the impression: as progressive validation has it, but for
               all impressions, whatever the join keeps
    shown      by the trained weights, in the second in which it is shown: everything of the seconds since is unknown
    served     likewise, but by the weights that serve, the running mean of the trained ones

What came is known from the simulation, late clicks included.

Reported: predicted / came over all, over time, and over deciles of what was predicted, with Wilson intervals of what
came (95 %); the same without the correction of the log odds; log loss, beside that of the true rates; the time on one
core that learning took. Rates *agree* where predicted / came is within 5 % over all and in each upper decile, the five
that hold three clicks of four.

NOT shown: real people; a stream that changes; clicks after the attribution window.
"""

import argparse
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

import benchmarks
from benchmarks import machine
from benchmarks.calibration import Bin, judged
from benchmarks.comparing import Goal
from benchmarks.impressions import ImpressionsConfig, Shown, entries_of, simulate
from deployments.config import Config, load_config
from features.events import DECISION, Entry, decode_decision
from features.joiner import Outcome
from learners.metrics import F64
from learners.model import RankingModel
from learners.online import OnlineLearner
from learners.parts import impressions

TOLERANCE: Final = 0.05
WAYS: Final = ("counted", "shown", "served")
N_PERIODS: Final = 6


class Student:
    """A learner, what was predicted with its weights, and the processor time that its learning took."""

    def __init__(self, config: Config, keep_negatives: float) -> None:
        join = replace(config.learner.join, keep_negatives=keep_negatives)
        self.learner = OnlineLearner(config.schema, replace(config.learner, join=join))
        self.rates: dict[str, list[F64]] = {way: [] for way in WAYS}
        self.took_s = 0.0

    def predict_shown(self, entries: Sequence[Entry]) -> None:
        """Before these entries are read, the rates of what their decisions show."""
        self._predict("shown", self.learner._trained, entries)
        self._predict("served", self.learner.model, entries)

    def predict_counted(self, entries: Sequence[Entry]) -> None:
        """Before what these decisions show is counted."""
        self._predict("counted", self.learner._trained, entries)

    def _predict(self, way: str, model: RankingModel, entries: Sequence[Entry]) -> None:
        """Rates as everything shown has them: without the join's shift."""
        outcomes = [
            Outcome(
                decision,
                entry.state,
                tuple(range(len(decision.items))),
                is_shown=True,
                rewards=(0.0,) * len(decision.items),
            )
            for entry in entries
            if entry.kind == DECISION
            for decision in [decode_decision(entry.body)]
        ]
        if not outcomes:
            return
        shown_at, _ = model.arrays_of("shown_at")
        nowhere = np.zeros_like(shown_at)  # for a gradient that nobody learns from
        part = impressions(outcomes, self.learner.encoder, self.learner.table, 0.0, 1.0, (shown_at, nowhere))
        scores = model.score(part.inputs)
        part.loss(scores, part.inputs.mask, np.empty_like(scores))
        self.rates[way].append(part.loss.rates.astype(np.float64))

    def learn(self, entries: Sequence[Entry]) -> None:
        """Read them."""
        began_s = time.process_time()
        for entry in entries:
            self.learner.read(entry)
        self.took_s += time.process_time() - began_s


def live_through(shown: Shown, config: Config, students: Sequence[Student], first_ms: int) -> None:
    """Predict and learn, second by second.

    Args:
        first_ms: The second from which on is predicted.
    """
    wait_ms = round(1000 * config.learner.join.wait_s)
    waiting: deque[list[Entry]] = deque()
    for entries in entries_of(shown, config.schema):
        now_ms = entries[0].id.ms
        due = []
        while waiting and waiting[0][-1].id.ms + wait_ms <= now_ms + 1000:
            due.append(waiting.popleft())
        if now_ms >= first_ms:
            waiting.append(entries)
        for student in students:
            for some in due:
                student.predict_counted(some)
            if now_ms >= first_ms:
                student.predict_shown(entries)
            student.learn(entries)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every share of negatives on one stream."""
    world = ImpressionsConfig(end_s=options.seconds)
    shown = simulate(world, options.seed)
    config = load_config(options.config)
    students = {str(share): Student(config, share) for share in options.keep}
    with threadpool_limits(1):
        live_through(shown, config, list(students.values()), world.start_ms + 1000 * options.warm_up)
    return {
        "what": "calibration of rates of reward",
        "machine": machine.facts("numba"),
        "settings": {
            "seconds": options.seconds,
            "warm_up": options.warm_up,
            "seed": options.seed,
            "config": options.config.name,  # no path: results are read elsewhere
        },
        "keep_negatives": {name: worth(student, shown) for name, student in students.items()},
    }


def worth(student: Student, shown: Shown) -> dict[str, Any]:
    """What a student's predictions are worth in every way; of all ways the same impressions."""
    rates = {way: np.concatenate(found) for way, found in student.rates.items()}
    first = len(shown.at_ms) - len(rates["shown"])
    which = slice(first, first + len(rates["counted"]))  # the last ones are not counted before the end
    true_rate_NK, is_clicked_NK = shown.rate[which], shown.is_clicked[which]
    shift = student.learner.config.join.log_odds_shift
    found = {}
    for way, some in rates.items():
        rate_NK = some[: len(true_rate_NK)]
        periods = zip(np.array_split(rate_NK, N_PERIODS), np.array_split(is_clicked_NK, N_PERIODS), strict=True)
        found[way] = {
            **judged(rate_NK.ravel(), true_rate_NK.ravel(), is_clicked_NK.ravel(), shift),
            "over_time": [float(rate.mean() / came.mean()) for rate, came in periods],
        }
    metrics = student.learner.metrics
    return {
        "ways": found,
        "progressive": {name: metrics[name] for name in ("predicted_reward_rate", "reward_rate")},
        "learned_from": student.learner.n_examples,
        "took_s": student.took_s,
    }


def goals(found: dict[str, Any]) -> list[Goal]:
    """What is promised of every share in every way."""
    ratios = {
        f"keep_negatives {name}, {way}: predicted / came {where}": ratio
        for name, row in found["keep_negatives"].items()
        for way, seen in row["ways"].items()
        for where, ratio in (("over all", seen["whole"].ratio), ("in the worst upper decile", seen["worst"]))
    }
    return [
        Goal(text=f"{what}, off by", value=abs(ratio - 1.0), unit="", limit=TOLERANCE, is_at_least=False)
        for what, ratio in ratios.items()
    ]


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}")
    for name, row in found["keep_negatives"].items():
        for way, seen in row["ways"].items():
            print(f"\nkeep_negatives {name}, {way}: impressions by the rate that was predicted")
            rows = [_cells(str(number), one) for number, one in enumerate(seen["deciles"], 1)]
            header = ("decile", "impressions", "clicks", "predicted", "came [95 %]", "predicted / came")
            print(machine.table(header, [*rows, _cells("all", seen["whole"])]))
    rows = [
        [name, way, f"{seen['whole'].ratio:.3f}", _series(seen["over_time"]), *_losses(seen)]
        for name, row in found["keep_negatives"].items()
        for way, seen in row["ways"].items()
    ]
    header = ("keep_negatives", "predicted", "/ came", "over time", "without the correction", "log loss")
    print(f"\n{machine.table(header, rows)}")
    true = next(iter(found["keep_negatives"].values()))["ways"]["shown"]["log_loss_of_true_rates"]
    print(f"log loss of the true rates: {true:.5f}\n")
    for name, row in found["keep_negatives"].items():
        predicted, came = row["progressive"].values()
        print(
            f"keep_negatives {name}: learned from {row['learned_from']:,} impressions in {row['took_s']:.1f} s; "
            f"progressive validation has {predicted:.4f} predicted, {came:.4f} came"
        )
    print()
    for goal in goals(found):
        print(goal.line())


def _series(ratios: Sequence[float]) -> str:
    return " ".join(f"{ratio:.2f}" for ratio in ratios)


def _losses(seen: dict[str, Any]) -> list[str]:
    return [f"{seen['uncorrected']:.2f}", f"{seen['log_loss']:.5f}"]


def _cells(name: str, one: Bin) -> list[str]:
    came = f"{one.came:.5f} [{one.low:.5f}, {one.high:.5f}]"
    return [name, f"{one.n:,}", f"{one.n_clicks:,}", f"{one.predicted:.5f}", came, f"{one.ratio:.3f}"]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_calibration", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=int, default=1800, help="of the stream, at 100 slates of ten a second")
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
