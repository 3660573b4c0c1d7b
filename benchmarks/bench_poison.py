"""What do people get while a learner learns the wrong thing, with a judge before replicas and without?

    python -m benchmarks.bench_poison EVENTS [--config benchmarks/globo.toml] [--first 150000] [--plot FILE]

The stream is lived through in one process, by the parts that a cluster runs: learner, hub's lineage and publishing,
judge. Events come at 1,000 a second of log time, a version twice a second. From a third of the stream on to three
quarters the learner takes another item for the clicked one, in all examples at once or in more and more of them; the
log holds the truth.

Shown: of each run how many versions were published before the first was held, how often learning began anew and for
whose sake, and the loss of what answers on what came next (before anything was learned from it): on the average while
it was poisoned and at worst over 2,048 slates in a row, as a share above that of the run nobody disturbed; and at worst
above that of the anchor on the same slates. NOT shown: time (one thing happens after the other) and clicks (what is
asked does not depend on what was answered).
"""

import argparse
import asyncio
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks import machine, plotting
from benchmarks.poisoning import PoisonedLearner
from deployments.config import Config, load_config
from deployments.replay import read_events
from features.archived_events import with_context
from features.clock import FakeClock
from features.events import EVENT, Entry, StreamId, check_event, encode_body, event_from_row
from features.keys import Keys
from features.state import apply_update, update_for
from learners import editions, snapshots
from learners.checkpoints import Checkpoints
from learners.duel import DuelConfig
from learners.evaluation import one_thread
from learners.folder_files import FolderFiles
from learners.judge import Case, Judge, JudgeConfig
from learners.lineage import Lineage
from learners.meetings import Meetings
from learners.memory import keep_memory
from learners.parts import Part
from learners.patience import Patience
from learners.publisher import EDITION_BYTES, Publisher
from learners.publishing import Publishing
from learners.shelf import Shelf
from learners.verdicts import Verdict
from learners.witness import Witness

START_MS: Final = 1_764_000_000_000
RATE: Final = 1000  # events a second of log time
OFFER_MS: Final = 500
CATCH_UP: Final = 8  # entries that a learner reads while one comes
WINDOW: Final = 2048
NOBODY: Final = "undisturbed"
LENIENT: Final = JudgeConfig(
    tolerance=10.0, anchor_tolerance=10.0, max_growth=1e6, overconfidence=1.0, anchor_age_s=604800.0
)
"""As if there were no judge."""


class WatchedJudge(Judge):
    """Notes the loss of what answers on what comes next."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: list[float] = []
        self.anchor_losses: list[float] = []
        """Not a number where there was no anchor."""

    def take(self, parts: Iterable[Part], first_ms: int) -> list[Case]:
        """Slate by slate."""
        cases = super().take(parts, first_ms)
        for case in cases:
            n_slates = len(case.live.losses)
            self.losses += case.live.losses.tolist()
            self.anchor_losses += [math.nan] * n_slates if case.anchor is None else case.anchor.losses.tolist()
        return cases


class Here:
    """A judge that is asked in this process."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def weigh(self, edition: Sequence[bytes]) -> Verdict:
        """As `JudgeActor`."""
        self._prepare(edition)
        verdict = self._judge.decide()
        list(self._judge.settle())
        return verdict

    async def follow(self, edition: Sequence[bytes]) -> None:
        """As `JudgeActor`."""
        self._prepare(edition)
        self._judge.follow()
        list(self._judge.settle())

    def _prepare(self, edition: Sequence[bytes]) -> None:
        self._judge.begin(editions.heads.unpack(edition[0]))
        for packed in edition[1:]:
            list(self._judge.add(editions.parts.unpack(packed)))


@dataclass
class Loop:
    """A learner and whoever publishes what it learns."""

    config: Config
    judging: JudgeConfig
    folder: str
    is_poisoned: bool
    is_ramp: bool
    """Whether more and more examples are poisoned, and not all from the first one on."""
    first: int = 0
    """Version that was the newest when the poisoning began."""

    def __post_init__(self) -> None:
        schema = self.config.schema
        self.judge = WatchedJudge(schema, self.judging)
        self.witness = Witness(schema, self.config.learner, self.judge)
        self.learner = PoisonedLearner(schema, self.config.learner)
        files = FolderFiles(self.folder)
        meetings: Meetings[Any] = Meetings()
        self.lineage = Lineage(Checkpoints(files, schema), schema, meetings)
        self.shelf: Shelf[bytes] = Shelf(Publisher("here", EDITION_BYTES), bytes)
        self.clock = FakeClock(START_MS)
        self.publishing = Publishing(
            self.shelf, self.lineage, Here(self.judge), self.clock, Patience(self.judging.max_held)
        )
        self._files = files
        self._read = 0
        """Entries that the learner has read."""
        self._offered_ms = 0
        self._n_offered = 0

    async def live(self, entries: Sequence[Entry], poisoned: range) -> None:
        """Everything, one entry after the other."""
        await self.lineage.load()
        await self.publishing.load(self._files, self.config.schema)
        task = asyncio.create_task(self.publishing.run())
        for number, entry in enumerate(entries):
            self.clock.set_ms(entry.id.ms)
            self.witness.read(entry)
            self.learner.share = self._share(number, poisoned)
            self.first = self.lineage.version if number == poisoned.start else self.first
            for _ in range(CATCH_UP):
                if self._read <= number:
                    self.learner.read(entries[self._read])
                    self._read += 1
            if entry.id.ms >= self._offered_ms + OFFER_MS and self.learner.is_settled:
                await self._offer(entries, entry.id.ms)
        task.cancel()

    def _share(self, number: int, poisoned: range) -> float:
        if not self.is_poisoned or number not in poisoned:
            return 0.0
        return (number - poisoned.start) / len(poisoned) if self.is_ramp else 1.0

    async def _offer(self, entries: Sequence[Entry], now_ms: int) -> None:
        if self.learner.n_examples == self._n_offered:
            return
        self._offered_ms, self._n_offered = now_ms, self.learner.n_examples
        version = self.lineage.version
        delta = self.learner.take_delta(version + 1, version or None)
        packed = snapshots.pack(delta)
        await self.lineage.commit(snapshots.unpack(packed), packed)
        self.publishing.note(delta)
        await self.lineage.compact()
        await self._published(delta.version)
        if self.lineage.version != delta.version:
            await self._published(self.lineage.version)
            self._go_back(entries)
        await self._look_for_anchor(now_ms)

    async def _published(self, version: int) -> None:
        """Wait for what becomes of a version."""
        while version not in (self.shelf.version, (self.publishing.described["held"] or {}).get("version")):
            if self.lineage.version != version or self.publishing.pin is not None:
                return
            await asyncio.sleep(0)

    def _go_back(self, entries: Sequence[Entry]) -> None:
        """As a learner does whose version is not the newest any more."""
        assert self.lineage.full is not None
        self.learner.restore(snapshots.unpack(snapshots.pack(self.lineage.full)))
        newest = max(self.learner.positions.values())
        self._read = newest.seq + 1
        self._n_offered = self.learner.n_examples

    async def _look_for_anchor(self, now_ms: int) -> None:
        if self.judge.wants_anchor(now_ms):
            age_ms = round(1000 * self.judging.anchor_age_s)
            full = await self.lineage.anchor(age_ms, self.shelf.version, self.judge.anchor)
            if full is not None:
                draft = Publisher("anchor", 0).draft(full)
                list(self.judge.lay_anchor(draft.head, draft.parts, now_ms))


def entries_of(events: pa.Table, config: Config) -> list[Entry]:
    """The log of these events, at the rate of this benchmark; the events themselves happen when they did."""
    schema, keys, states, found = config.schema, Keys(), dict[str, bytes](), []
    for number, row in enumerate(map(with_context, events.to_pylist())):
        event = check_event(event_from_row(row), schema, row["ts_ms"], any_time=True)
        before = states.get(event.user, b"")
        states[event.user] = apply_update(before, update_for(event, schema), schema)
        at = StreamId(START_MS + 1000 * number // RATE, number)
        found.append(Entry(at, keys.user_partition(event.user), EVENT, encode_body(event), before))
    return found


def runs_of(anchor_age_s: float) -> dict[str, tuple[bool, bool, JudgeConfig]]:
    """By name: whether it is poisoned, whether more and more, and what the judge tolerates."""
    judging = JudgeConfig(anchor_age_s=anchor_age_s)
    gate_off = replace(LENIENT, anchor_age_s=anchor_age_s, duel=DuelConfig())
    return {
        NOBODY: (False, False, judging),
        "all wrong, no judge": (True, False, LENIENT),
        "all wrong, judged": (True, False, judging),
        "more and more wrong, no judge": (True, True, LENIENT),
        "more and more wrong, duel alone": (True, True, gate_off),
        "more and more wrong, judged": (True, True, judging),
    }


def summary(loop: Loop, losses: Any, undisturbed: Any, poisoned: range) -> dict[str, Any]:
    """What became of a run."""
    history = loop.publishing.history
    held = [line for line in history if line["what"] == "held" and line["first"] > loop.first]
    excess = losses / undisturbed.mean() - undisturbed / undisturbed.mean()
    beside = (losses - np.array(loop.judge.anchor_losses)) / undisturbed.mean()
    return {
        "before_held": held[0]["first"] - loop.first - 1 if held else None,
        "n_held": sum(line["last"] - line["first"] + 1 for line in held),
        "back": [[line["who"], line["why"]] for line in history if line["what"] == "went back"],
        "excess": float(excess[poisoned.start : poisoned.stop].mean()),
        "worst": float(_rolling(excess).max()),
        "worst_beside_anchor": float(np.nanmax(_rolling(beside), initial=-np.inf)),
        "after": float(excess[poisoned.stop + (len(excess) - poisoned.stop) // 2 :].mean()),
        "versions": loop.lineage.version,
        "is_pinned": loop.publishing.pin is not None,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Live through the stream once for each run."""
    keep_memory()
    config = load_config(options.config)
    events = read_events(options.events).slice(0, options.first)
    config = replace(config, learner=replace(config.learner, batch_span_s=0.2))  # of log time, as in a cluster
    entries = entries_of(events, config)
    poisoned = range(len(entries) // 3, 3 * len(entries) // 4)
    losses, summaries, began_s = {}, {}, time.monotonic()
    for name, (is_poisoned, is_ramp, judging) in runs_of(options.anchor_age).items():
        with one_thread(), tempfile.TemporaryDirectory() as folder:
            loop = Loop(config, judging, folder, is_poisoned, is_ramp)
            asyncio.run(loop.live(entries, poisoned))
        losses[name] = np.array(loop.judge.losses)
        summaries[name] = summary(loop, losses[name], losses[NOBODY], poisoned)
        print(f"{name}: {loop.lineage.version} versions, {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return {
        "what": "what people get while a learner learns the wrong thing",
        "machine": machine.facts(),
        "settings": {"first": len(entries), "config": str(options.config), "anchor_age_s": options.anchor_age},
        "poisoned": [poisoned.start, poisoned.stop],
        "took_s": time.monotonic() - began_s,
        "runs": summaries,
        "loss": {name: _smooth(found) for name, found in losses.items()},
    }


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}; {found['took_s']:.0f} s; {found['settings']['first']:,} events\n")
    rows = [
        [
            name,
            "" if run["before_held"] is None else run["before_held"],
            run["n_held"],
            ", ".join(who for who, _ in run["back"]),
            f"{run['excess']:+.4f}",
            f"{run['worst']:+.4f}",
            f"{run['after']:+.4f}",
            f"{run['worst_beside_anchor']:+.4f}",
        ]
        for name, run in found["runs"].items()
    ]
    header = (
        "run",
        "before the first was held",
        "held",
        "went back",
        "excess loss",
        "at worst",
        "afterwards",
        "at worst beside the anchor",
    )
    print(machine.table(header, rows))


def plot(found: dict[str, Any], path: Path) -> None:
    """Loss of what answers, run by run."""
    n = min(len(one) for one in found["loss"].values())
    times_s = [WINDOW * (step + 1) / RATE for step in range(n)]
    start_s, stop_s = (at / RATE for at in found["poisoned"])
    panel = {"label": "log loss of what answers", "times_s": times_s}
    panel["series"] = {name: one[:n] for name, one in found["loss"].items()}
    title = f"A learner learns the wrong thing from second {start_s:.0f} to {stop_s:.0f}"
    plotting.plot_series([panel], title, machine.describe(found["machine"]), path, along="seconds of log time")


def _rolling(values: Any) -> Any:
    return np.convolve(values, np.full(WINDOW, 1.0 / WINDOW), mode="valid")


def _smooth(losses: Any) -> list[float]:
    whole = losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return [round(statistics.fmean(row), 4) for row in whole.tolist()]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_poison", description=__doc__.partition("\n")[0])
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("--first", type=int, default=150_000, help="only so many events")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--anchor-age", type=float, default=20.0, help="seconds of log time")
    parser.add_argument("--plot", type=Path, help="write a picture there")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    report(found)
    if options.plot is not None:
        print(plotting.absence() or plot(found, options.plot) or f"plot: {options.plot}")
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
