"""What commands show people: text on standard error, so that standard output stays for programs."""

from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console: Final = Console(stderr=True)


def progress() -> Progress:
    """The progress bar of long work: share, counts, time left, a note."""
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
