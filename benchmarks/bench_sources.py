"""What does a source cost whose labels say the opposite, and how soon is it told?

    python -m benchmarks.bench_sources [--seconds 900] [--per-s 60] [--share 0.2] [--seed 1] [--plot FILE]
                                       [--anchor-age 120] [--config benchmarks/impressions.toml] [--json [FILE]]

One simulated stream of shown slates and clicks (`benchmarks.impressions`), lived through in one process by a learner, a
publisher and a judge; a version every second. A `share` of the people use one app, the others one of four others; each
app is a source. From a third of the stream on that app's labels are turned round: it tells of a click on everything
that was shown and not clicked, and of none that was.

    undisturbed   they are not
    no rule       all that it tells counts
    rule          nothing counts that it tells from the second after the judge has told it

Shown: how many of its slates the judge counted, and how many seconds went by, until it was told. Of slates in the
second in which they are shown, of the other apps' people and of that app's: the loss of what answers on what they
truly click, above that of the undisturbed run, as a share of it; and *missed*: by how much less what is put first is
clicked than the best of the ten would be, by the known rates. At worst over 20 s, and over the last quarter.

NOT shown: what is asked does not depend on what was answered; the gate lets everything pass.

Legend: N decisions, K items shown, T seconds.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import benchmarks
from benchmarks import machine, plotting
from benchmarks.bench_poison import LENIENT
from benchmarks.impressions import ImpressionsConfig, Shown, entries_of, simulate
from deployments.config import Config, load_config
from features.events import DECISION, Entry, decode_decision
from features.joiner import Outcome
from learners import snapshots
from learners.evaluation import one_thread
from learners.judge import Judge, JudgeConfig, opinion
from learners.memory import keep_memory
from learners.online import OnlineLearner
from learners.parts import impressions
from learners.publisher import Publisher
from learners.snapshots import Delta
from learners.witness import NOBODY as NOWHERE
from learners.witness import Witness

F64 = NDArray[np.float64]
BAD: Final = "bad"
N_OTHERS: Final = 4
OFFER_MS: Final = 1000
WARM_UP_S: Final = 60
WINDOW_S: Final = 20
NOBODY: Final = "undisturbed"
RUNS: Final = {NOBODY: (False, False), "no rule": (True, False), "rule": (True, True)}
"""By name: whether labels are turned round, and whether who is told counts no more."""


class Loop:
    """A learner, who publishes what it learns, and who judges the sources."""

    def __init__(self, config: Config, judging: JudgeConfig) -> None:
        self.learner = OnlineLearner(config.schema, config.learner)
        self.judge = Judge(config.schema, judging)
        self._judging = judging
        self._witness = Witness(config.schema, config.learner, self.judge)
        self._publisher = Publisher("here", 1 << 40)
        self._full: Delta | None = None
        self._kept: deque[Delta] = deque()
        """Those that may become the anchor, ten seconds or more apart."""
        self._due_ms = 0

    def live(self, entries: Sequence[Entry]) -> None:
        """Read these; a version answers as soon as one is due and can be taken."""
        for entry in entries:
            self._witness.read(entry)
            self.learner.read(entry)
            if self.learner.is_settled and entry.id.ms >= self._due_ms:
                self._due_ms = entry.id.ms + OFFER_MS
                self._publish()
                self._look_for_anchor(entry.id.ms)

    def _publish(self) -> None:
        version = 1 if self._full is None else self._full.version + 1
        delta = snapshots.unpack(snapshots.pack(self.learner.take_delta(version, version - 1 or None)))
        self._full = delta if self._full is None else snapshots.merge(self._full, delta)
        self._publisher.note(delta)
        draft = self._publisher.draft(self._full)
        self.judge.begin(draft.head)
        for part in draft.parts:
            list(self.judge.add(part))
        verdict = self.judge.decide()
        if not verdict.reasons and not verdict.decline:
            list(self.judge.settle())
            self._publisher.settle(draft)

    def _look_for_anchor(self, now_ms: int) -> None:
        """The newest that is old enough, if one is wanted."""
        assert self._full is not None
        if not self._kept or _through_ms(self._full) >= _through_ms(self._kept[-1]) + 10_000:
            self._kept.append(self._full)
        old_ms = now_ms - round(1000 * self._judging.anchor_age_s)
        while len(self._kept) > 1 and _through_ms(self._kept[1]) <= old_ms:
            self._kept.popleft()
        if _through_ms(self._kept[0]) <= old_ms and self.judge.wants_anchor(now_ms):
            draft = Publisher("anchor", 0).draft(self._kept[0])
            list(self.judge.lay_anchor(draft.head, draft.parts, now_ms))


def _through_ms(full: Delta) -> int:
    return full.progress.trained_through_ms


class World:
    """What is shown and clicked, who tells of it, and how good an answer is.

    Args:
        share: Of the people, whose app is the one that says the opposite.
    """

    def __init__(self, world: ImpressionsConfig, share: float, seed: int) -> None:
        self.true = simulate(world, seed)
        people, rng = np.arange(world.n_people), np.random.default_rng([seed, 1])
        is_bad = rng.permutation(people) < share * world.n_people
        apps = np.where(is_bad, BAD, [f"app{n}" for n in people % N_OTHERS])
        self.sources: list[str] = apps[self.true.person].tolist()
        self.is_bad = is_bad[self.true.person]
        self.wrong_ms = world.start_ms + round(1000 * world.end_s / 3)
        self._wrong = self._turned(rng)
        lost_K = world.place * np.log2(1 + np.arange(world.n_shown))
        logit_NK = np.log(self.true.rate) - np.log1p(-self.true.rate) + lost_K
        rate_NK = 1.0 / (1.0 + np.exp(-logit_NK))
        self._worth_NK = rate_NK / rate_NK.max(axis=1, keepdims=True)

    def told(self, is_turned: bool) -> Shown:
        """What sources tell."""
        return self._wrong if is_turned else self.true

    def missed(self, numbers: Sequence[int], scores_BK: NDArray[np.float32]) -> F64:
        """[B], 0 to 1: by how much less what is put first is clicked than the best."""
        found_B: F64 = 1.0 - self._worth_NK[numbers, scores_BK.argmax(axis=1)]
        return found_B

    def _turned(self, rng: np.random.Generator) -> Shown:
        is_turned_N = self.is_bad & (self.true.at_ms >= self.wrong_ms)
        delay_ms = 1 + np.floor(2500.0 * rng.exponential(size=self.true.delay_ms.shape)).astype(np.int64)
        opposite = np.where(self.true.is_clicked, -1, delay_ms)
        return replace(self.true, delay_ms=np.where(is_turned_N[:, None], opposite, self.true.delay_ms))


def live_through(world: World, config: Config, judging: JudgeConfig, is_turned: bool, is_ruled: bool) -> dict[str, Any]:
    """One run, second by second: loss and what is missed, slate by slate, and when which source was told."""
    loop, told, quarantined = Loop(config, judging), dict[str, Any](), set[str]()
    numbers, losses, missed = list[int](), list[F64](), list[F64]()
    for entries in entries_of(world.told(is_turned), config.schema, world.sources, quarantined):
        asked = [entry for entry in entries if entry.kind == DECISION]
        if asked and loop.judge.live.version:
            some = _answered(loop, world, asked)
            numbers += some[0]
            losses.append(some[1])
            missed.append(some[2])
        loop.live(entries)
        for source, why in loop.judge.agreement.take_told().items():
            told[source] = {"after_s": (entries[-1].id.ms - world.wrong_ms) / 1000.0, "why": why}
            if is_ruled:
                quarantined.add(source)
    return {
        "numbers": np.array(numbers),
        "loss": np.concatenate(losses),
        "missed": np.concatenate(missed),
        "told": told,
    }


def _answered(loop: Loop, world: World, asked: Sequence[Entry]) -> tuple[list[int], F64, F64]:
    """Numbers of these decisions, loss on what is truly clicked, and what is missed; [B] each."""
    decisions = [decode_decision(entry.body) for entry in asked]
    numbers = [int(decision.decision) for decision in decisions]
    clicked_BK = world.true.is_clicked[numbers].astype(np.float64)
    every = tuple(range(clicked_BK.shape[1]))
    outcomes = [
        Outcome(decision, entry.state, every, True, tuple(clicked_K))
        for decision, entry, clicked_K in zip(decisions, asked, clicked_BK.tolist(), strict=True)
    ]
    learner = loop.learner
    part = impressions(outcomes, learner.encoder, learner.table, 0.0, 1.0, (NOWHERE, NOWHERE))
    found = opinion(loop.judge.live, part)
    return numbers, found.losses, world.missed(numbers, found.scores)


def summary(world: World, found: dict[str, Any], undisturbed: dict[str, Any]) -> dict[str, Any]:
    """What became of a run."""
    second = (world.true.at_ms[found["numbers"]] - world.wrong_ms) // 1000
    rows: dict[str, Any] = {"told": found["told"]}
    for who, is_bad in (("others", False), ("its people", True)):
        is_theirs = world.is_bad[found["numbers"]] == is_bad
        usual, ours = undisturbed["loss"][is_theirs], found["loss"][is_theirs]
        excess = (ours - usual) / usual.mean()
        after = second[is_theirs]
        last = after >= 0.75 * (after.max() - after.min()) + after.min()
        missed = found["missed"][is_theirs]
        rows[who] = {
            "excess_worst": max(_means(excess, after)),
            "excess_last": float(excess[last].mean()),
            "missed_before": float(missed[(after < 0) & (after >= after.min() + WARM_UP_S)].mean()),
            "missed_worst": max(_means(missed, after)),
            "missed_last": float(missed[last].mean()),
            "missed": _means(missed, after - after.min()),
        }
    return rows


def _means(values: F64, second: NDArray[np.int64]) -> list[float]:
    """Means of windows, of what comes at second 0 or later."""
    window = second[second >= 0] // WINDOW_S
    n, total = np.bincount(window), np.bincount(window, values[second >= 0])
    full = n[:-1] > 0  # the last one may be cut
    return [round(mean, 4) for mean in (total[:-1][full] / n[:-1][full]).tolist()]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Live through the stream once for each run."""
    keep_memory()
    config = load_config(options.config)
    world = World(ImpressionsConfig(end_s=options.seconds, decisions_per_s=options.per_s), options.share, options.seed)
    judging = replace(LENIENT, anchor_age_s=options.anchor_age)
    found, began_s = {}, time.monotonic()
    for name, (is_turned, is_ruled) in RUNS.items():
        with one_thread():
            found[name] = live_through(world, config, judging, is_turned, is_ruled)
        print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return {
        "what": "what a source costs whose labels say the opposite",
        "machine": machine.facts("numba"),
        "settings": {
            "seconds": options.seconds,
            "per_s": options.per_s,
            "share": options.share,
            "seed": options.seed,
            "anchor_age_s": options.anchor_age,
            "config": options.config.name,  # no path: results are read elsewhere
        },
        "took_s": time.monotonic() - began_s,
        "runs": {name: summary(world, one, found[NOBODY]) for name, one in found.items()},
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}; {found['took_s']:.0f} s\n")
    rows = [
        [name, who, f"{one['excess_worst']:+.3f}", f"{one['excess_last']:+.3f}"]
        + [f"{one[f'missed_{when}']:.3f}" for when in ("before", "worst", "last")]
        for name, row in found["runs"].items()
        for who, one in row.items()
        if who != "told"
    ]
    header = (
        "run",
        "whose slates",
        "excess loss at worst",
        "last quarter",
        "missed before",
        "at worst",
        "last quarter",
    )
    print(machine.table(header, rows), end="\n\n")
    for name, row in found["runs"].items():
        for source, one in row["told"].items():
            print(f"{name}: {source} told {one['after_s']:.0f} s after its labels turned: {one['why']}")


def plot(found: dict[str, Any], path: Path) -> None:
    """What is missed, run by run."""
    panels = []
    for who in ("others", "its people"):
        series = {name: row[who]["missed"] for name, row in found["runs"].items()}
        times_s = [WINDOW_S * (step + 1) for step in range(min(map(len, series.values())))]
        series = {name: values[: len(times_s)] for name, values in series.items()}
        panels.append({"label": f"missed, {who}", "times_s": times_s, "series": series})
    settings = found["settings"]
    title = f"A source of {settings['share']:.0%} says the opposite from second {settings['seconds'] // 3} on"
    plotting.plot_series(panels, title, machine.describe(found["machine"]), path, along="seconds of log time")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_sources", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=900, help="of the stream")
    parser.add_argument("--per-s", type=float, default=60.0, help="slates of ten a second")
    parser.add_argument("--share", type=float, default=0.2, help="of the people whose app says the opposite")
    parser.add_argument("--anchor-age", type=float, default=120.0, help="seconds of log time")
    parser.add_argument("--seed", type=int, default=1, help="of the stream")
    parser.add_argument(
        "--config", type=Path, default=Path(benchmarks.__file__).parent / "impressions.toml", help="TOML file"
    )
    parser.add_argument("--plot", type=Path, help="write a picture there")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    if options.seconds < 6 * WARM_UP_S:
        parser.error(f"--seconds: expected {6 * WARM_UP_S} or more, got {options.seconds}")
    found = run(options)
    report(found)
    if options.plot is not None:
        print(plotting.absence() or plot(found, options.plot) or f"plot: {options.plot}")
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
