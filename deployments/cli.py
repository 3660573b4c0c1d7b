"""`headrace`: the command line. Parses arguments, shows progress, and leaves the work to others."""

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployments import processes
from deployments.client import Headrace, HeadraceError
from deployments.config import Config, load_config, with_store
from deployments.errors import ApiError, ConfigError
from features.errors import FeatureError

DETACH_S: Final = 150.0
STOP_S: Final = 30.0

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return int(options.run(options) or 0)
    except (ConfigError, ApiError, FeatureError, HeadraceError) as error:
        console.print(f"headrace {options.command}: {error}", style="red", markup=False)
        return 1
    except httpx.TransportError as error:
        console.print(f"headrace {options.command}: no answer from {options.url}: {error}", style="red", markup=False)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace", description="Real-time individualization as a cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = _command(commands, "up", run_up, "Start everything on this machine.", "headrace up --port 8000 --detach")
    _add_config(up)
    up.add_argument("--port", type=int, help="port of the HTTP route (default 8000)")
    up.add_argument("--clock", choices=("wall", "event"), help="event: history can be lived through")
    up.add_argument("--ephemeral", action="store_true", help="keep nothing on disk")
    up.add_argument("--detach", action="store_true", help="return once it is ready; end it with `headrace down`")
    down = _command(commands, "down", run_down, "End what `headrace up` started.", "headrace down --port 8000")
    down.add_argument("--port", type=int, default=8000)
    status = _command(commands, "status", run_status, "Show what is running.", "headrace status --json")
    status.add_argument("--port", type=int, default=8000)
    status.add_argument("--json", action="store_true")
    replay = _command(
        commands, "replay", run_replay, "Send a recorded stream through the front door.",
        "headrace replay events.parquet --queries queries.parquet --out predictions.parquet",
    )  # fmt: skip
    replay.add_argument("events", type=Path)
    replay.add_argument("--speed", type=_speed, default=None, help="max (default), or event time per wall time")
    replay.add_argument("--url", default="http://127.0.0.1:8000")
    _add_queries(replay, required=False)
    _add_attributes(replay)
    evaluate = _command(
        commands, "evaluate", run_evaluate, "Replay and learn without servers: the same loop, offline.",
        "headrace evaluate events.parquet --queries queries.parquet --out predictions.parquet",
    )  # fmt: skip
    evaluate.add_argument("events", type=Path)
    _add_config(evaluate)
    _add_queries(evaluate, required=True)
    _add_attributes(evaluate)
    demo = _command(
        commands, "demo", run_demo, "Live through a real stream and watch it learn.", "headrace demo --exit"
    )
    demo.add_argument("--exit", action="store_true", help="stop after its own checks")
    demo.add_argument("--port", type=int, default=8000)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="TOML file; every setting has a default")


def _add_queries(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--queries", type=Path, required=required, help="Parquet: query_id, ts_ms, user, candidates")
    parser.add_argument("--out", type=Path, required=required, help="where to write query_id, scores")


def _add_attributes(parser: argparse.ArgumentParser) -> None:
    for entity in ("item", "user"):
        text = f"Parquet: {entity}, perhaps ts_ms (when it became known), and an attribute a column"
        parser.add_argument(f"--{entity}s", type=Path, help=text)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("expected max, or a number above 0")
    return value


def run_up(options: argparse.Namespace) -> int:
    """Start everything and stay until told to stop; with --detach in a process of its own."""
    config = _up_config(options)
    if options.detach:
        return _detach(options, config.cluster.port)
    app = importlib.import_module("deployments.app")
    run = app.Run(config, say=lambda text: console.print(f"[dim]{text}[/dim]"), log_path=os.environ.get(LOG, ""))
    began_s = time.monotonic()
    with run, processes.termination() as stop:
        console.print(f"ready at {run.url} after {time.monotonic() - began_s:.1f} s; Ctrl-C ends it", markup=False)
        stop.wait()
        console.print("stopping")
    return 0


LOG: Final = "HEADRACE_LOG"


def _up_config(options: argparse.Namespace) -> Config:
    config = load_config(options.config)
    if options.port is not None:
        config = replace(config, cluster=replace(config.cluster, port=options.port))
    if options.clock is not None:
        config = with_store(config, clock=options.clock)
    if options.ephemeral:
        config = with_store(config, ephemeral=True)
    return config


def _detach(options: argparse.Namespace, port: int) -> int:
    arguments = [part for part in sys.argv[1:] if part != "--detach"]
    processes.home().mkdir(parents=True, exist_ok=True)
    log = processes.home() / f"up-{port}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, LOG: str(log)},
        )
    deadline_s = time.monotonic() + DETACH_S
    while time.monotonic() < deadline_s:
        record = processes.read_record(port)
        if record is not None and record.pid == child.pid:
            console.print(f"ready at http://127.0.0.1:{port}; log {log}; end it with: headrace down --port {port}")
            return 0
        if child.poll() is not None:
            break
        time.sleep(0.1)
    child.terminate()
    console.print(f"did not start; the end of {log}:\n{log.read_text()[-2000:]}", style="red", markup=False)
    return 1


def run_down(options: argparse.Namespace) -> int:
    """End a run by its record: ask its leader, then sweep whatever carries its mark."""
    record = processes.read_record(options.port)
    if record is None:
        console.print(f"nothing is recorded on port {options.port}")
        return 1
    if not processes.is_stale(record):
        processes.ask_to_stop(record, wait_s=STOP_S)
    left = processes.sweep(record.run_id)
    cluster = importlib.import_module("deployments.cluster")
    cluster.remove_run_folder(record.run_id)
    processes.remove_record(record.port, record.run_id)
    console.print(f"down{f'; {len(left)} leftover processes ended' if left else ''}")
    return 0


def run_status(options: argparse.Namespace) -> int:
    """Show the run and the model; exit status 1 if it does not answer."""
    record = processes.read_record(options.port)
    status: dict[str, Any] = {"running": record is not None and not processes.is_stale(record), "port": options.port}
    options.url = f"http://127.0.0.1:{options.port}"
    try:
        with Headrace(options.url, timeout_s=5.0) as client:
            status["health"] = client.get("/v1/health")["status"]
            status["model"] = client.get("/v1/model")
            status["running"] = True
    except (HeadraceError, httpx.TransportError) as error:
        status["health"] = str(error)
    if record is not None:
        status |= {"pid": record.pid, "ray": record.ray_address, "log": record.log_path}
    if options.json:
        print(json.dumps(status))
    else:
        for name, value in status.items():
            console.print(f"{name:8} {value}", markup=False)
    return 0 if status["health"] == "ok" else 1


def run_replay(options: argparse.Namespace) -> int:
    """Replay with progress, rate and lag; write predictions if asked queries."""
    replay = importlib.import_module("deployments.replay")
    if (options.queries is None) != (options.out is None):
        raise ConfigError("--queries and --out belong together")
    events = replay.read_events(options.events)
    queries = replay.read_queries(options.queries) if options.queries else None
    items, users = _attributes(options)
    with Headrace(options.url, timeout_s=60.0) as client, progress() as bar:
        show = ReplayProgress(bar, client, events.num_rows, queries.num_rows if queries is not None else 0)
        tally = replay.Replay(client, options.speed, show).run(events, queries, items, users)
    console.print(
        f"{tally.accepted} events accepted, {tally.duplicates} duplicates, {tally.rejected} rejected; "
        f"{tally.events_per_s:.0f} events/s; {tally.n_queries} queries"
    )
    if tally.first_rejection is not None:
        console.print(f"first rejection: {tally.first_rejection}", style="yellow", markup=False)
        if tally.rejected > tally.accepted:
            console.print("history needs the event clock: headrace up --clock event", style="yellow")
    if options.out is not None:
        pq.write_table(tally.predictions(), options.out)
    return 0


class ReplayProgress:
    """Shows a replay's tally, and once a second how far the weights are behind it."""

    def __init__(self, bar: Progress, client: Headrace, n_events: int, n_queries: int) -> None:
        self._bar = bar
        self._client = client
        self._events = bar.add_task("events", total=n_events, note="")
        self._queries = bar.add_task("queries", total=n_queries, note="", visible=n_queries > 0)
        self._asked_s = 0.0
        self.model: dict[str, Any] = {}

    def __call__(self, tally: Any) -> None:
        """Redraw."""
        sent = tally.accepted + tally.duplicates + tally.rejected
        if time.monotonic() - self._asked_s >= 1.0:
            self.model = self._client.get("/v1/model")
            self._asked_s = time.monotonic()
        lag_s = max(0, tally.log_ms - self.model.get("trained_through_ms", 0)) / 1000.0
        lag = f"weights {lag_s:.1f} s of log behind" if self.model.get("version") else "no weights yet"
        loss = self.model.get("progressive", {}).get("logloss")
        learned = f", log loss {loss:.3f}" if loss is not None else ""
        self._bar.update(self._events, completed=sent, note=f"{tally.events_per_s:,.0f}/s, {lag}{learned}")
        self._bar.update(self._queries, completed=tally.n_queries)


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


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate offline with progress; write predictions, and judge them if the query file names the true items."""
    replay = importlib.import_module("deployments.replay")
    evaluation = importlib.import_module("learners.evaluation")
    config = load_config(options.config)
    events, queries = replay.read_events(options.events), replay.read_queries(options.queries)
    items, users = _attributes(options)
    n_rows = sum(table.num_rows for table in (events, items, users) if table is not None)
    began_s = time.monotonic()
    with progress() as bar:
        task = bar.add_task("events", total=n_rows, note="")

        def show(n_done: int, note: str = "") -> None:
            rate = n_done / max(time.monotonic() - began_s, 1e-9)
            bar.update(task, completed=n_done, note=f"{rate:,.0f}/s {note}")

        predictions: pa.Table = evaluation.evaluate(
            events, queries, config.schema, config.learner, show, items=items, users=users
        )
    pq.write_table(predictions, options.out)
    console.print(f"{predictions.num_rows} queries written to {options.out}", markup=False)
    _judge(predictions, replay.read_answers(options.queries))
    return 0


def _attributes(options: argparse.Namespace) -> tuple[pa.Table | None, pa.Table | None]:
    """The tables of items and of users, as far as they are given."""
    read = importlib.import_module("deployments.replay").read_attributes
    return read(options.items, "item"), read(options.users, "user")


def _judge(predictions: pa.Table, answers: pa.Table | None) -> None:
    """Show what predictions are worth; only here, after the run, do they meet the true items."""
    if answers is None:
        return
    try:
        judged = importlib.import_module("learners.answers").judge(predictions, answers)
    except ValueError as error:
        raise ConfigError(f"the predictions are written, but cannot be judged: {error}") from None
    for name, figure in judged.items():
        console.print(f"{name:8} {figure}", markup=False, highlight=False)


def run_demo(options: argparse.Namespace) -> int:
    """Run the demonstration."""
    demo = importlib.import_module("deployments.demo")
    return int(demo.run(port=options.port, is_exit=options.exit))


if __name__ == "__main__":
    sys.exit(main())
