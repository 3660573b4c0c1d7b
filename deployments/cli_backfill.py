"""`headrace backfill`: months of events into states, rows and a warm model, while the live ones go on."""

import argparse
import asyncio
import importlib
import os
import time
from dataclasses import replace
from typing import Any, Final

from rich.progress import Progress

from deployments import processes
from deployments.cluster import workers
from deployments.config import Config, load_config, with_store
from deployments.store_of_run import as_created, with_store_of_run
from deployments.terminal import console, progress
from features.backfill.stages import Plan, plan_of
from features.connect import connect
from features.event_files import read_footers

INTERRUPTED: Final = 130  # what a shell says of a command that Ctrl-C ended
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
    config = _with_store_of_run(load_config(options.config), options.port)
    plan = _plan(config, options)
    console.print(f"{plan.n_rows:,} events in {len({unit.file for unit in plan.units}):,} files", markup=False)
    try:
        with workers(options.port), progress() as bar:
            summary = _run(plan, config, bar, is_trained=not options.no_training)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from there")
        return INTERRUPTED
    took_s = time.monotonic() - began_s
    console.print(
        f"{summary.n_events:,} events of {summary.n_users:,} users and {summary.n_items:,} items "
        f"in {took_s:.1f} s, {plan.n_rows / took_s:,.0f}/s",
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


def _run(plan: Plan, config: Config, bar: Progress, *, is_trained: bool) -> Any:
    history = importlib.import_module("learners.history")
    tasks: dict[str, Any] = {}
    began_s: dict[str, float] = {}

    def show(stage: str, done: int, total: int, note: str) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(NAMES[stage], total=total, note="", completed=done)
            began_s[stage] = time.monotonic()
            first[stage] = done
        rate = (done - first[stage]) / max(time.monotonic() - began_s[stage], 1e-9)
        bar.update(tasks[stage], completed=done, note=f"{rate:,.0f}/s {note}" if done > first[stage] else note)

    first: dict[str, int] = {}
    backfill = history.Backfill(plan, config.store, {}, show, os.cpu_count() or 1)
    backfill.fold()
    summary = backfill.write()
    if is_trained:
        version = backfill.publish(backfill.train(config.learner), config.folder)
        console.print(f"a model trained on it is version {version}")
    backfill.end()
    return summary


def _with_store_of_run(config: Config, port: int) -> Config:
    """The configuration with the store of the run on this port, as that was created; a fresh store is, by this."""
    return asyncio.run(_opened(with_store_of_run(config, port)))


async def _opened(config: Config) -> Config:
    config = await as_created(config)
    config = with_store(config, ephemeral=True)  # whether it keeps what it has is for who acknowledges events
    store = connect(config.store, config.schema)
    try:
        await store.open()
    finally:
        await store.close()
    return config


def _plan(config: Config, options: argparse.Namespace) -> Plan:
    footers = read_footers([str(url) for url in options.events])
    further = {"budget_bytes": int(options.memory * MIB), "is_any_order": options.any_order}
    plan = plan_of(footers, config.schema, config.store.n_partitions, "", **further)
    root = options.folder or str(processes.home() / "backfill")
    return replace(plan, folder=f"{root.rstrip('/')}/{plan.name}")
