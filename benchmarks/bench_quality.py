"""Does it rank well, better than what a good engineer would build, and does the running system rank as evaluated?

    python -m benchmarks.bench_quality EVENTS QUERIES [--first 400000] [--config benchmarks/globo.toml]
                                       [--rivals all-time,popularity,neighbours,rules,vw,river] [--ours PREDICTIONS]
                                       [--live] [--seeds 1] [--plot FILE.png] [--json [FILE]]

On the stream's first events and the queries up to then, test-then-train: at a query everything strictly before it is
known. Rivals are in `benchmarks/rankers`; where one was tried with several settings, the best *on these queries* is
quoted: it has the advantage of having been chosen afterwards. With --ours, predictions of an earlier `evaluate` on the
same files are judged instead of made. With --live the same files also go through the front door of a system that
is started for it (`headrace up --clock event`, `headrace replay`).

Shown: MRR@10, HR@10, NDCG@10, AUC within the slate and log loss of its softmax, with 95 % intervals over people; paired
differences; MRR@10 by the age of the true item and over time; calibration; time taken. A way whose scores are no logits
has no log loss. With several --seeds, how much of a difference is the luck of initial weights and negatives: no
interval over people shows that. Seconds include reading compiled loops from disk; a machine's first run compiles them.
NOT shown: whether anybody would have clicked on what was never shown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import machine, plotting, quality_report
from benchmarks.rankers.rivals import RIVALS, Rival
from benchmarks.rankers.stream import HOUR_MS, Stream, as_stream
from benchmarks.scoring import Truth, Way, best_of, judged
from deployments.config import Config, load_config
from deployments.replay import read_events
from deployments.terminal import progress
from features.embedded import _free_port
from learners.answers import aligned, true_columns
from learners.evaluation import evaluate
from learners.metrics import uniform_log_losses

OURS = "Headrace, evaluate"

Show = Callable[..., None]


def cut(events: pa.Table, queries: pa.Table, first: int | None) -> tuple[pa.Table, pa.Table]:
    """The first events, and the queries that are not later than the last of them; both in time order."""
    events = events.slice(0, first)
    until_ms = events["ts_ms"][-1].as_py()
    return events, queries.filter(pc.less_equal(queries["ts_ms"], until_ms)).sort_by("ts_ms")


def offline(
    events: pa.Table, queries: pa.Table, config: Config, seed: int, on_progress: Show | None = None
) -> pa.Table:
    """`headrace evaluate`, with other initial weights and negatives for every seed; 0 is the configuration's own."""
    learner = config.learner
    if seed:
        learner = replace(
            learner, seed=learner.seed + seed, model=replace(learner.model, seed=learner.model.seed + seed)
        )
    asked = queries.select([name for name in queries.column_names if name != "item"])
    return evaluate(events, asked, config.schema, learner, on_progress)


def live(events: pa.Table, queries: pa.Table, config: Path | None) -> tuple[pa.Table, float]:
    """The same through the front door; returns predictions and seconds taken."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        paths = {name: str(Path(folder) / f"{name}.parquet") for name in ("events", "queries", "out")}
        pq.write_table(events, paths["events"])
        pq.write_table(queries, paths["queries"])
        with running(config, folder) as url:
            began_s = time.monotonic()
            headrace(
                folder, "replay", paths["events"], "--queries", paths["queries"], "--out", paths["out"], "--url", url
            )
            took_s = time.monotonic() - began_s
        return pq.read_table(paths["out"]), took_s


@contextmanager
def running(config: Path | None, home: str) -> Iterator[str]:
    """A run of its own on the event clock; its URL."""
    port = _free_port()
    settings = ("--config", str(config)) if config is not None else ()
    headrace(home, "up", "--clock", "event", "--port", str(port), "--detach", *settings)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        headrace(home, "down", "--port", str(port))


def headrace(home: str, *arguments: str) -> None:
    """Run a command, whose runs are recorded in this folder."""
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "HEADRACE_HOME": home})


def our_ways(options: argparse.Namespace, events: pa.Table, queries: pa.Table) -> list[Way]:
    """Headrace by every seed, or as it was predicted before, and live; the first is what all are compared with."""
    ways = []
    if options.ours:
        predictions = pq.read_table(options.ours)
        ways.append(Way(name=OURS, scores_QK=aligned(predictions, queries), has_probabilities=True))
    else:
        config = load_config(options.config)
        for seed in range(options.seeds):
            name = OURS if seed == 0 else f"{OURS}, seed {seed}"
            with timed(name, events.num_rows) as (show, took):
                predictions = offline(events, queries, config, seed, show)
            ways.append(Way(name=name, scores_QK=aligned(predictions, queries), has_probabilities=True, took_s=took()))
    if options.live:
        predictions, took_s = live(events, queries, options.config)
        scores_QK = aligned(predictions, queries)
        ways.append(Way(name="Headrace, live", scores_QK=scores_QK, has_probabilities=True, took_s=took_s))
    return ways


def rival_way(rival: Rival, stream: Stream, truth: Truth) -> Way:
    """The best of a rival's settings."""
    ways = []
    for setting, rank in rival.settings.items():
        name = f"{rival.name}, {setting}" if setting else rival.name
        with timed(name, stream.n_events) as (show, took):
            scores_QK = rank(stream, show)
        ways.append(Way(name=name, scores_QK=scores_QK, has_probabilities=rival.has_probabilities, took_s=took()))
    return best_of(ways, truth.true_Q)


@contextmanager
def timed(name: str, n_events: int) -> Iterator[tuple[Show, Callable[[], float]]]:
    """A progress bar of events for something that takes a while; and the seconds it took, also afterwards."""
    began_s = time.monotonic()
    ended_s: list[float] = []
    with progress() as bar:
        task = bar.add_task(name, total=n_events, note="")

        def show(n_done: int, note: str = "") -> None:
            rate = n_done / max(time.monotonic() - began_s, 1e-9)
            bar.update(task, completed=n_done, note=f"{rate:,.0f}/s {note}")

        yield show, lambda: (ended_s or [time.monotonic()])[0] - began_s
        ended_s.append(time.monotonic())
        show(n_events)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Rank in every way, score, compare; returns everything that is reported."""
    events, queries = cut(read_events(options.events), pq.read_table(options.queries), options.first)
    stream = as_stream(events, queries)
    truth = true_answers(stream, queries)
    print(f"{events.num_rows:,} events, {queries.num_rows:,} queries", file=sys.stderr)
    rivals = [RIVALS[name] for name in options.rivals]
    for absence in (rival.absence for rival in rivals if rival.absence):
        print(f"left out: {absence}", file=sys.stderr)
    ways = our_ways(options, events, queries)
    ways += [rival_way(rival, stream, truth) for rival in rivals if not rival.absence]
    return {
        "what": "ranking quality",
        "machine": machine.facts("numba", *(rival.package for rival in rivals if rival.package)),
        "settings": {"first": options.first, "config": str(options.config), "seeds": options.seeds},
        "n_events": events.num_rows,
        "n_queries": queries.num_rows,
        "took_s": {way.name: way.took_s for way in ways if way.took_s is not None},
        "uniform_log_loss": float(uniform_log_losses(ways[0].scores_QK).mean()),
        **judged(ways, truth),
    }


def true_answers(stream: Stream, queries: pa.Table) -> Truth:
    """What the answers are judged by; no rival is given it."""
    true_Q = true_columns(queries)
    return Truth(
        true_Q=true_Q,
        people_Q=queries["user"].to_numpy(),
        age_ms_Q=stream.ages_ms(stream.candidates_QK[np.arange(len(true_Q)), true_Q]),
        hours_Q=(stream.asked_ms_Q - stream.ts_ms_E[0]) / HOUR_MS,
    )


def _rivals(text: str) -> Sequence[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in RIVALS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(RIVALS)}, got {name!r}")
    return names


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_quality", description=__doc__.partition("\n")[0])
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("queries", type=Path, help="Parquet: query_id, ts_ms, user, candidates, and the true item")
    parser.add_argument("--first", type=int, help="only so many events, and the queries up to there")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument(
        "--rivals", type=_rivals, default=list(RIVALS), help=f"some of {','.join(RIVALS)} (default all); '' for none"
    )
    parser.add_argument(
        "--ours", type=Path, help="Parquet of `headrace evaluate` on these files, instead of running it"
    )
    parser.add_argument("--live", action="store_true", help="also through the front door of a running system")
    parser.add_argument("--seeds", type=int, default=1, help="evaluate so often, each time with other luck")
    parser.add_argument("--plot", type=Path, help="write MRR@10 over time as a PNG")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    if options.plot and (reason := plotting.absence()):
        parser.error(reason)
    found = run(options)
    quality_report.report(found)
    if options.plot:
        quality_report.plot(found, options.plot)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
