"""`headrace sources|quarantine|release`: what each source of events sends, and whose events do not count."""

import argparse
import json
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from deployments.credentials import connected
from deployments.terminal import console, user_name, utc

COLUMNS: Final = ("source", "counts", "held", "invalid", "newest", "age", "same", "labels", "")


def run_sources(options: argparse.Namespace) -> int:
    """Show every source, as the replica that answers knows it, and what is wrong with which."""
    with connected(options.url) as client:
        told = client.get("/v1/sources")
    if options.json:
        print(json.dumps(told))
        return 0
    show(told, Console())
    for problem in told["problems"]:
        console.print(problem, style="yellow", markup=False, highlight=False)
    return 0


def run_quarantine(options: argparse.Namespace) -> int:
    """Have what a source sends kept, and nothing else."""
    with connected(options.url) as client:
        found = client.quarantine(options.source, who=user_name(), reason=options.reason)
    console.print(
        f"source {options.source!r} is in quarantine since {utc(found['since_ms'])} UTC, by {found['who']}; until: "
        f"headrace release {options.source}",
        markup=False,
    )
    return 0


def run_release(options: argparse.Namespace) -> int:
    """Have what a source sends count again."""
    with connected(options.url) as client:
        client.release(options.source, who=user_name())
    console.print(f"what source {options.source!r} sends counts again", markup=False)
    return 0


def show(told: dict[str, Any], to: Console) -> None:
    """Draw it, by name: events that count, that are held in quarantine, that were invalid; of the newest ones how many
    are, how old the youngest was as it came, which fields are always the same; how far labels agree with what answers.
    """
    table = Table(title="sources", title_justify="left")
    for column in COLUMNS:
        table.add_column(column)
    for name, source in told["sources"].items():
        lag = "" if source["lag_s"] is None else f"{source['lag_s']:,.1f} s"
        same = ", ".join(field for field, ratio in source["same"].items() if ratio >= 1.0)
        counts = [f"{source[what]:,}" for what in ("accepted", "quarantined", "invalid")]
        labels = "" if source["labels"] is None else f"{source['labels']['agreement']:.0%}"
        state = "" if source["quarantine"] is None else "quarantine"
        table.add_row(name or "(none)", *counts, f"{source['invalid_ratio']:.0%}", lag, same, labels, state)
    to.print(table)
