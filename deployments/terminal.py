"""What commands show people: text on standard error, so that standard output stays for programs."""

import getpass
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

console: Final = Console(stderr=True)
INTERRUPTED: Final = 130  # what a shell says of a command that Ctrl-C ended


def user_name() -> str:
    """Whoever types; in a container that may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def utc(ms: int) -> str:
    """An instant, for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def progress(*, is_in_bytes: bool = False) -> Progress:
    """The progress bar of long work: share, counts, time left, a note.

    Args:
        is_in_bytes: Whether what counts is bytes, to be shown in kB and MB.
    """
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        DownloadColumn() if is_in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class Stages:
    """Shows work in stages: a bar for each, with its rate and a note; called with stage, done, total and note.

    Args:
        names: What to call each stage.
    """

    def __init__(self, bar: Progress, names: Mapping[str, str]) -> None:
        self._bar = bar
        self._names = names
        self._begun: dict[str, tuple[TaskID, int, float]] = {}

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Redraw."""
        if stage not in self._begun:
            task = self._bar.add_task(self._names[stage], total=total, note="")
            self._begun[stage] = task, done, time.monotonic()  # what was done before says nothing of the rate
        task, first, began_s = self._begun[stage]
        rate = (done - first) / max(time.monotonic() - began_s, 1e-9)
        self._bar.update(task, completed=done, note=f"{rate:,.0f}/s {note}" if done > first else note)
