"""`headrace versions|rollback|resume`: which version answers, and back to one that did before."""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.credentials import connected
from deployments.terminal import console, user_name, utc
from learners.checkpoints import spans


def run_versions(options: argparse.Namespace) -> int:
    """Show what became of versions, by whom and why, and which are kept."""
    with connected(options.url) as client:
        told = client.get("/v1/model/versions")
    if options.json:
        print(json.dumps(told))
    else:
        show(told, Console())
    return 0


def run_rollback(options: argparse.Namespace) -> int:
    """Have replicas answer with an earlier version, or stay at the one that answers."""
    with connected(options.url, timeout_s=60.0) as client:
        version = client.rollback(options.version, who=user_name(), reason=options.reason)
    console.print(f"version {version} answers, until: headrace resume", markup=False)
    return 0


def run_resume(options: argparse.Namespace) -> int:
    """Have replicas follow the newest version again."""
    with connected(options.url, timeout_s=60.0) as client:
        version = client.resume(who=user_name(), reason=options.reason)
    console.print(f"versions are published again, from {version} on", markup=False)
    return 0


def show(told: dict[str, Any], to: Console) -> None:
    """Draw it, newest last."""
    table = Table(title="versions", title_justify="left")
    for column in ("versions", "what", "from (UTC)", "until", "who", "why"):
        table.add_column(column)
    for line in told["history"]:
        numbers = str(line["first"]) if line["first"] == line["last"] else f"{line['first']}-{line['last']}"
        until = utc(line["until_ms"])[11:] if line["until_ms"] != line["since_ms"] else ""
        table.add_row(numbers, line["what"], utc(line["since_ms"]), until, line["who"], line["why"])
    to.print(table)
    pinned = f", and stays; {told['current']} is learned meanwhile" if told["pinned"] else ""
    to.print(f"{told['live']} answers{pinned}; kept: {spans(told['kept'])}", markup=False, highlight=False)
