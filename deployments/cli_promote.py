"""`headrace promote`: a lineage in the place of what serves; without a name, which ones there are."""

import argparse
import asyncio
import importlib
import os
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from deployments.cli_backfill import NAMES, interruptible
from deployments.cli_replay import root_of
from deployments.cluster import workers
from deployments.config import Config, load_config
from deployments.errors import ConfigError
from deployments.store_of_run import with_store_of_run
from deployments.terminal import INTERRUPTED, Stages, console, progress, user_name
from features.access import Action
from features.backfill.lineages import Lineage, lineages
from features.backfill.planning import Plan
from features.clock import WallClock
from features.connect import access_of


def run_promote(options: argparse.Namespace) -> int:
    """Promote a lineage, or list them; exit status 130 if the user stopped it."""
    there = lineages(root_of(options))
    if options.name is None:
        Console().print(_table(there))
        return 0
    config = load_config(options.config)
    lineage = _chosen(there, options.name, config)
    config = with_store_of_run(config, options.port)
    plan = lineage.begun.plan
    if plan.n_partitions != config.store.n_partitions:
        raise ConfigError(
            f"store.n_partitions: expected that of the lineage, {plan.n_partitions}, got {config.store.n_partitions}"
        )
    asyncio.run(_note(config, lineage))
    try:
        with workers(options.port), interruptible(), progress() as bar:
            _put_in_place(plan, config, Stages(bar, NAMES))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from there")
        return INTERRUPTED
    return 0


async def _note(config: Config, lineage: Lineage) -> None:
    """Put into the record who promotes what."""
    store = access_of(config.store)
    try:
        await store.note_action(Action(WallClock().now_ms(), user_name(), "promote", lineage.name))
    finally:
        await store.close()


def _chosen(there: list[Lineage], name: str, config: Config) -> Lineage:
    lineage = next((one for one in there if one.name == name), None)
    if lineage is None:
        known = ", ".join(one.name for one in there) or "none"
        raise ConfigError(f"NAME: expected a lineage ({known}), got {name!r}")
    if lineage.made is None:
        raise ConfigError(f"lineage {name} is not finished: give the same headrace replay again")
    made, mine = lineage.begun.plan.schema.fingerprint, config.schema.fingerprint
    if made != mine:
        raise ConfigError(f"schema: expected that of the lineage, {made:016x}, got {mine:016x}: give its --config")
    return lineage


def _put_in_place(plan: Plan, config: Config, show: Stages) -> None:
    history = importlib.import_module("learners.history")  # which needs Ray: its environment is set by now
    backfill = history.Backfill(plan, config.store, show, os.cpu_count() or 1)
    backfill.write(is_deep=bool(config.store.archive))
    version = backfill.publish(backfill.train(config.learner), config.folder)
    left = "its model is left beside the durable versions: a hub that runs adopts it within seconds"
    console.print(left if version is None else f"its model is version {version}")
    backfill.end()


def _table(there: list[Lineage]) -> Table:
    table = Table("lineage", "made (UTC)", "without", "counted in", "events")
    for one in there:
        choice, made = one.begun.plan.choice, one.made
        at = datetime.fromtimestamp(made.made_ms / 1000.0, UTC).strftime("%Y-%m-%d %H:%M:%S") if made else "unfinished"
        n_events = f"{made.n_events:,}" if made else ""
        table.add_row(one.name, at, ", ".join(choice.without), ", ".join(choice.counted), n_events)
    return table
