"""What commands show people: text on standard error, so that standard output stays for programs."""

from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console: Final = Console(stderr=True)
INTERRUPTED: Final = 130  # what a shell says of a command that Ctrl-C ended


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
