"""`headrace keys|audit`: who may come in, and what was done with power.

Keys are changed in the store itself, the run's on this machine or the configured one; what is done is read over HTTP.
The token goes to standard output and everything else to standard error, so that a script can catch it.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from deployments.config import load_config
from deployments.credentials import connected
from deployments.key_ring import KeyRing
from deployments.store_of_run import named_store
from deployments.terminal import console, user_name, utc
from features.access import ApiKey
from features.clock import WallClock
from features.connect import access_of

DAY_S = 86_400.0


def run_keys(options: argparse.Namespace) -> int:
    """Show the keys."""
    keys = _with_ring(options, lambda ring: ring.all())
    if options.json:
        print(json.dumps([_shown(key) for key in keys]))
    else:
        Console().print(_table(keys))
    return 0


def run_add(options: argparse.Namespace) -> int:
    """Make a key, and show it once."""
    lasts_s = options.days * DAY_S

    def make(ring: KeyRing) -> Awaitable[str]:
        return ring.make(
            options.name, options.scope, lasts_s=lasts_s, per_s=options.per_s, sources=options.source or ()
        )

    _show_token(_with_ring(options, make))
    return 0


def run_rotate(options: argparse.Namespace) -> int:
    """Make a key in the place of others."""
    _show_token(_with_ring(options, lambda ring: ring.rotate(options.name, keep_s=options.keep_s)))
    console.print(f"what {options.name!r} had before opens for another {options.keep_s:g} s", markup=False)
    return 0


def run_revoke(options: argparse.Namespace) -> int:
    """Take keys away."""
    gone = _with_ring(options, lambda ring: ring.revoke(options.name))
    for key in gone:
        console.print(f"key {key.id} of {key.name!r} opens nothing from a second on", markup=False)
    return 0


def run_audit(options: argparse.Namespace) -> int:
    """Show what was done with power, newest first."""
    with connected(options.url) as client:
        actions = client.get(f"/v1/audit?last={options.last}")["actions"]
    if options.json:
        print(json.dumps(actions))
        return 0
    table = Table(title="done with power", title_justify="left")
    for column in ("at (UTC)", "who", "what", "about", "version", "reason"):
        table.add_column(column)
    for one in actions:
        versions = "" if one["before"] is None else f"{one['before']} -> {one['after']}"
        reason = f"{one['reason']} (failed: {one['failed']})" if one["failed"] else one["reason"]
        table.add_row(utc(one["at_ms"]), one["who"], one["what"], one["about"], versions, reason.strip())
    Console().print(table)
    return 0


def _with_ring(options: argparse.Namespace, work: Callable[[KeyRing], Awaitable[Any]]) -> Any:
    config = named_store(load_config(options.config), options.port)

    async def done() -> Any:
        async with KeyRing(access_of(config.store), user_name(), WallClock().now_ms) as ring:
            return await work(ring)

    return asyncio.run(done())


def _show_token(token: str) -> None:
    console.print("the key, shown this once; as a header: authorization: Bearer KEY, for commands: HEADRACE_API_KEY")
    print(token)


def _shown(key: ApiKey) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(key).items() if name != "digest"}


def _table(keys: list[ApiKey]) -> Table:
    table = Table(title="keys", title_justify="left")
    for column in ("name", "id", "may", "a second", "sends for", "made (UTC)", "until"):
        table.add_column(column)
    for key in keys:
        rate = f"{key.per_s:g}" if key.per_s else ""
        until = utc(key.until_ms) if key.until_ms else ""
        table.add_row(key.name, key.id, ", ".join(key.scopes), rate, ", ".join(key.sources), utc(key.made_ms), until)
    return table
