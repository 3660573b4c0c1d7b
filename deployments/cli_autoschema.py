"""`headrace autoschema`: look at recorded events, and propose a schema for them."""

import argparse
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.progress import Progress

from deployments import replay
from deployments.errors import ConfigError
from deployments.terminal import console, progress
from features.autoschema.declaration import toml_of
from features.autoschema.head import head, row_bytes, user_bytes
from features.autoschema.proposal import Proposal, n_steps, propose
from features.autoschema.sample import Sample, read_sample
from features.errors import BadFile
from features.event_files import Footer, read_footers
from features.schema import Schema

INTERRUPTED: Final = 130  # as a shell says of what SIGINT ended


def run_autoschema(options: argparse.Namespace) -> int:
    """Propose a schema; write it to standard output or a file, and a summary to standard error."""
    try:
        return _run(options)
    except KeyboardInterrupt:
        console.print("interrupted; nothing is written")
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.exists() and not options.force:
        raise ConfigError(f"{options.out} is there already; --force puts another one in its place")
    items, users = replay.read_attributes(options.items, "item"), replay.read_attributes(options.users, "user")
    footers = read_footers(options.events)
    with progress() as bar:
        sample = _read(footers, options, bar)
        task = bar.add_task("measure", total=n_steps(sample), note="")
        proposal = propose(sample, items, users, lambda note: bar.update(task, advance=1, note=note))
        bar.update(task, completed=n_steps(sample), note="")
    text = toml_of(proposal, head(sample, proposal.schema, _sources(options, footers)))
    if options.out is None:
        print(text, end="")
    else:
        _write(options.out, text)
    _summarize(sample, proposal, options.out)
    return 0


def _read(footers: list[Footer], options: argparse.Namespace, bar: Progress) -> Sample:
    n_all = min(options.sample, sum(footer.n_rows for footer in footers))
    sample = read_sample(footers, options.sample, _reading(bar, n_all))
    if not len(sample):
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(sample.faults.items()))
        raise BadFile(f"no event can be taken: {reasons}", ", ".join(options.events))
    return sample


def _reading(bar: Progress, n_all: int) -> Callable[[int], None]:
    """Shows how much is read, and how fast."""
    task, began_s = bar.add_task("events", total=n_all, note=""), time.monotonic()

    def show(n_read: int) -> None:
        rate = n_read / max(time.monotonic() - began_s, 1e-9)
        bar.update(task, completed=n_read, note=f"{rate:,.0f}/s")

    return show


def _sources(options: argparse.Namespace, footers: list[Footer]) -> list[str]:
    """What was named, as it was named, but for passwords."""
    named = [*options.events, *(str(path) for path in (options.items, options.users) if path is not None)]
    n_bytes = sum(footer.file.size for footer in footers)
    files = "one file" if len(footers) == 1 else f"{len(footers)} files"
    return [*map(shown, named), f"({files} of events, {n_bytes / 1e6:,.1f} MB)"]


def shown(name: str) -> str:
    """A path or URL without the password that may stand in it."""
    return re.sub(r"://[^/]*@", "://", name)


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)


def _summarize(sample: Sample, proposal: Proposal, out: Path | None) -> None:
    schema: Schema = proposal.schema
    splits = [counter.split for counter in schema.counters if counter.split is not None]
    for line in (
        f"{len(sample):,} of {sample.n_all:,} events looked at, {len(sample.user):,} users, {len(sample.item):,} items",
        f"context: {', '.join(schema.context) or 'none'}; counters of items split by {', '.join(splits) or 'nothing'}",
        f"{user_bytes(schema, sample):,} bytes a user, {row_bytes(schema):,} bytes an item",
        f"written to {out}; use it with --config {out}" if out is not None else "",
    ):
        if line:
            console.print(line, markup=False, highlight=False)
