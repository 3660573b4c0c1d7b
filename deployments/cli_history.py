"""`headrace replay|evaluate`: recorded streams, through the front door or without servers."""

import argparse
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from deployments import replay
from deployments.client import Headrace
from deployments.config import load_config
from deployments.credentials import connected
from deployments.errors import ConfigError
from deployments.terminal import console, progress
from learners.answers import judge
from learners.evaluation import evaluate


def run_replay(options: argparse.Namespace) -> int:
    """Replay with progress, rate and lag; write predictions if asked queries."""
    if (options.queries is None) != (options.out is None):
        raise ConfigError("--queries and --out belong together")
    events = replay.without(replay.read_events(options.events), options.without or ())
    queries = replay.read_queries(options.queries) if options.queries else None
    items, users = _attributes(options)
    with connected(options.url, timeout_s=60.0) as client, progress() as bar:
        show = ReplayProgress(bar, client, events.num_rows, queries.num_rows if queries is not None else 0)
        tally = replay.Replay(client, options.speed, show).run(events, queries, items, users)
    console.print(
        f"{tally.accepted} events accepted, {tally.duplicates} duplicates, {tally.quarantined} into quarantine, "
        f"{tally.rejected} rejected; "
        f"{tally.events_per_s:.0f} events/s; {tally.n_queries} queries"
    )
    if tally.first_rejection is not None:
        console.print(f"first rejection: {tally.first_rejection}", style="yellow", markup=False)
        if tally.rejected > tally.accepted:
            console.print("history needs the event clock: headrace up --clock event", style="yellow")
    if options.out is not None:
        pq.write_table(tally.predictions(), options.out)
    return 0


class ReplayProgress:
    """Shows a replay's tally, and once a second how far the weights are behind it."""

    def __init__(self, bar: Progress, client: Headrace, n_events: int, n_queries: int) -> None:
        self._bar = bar
        self._client = client
        self._events = bar.add_task("events", total=n_events, note="")
        self._queries = bar.add_task("queries", total=n_queries, note="", visible=n_queries > 0)
        self._asked_s = 0.0
        self.model: dict[str, Any] = {}

    def __call__(self, tally: Any) -> None:
        """Redraw."""
        if time.monotonic() - self._asked_s >= 1.0:
            self.model = self._client.get("/v1/model")
            self._asked_s = time.monotonic()
        lag_s = max(0, tally.log_ms - self.model.get("trained_through_ms", 0)) / 1000.0
        lag = f"weights {lag_s:.1f} s of log behind" if self.model.get("version") else "no weights yet"
        loss = self.model.get("progressive", {}).get("logloss")
        learned = f", log loss {loss:.3f}" if loss is not None else ""
        self._bar.update(self._events, completed=tally.n_sent, note=f"{tally.events_per_s:,.0f}/s, {lag}{learned}")
        self._bar.update(self._queries, completed=tally.n_queries)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate offline with progress; write predictions, and judge them if the query file names the true items."""
    config = load_config(options.config)
    events, queries = replay.read_events(options.events), replay.read_queries(options.queries)
    items, users = _attributes(options)
    n_rows = sum(table.num_rows for table in (events, items, users) if table is not None)
    began_s = time.monotonic()
    with progress() as bar:
        task = bar.add_task("events", total=n_rows, note="")

        def show(n_done: int, note: str = "") -> None:
            rate = n_done / max(time.monotonic() - began_s, 1e-9)
            bar.update(task, completed=n_done, note=f"{rate:,.0f}/s {note}")

        predictions: pa.Table = evaluate(events, queries, config.schema, config.learner, show, items=items, users=users)
    pq.write_table(predictions, options.out)
    console.print(f"{predictions.num_rows} queries written to {options.out}", markup=False)
    _judge(predictions, replay.read_answers(options.queries))
    return 0


def _attributes(options: argparse.Namespace) -> tuple[pa.Table | None, pa.Table | None]:
    """The tables of items and of users, as far as they are given."""
    return replay.read_attributes(options.items, "item"), replay.read_attributes(options.users, "user")


def _judge(predictions: pa.Table, answers: pa.Table | None) -> None:
    """Show what predictions are worth; only here, after the run, do they meet the true items."""
    if answers is None:
        return
    try:
        judged = judge(predictions, answers)
    except ValueError as error:
        raise ConfigError(f"the predictions are written, but cannot be judged: {error}") from None
    for name, figure in judged.items():
        console.print(f"{name:8} {figure}", markup=False, highlight=False)
