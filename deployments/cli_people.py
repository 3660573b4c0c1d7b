"""`headrace erase|export`: what a person may ask for."""

import argparse
import asyncio
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, Final

from deployments.cli_archive import TIMEOUT_S
from deployments.client import Headrace
from deployments.config import Config, load_config
from deployments.credentials import connected
from deployments.errors import ConfigError
from deployments.processes import termination
from deployments.store_of_run import with_store_of_run
from deployments.terminal import INTERRUPTED, console, utc
from features.connect import connect
from features.exporting import export
from features.log_files import LogFiles

LOOK_S: Final = 1.0


def run_erase(options: argparse.Namespace) -> int:
    """Have a person erased; with --wait exit status 130 if the user did not wait for it."""
    with connected(options.url) as client, termination() as stop:
        name = client.erase(options.user)
        if not options.wait:
            where = f"{options.url}/v1/erasures/{name}"
            console.print(
                f"the state is erased, everything else will be: {where} tells when", markup=False, soft_wrap=True
            )
            return 0
        told = _wait(client, name, stop)
    if told is None:
        console.print(f"stopped waiting; it goes on: {options.url}/v1/erasures/{name}", markup=False, soft_wrap=True)
        return INTERRUPTED
    console.print(
        f"erased at {utc(told['done_ms'])} UTC, {(told['done_ms'] - told['asked_ms']) / 1000:.0f} s after it was asked"
    )
    return 0


def _wait(client: Headrace, name: str, stop: threading.Event) -> dict[str, Any] | None:
    """Until it is done; None if that is not waited for."""
    told = client.erasure(name)
    while told["state"] != "done":
        if stop.wait(LOOK_S):
            return None
        told = client.erasure(name)
    return told


def run_export(options: argparse.Namespace) -> int:
    """Write what is known of a person, from the store and the archive themselves."""
    config = with_store_of_run(load_config(options.config), options.port)
    archive = options.archive or config.store.archive
    if options.out is None:
        asyncio.run(_export(config, archive, options.user, sys.stdout.buffer))
        return 0
    with _new_file(options.out) as out:
        n_lines = asyncio.run(_export(config, archive, options.user, out))
    console.print(f"{n_lines - 1:,} entries and the state, in {options.out}", markup=False)
    return 0


async def _export(config: Config, archive: str, user: str, out: BinaryIO) -> int:
    """Returns the number of lines."""
    store, n_lines = connect(config.store, config.schema, timeout_s=TIMEOUT_S), 0
    try:
        async for line in export(user, store, LogFiles(archive) if archive else None):
            out.write(line)
            n_lines += 1
    finally:
        await store.close()
    return n_lines


def _new_file(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise ConfigError(f"--out: {error}") from None
