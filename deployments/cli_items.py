"""`headrace items`: a catalogue from a file, loaded into what is running."""

import argparse
import threading
import time
from pathlib import Path
from typing import Final

import httpx
from rich.progress import Progress, TaskID

from deployments.client import Headrace, HeadraceError
from deployments.config import load_config
from deployments.credentials import connected
from deployments.errors import ClusterError, ConfigError
from deployments.item_batches import Batch, ItemSender, StoppedError, batches
from deployments.item_progress import Load, RejectedFile, StateFile, Tally
from deployments.processes import termination
from deployments.terminal import INTERRUPTED, console, progress
from features.catalogue import Catalogue
from features.errors import FeatureError
from features.schema import Schema

TIMEOUT_S: Final = 10.0  # of one request; as long as Ctrl-C may have to wait


def run_items(options: argparse.Namespace) -> int:
    """Load a catalogue; exit status 1 if a row was rejected, 130 if the user stopped it."""
    if not options.tag_separator:
        raise ConfigError("--tag-separator: expected some text, got none")
    schema = load_config(options.config).schema
    with termination() as stop:
        catalogue = Catalogue(options.file, schema, form=options.format, tag_separator=options.tag_separator)
        loading = Loading(catalogue, _load(options, schema), stop, is_anew=options.restart)
        return loading.run(options.url)


def _load(options: argparse.Namespace, schema: Schema) -> Load:
    rejected_path = options.rejected or options.file.with_name(f"{options.file.name}.rejected.ndjson")
    if rejected_path.resolve() == options.file.resolve():
        raise ConfigError("--rejected: expected another file than the catalogue")
    reading = f"{schema.fingerprint:x} {options.format} {options.tag_separator}"
    return Load.of(options.file, options.url, rejected_path, reading)


class Loading:
    """One run of the command: from the first row that is not settled to the last, or to Ctrl-C.

    Args:
        is_anew: Whether to begin with the first row, whatever was settled before.
    """

    def __init__(self, catalogue: Catalogue, load: Load, stop: threading.Event, *, is_anew: bool) -> None:
        self._catalogue = catalogue
        self._load = load
        self._stop = stop
        self._state = StateFile(load)
        self._tally = Tally() if is_anew else self._state.read()
        self._n_before = self._tally.n_rows
        self._began_s: float | None = None

    def run(self, url: str) -> int:
        """Load, show how it goes, and say what was done; returns the exit status."""
        if self._n_before:
            console.print(f"going on after {self._done()}; --restart begins anew", markup=False)
        try:
            with (
                RejectedFile(Path(self._load.rejected_path), self._tally.rejected_bytes) as rejected,
                connected(url, timeout_s=TIMEOUT_S) as client,
            ):
                self._send(client, rejected)
        except StoppedError:
            console.print(f"stopped after {self._done()}; the same command goes on from there", markup=False)
            return INTERRUPTED
        except (HeadraceError, ClusterError, FeatureError, httpx.TransportError):
            if self._tally.n_rows:
                console.print(f"{self._done()}; the same command goes on from there", markup=False)
            raise
        self._state.remove()
        return self._sum_up()

    def _send(self, client: Headrace, rejected: RejectedFile) -> None:
        is_in_bytes = self._catalogue.n_rows is None
        with progress(is_in_bytes=is_in_bytes) as bar:
            total = self._catalogue.n_bytes if is_in_bytes else self._catalogue.n_rows
            task = bar.add_task("items", total=total, completed=0 if is_in_bytes else self._n_before, note="")
            sender = ItemSender(client, self._stop.wait, lambda text: self._show(bar, task, text))
            for batch in batches(self._catalogue.rows(self._n_before)):
                if self._stop.is_set():
                    raise StoppedError
                self._began_s = self._began_s or time.monotonic()  # after what was settled before has been passed over
                self._settle(batch, sender, rejected)
                self._show(bar, task)

    def _settle(self, batch: Batch, sender: ItemSender, rejected: RejectedFile) -> None:
        refused = [
            self._catalogue.reject(row, error["message"], error.get("path", ""))
            for row, error in sender.send(batch.items)
        ]
        bad = sorted(batch.rejected + refused)
        rejected.write(bad)
        tally = self._tally
        if bad and not tally.first_rejection:
            tally.first_rejection = str(bad[0])
        tally.n_rows += batch.n_rows
        tally.n_rejected += len(bad)
        tally.n_repeated += batch.n_rows - len(batch.items) - len(batch.rejected)
        tally.rejected_bytes = rejected.n_bytes
        self._state.write(tally)

    def _rate(self) -> str:
        took_s = time.monotonic() - self._began_s if self._began_s is not None else 0.0
        return f"{(self._tally.n_rows - self._n_before) / max(took_s, 1e-9):,.0f}/s"

    def _show(self, bar: Progress, task: TaskID, problem: str = "") -> None:
        is_in_bytes = self._catalogue.n_rows is None
        done = self._catalogue.position_bytes() if is_in_bytes else self._tally.n_rows
        rejected = f", {self._tally.n_rejected:,} rejected" if self._tally.n_rejected else ""
        bar.update(task, completed=done, note=f"{self._rate()}{rejected}{', ' if problem else ''}{problem}")

    def _done(self) -> str:
        """What is done, in words."""
        tally, n_rows = self._tally, self._catalogue.n_rows
        of = f" of {n_rows:,}" if n_rows is not None and n_rows > tally.n_rows else ""
        repeated = f", {tally.n_repeated:,} said again by a later row" if tally.n_repeated else ""
        return f"{tally.n_rows:,}{of} rows: {tally.n_loaded:,} loaded, {tally.n_rejected:,} rejected{repeated}"

    def _sum_up(self) -> int:
        console.print(f"{self._done()}; {self._rate()}", markup=False)
        if not self._tally.n_rejected:
            return 0
        console.print(f"rejected rows: {self._load.rejected_path}", markup=False)
        console.print(f"the first: {self._tally.first_rejection}", style="yellow", markup=False)
        return 1
