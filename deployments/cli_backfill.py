"""`headrace backfill`: months of events into states, rows and a warm model, while the live ones go on."""

import argparse
import importlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from rich.progress import Progress

from deployments import processes
from deployments.cluster import workers
from deployments.config import Config, load_config
from deployments.store_of_run import with_store_of_run
from deployments.terminal import INTERRUPTED, Stages, console, progress
from features.backfill.planning import Plan, plan_of

MIB: Final = 2**20
NAMES: Final = {
    "check": "check",
    "people": "people",
    "items": "items",
    "written-people": "states",
    "written-rows": "rows",
    "train": "train",
}


def run_backfill(options: argparse.Namespace) -> int:
    """Backfill with progress; exit status 130 if the user stopped it."""
    began_s = time.monotonic()
    config = with_store_of_run(load_config(options.config), options.port)
    plan = _plan(config, options)
    console.print(f"{plan.n_rows:,} events in {len({unit.file for unit in plan.units}):,} files", markup=False)
    try:
        with workers(options.port), interruptible(), progress() as bar:
            summary = _run(plan, config, bar, is_trained=not options.no_training)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from there")
        return INTERRUPTED
    took_s = time.monotonic() - began_s
    through = datetime.fromtimestamp(summary.last_ms / 1000.0, UTC)
    console.print(
        f"{summary.n_events:,} events of {summary.n_users:,} users and {summary.n_items:,} items "
        f"through {through:%Y-%m-%d %H:%M:%S} UTC in {took_s:.1f} s, {plan.n_rows / took_s:,.0f}/s",
        markup=False,
    )
    if summary.n_duplicates:
        console.print(
            f"{summary.n_duplicates:,} events came again (the same user and id) and count once; "
            f"the first: {summary.first_duplicate}",
            style="yellow",
            markup=False,
        )
    return 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGINT and SIGTERM end what is going on, whatever was made of them before, by Ray or by a shell."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(plan: Plan, config: Config, bar: Progress, *, is_trained: bool) -> Any:
    history = importlib.import_module("learners.history")  # which needs Ray: its environment is set by now
    backfill = history.Backfill(plan, config.store, Stages(bar, NAMES), os.cpu_count() or 1)
    summary = backfill.fold()
    backfill.write()
    if is_trained:
        version = backfill.publish(backfill.train(config.learner), config.folder)
        left = "a model trained on it is left beside the durable versions: a hub that runs adopts it within seconds"
        console.print(left if version is None else f"a model trained on it is version {version}")
    backfill.end()
    return summary


def _plan(config: Config, options: argparse.Namespace) -> Plan:
    further = {"budget_bytes": int(options.memory * MIB), "is_any_order": options.any_order}
    plan = plan_of(options.events, config.schema, config.store.n_partitions, "", **further)
    root = options.folder or str(processes.home() / "backfill")
    return replace(plan, folder=f"{root.rstrip('/')}/{plan.name}")
