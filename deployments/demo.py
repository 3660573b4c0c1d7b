"""`make demo`: start everything, live through a real stream, show a ranking before and after three clicks, and measure
the three promises on this very run.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.app import Run
from deployments.cli_history import ReplayProgress
from deployments.client import Headrace
from deployments.config import Config, load_config, with_store
from deployments.demo_data import DemoStream, FetchError, movielens, simulated
from deployments.processes import home, termination
from deployments.replay import Replay
from deployments.terminal import progress

N_RANKS: Final = 300
N_VISIBLE: Final = 200
N_LEARNED: Final = 10
N_CANDIDATES: Final = 100
LEARN_WAIT_S: Final = 600.0
EVERY_S: Final = 0.5
SLOWEST_S: Final = 30.0  # a slower answer than this fails the demonstration
BATCH_SPAN_S: Final = 1800.0  # event time a batch spans: seven months pass in a minute or two

console = Console()


def run_demo(options: argparse.Namespace) -> int:
    """`headrace demo`."""
    return run(port=options.port, is_exit=options.exit)


def run(port: int, *, is_exit: bool) -> int:
    """Run the demonstration; returns 0 if its checks hold."""
    stream = load_stream()
    console.print(f"stream: {stream.name}, {stream.events.num_rows:,} events, {len(stream.items):,} items")
    with (
        Run(demo_config(port), say=lambda text: console.print(f"[dim]{text}[/dim]")) as running,
        Headrace(running.url, timeout_s=60.0, api_key=running.api_key) as client,
    ):
        live_through(client, stream)
        checks = [learned_something(client), *show_clicks(client, stream), *measure_promises(client, stream)]
        console.print(f"\nserving at {running.url}  (try {running.url}/v1/model)")
        if not is_exit:
            console.print("Ctrl-C ends it")
            with termination() as stop:
                stop.wait()
    if not all(checks):
        console.print("[red]a check of the demonstration failed[/red]")
    return 0 if all(checks) else 1


def demo_config(port: int) -> Config:
    """The default schema under the event clock, with batches that span more of its time than of a live stream's."""
    config = with_store(load_config(None), clock="event")
    learner = replace(config.learner, batch_span_s=BATCH_SPAN_S)
    return replace(config, learner=learner, cluster=replace(config.cluster, port=port))


def load_stream() -> DemoStream:
    """MovieLens 100K; if it can't be had, say so and simulate."""
    try:
        with console.status("fetching MovieLens 100K with pip (2 MB)"):
            return movielens(Path(home()) / "data")
    except FetchError as error:
        console.print(f"MovieLens could not be fetched ({error}); a simulated stream takes its place", style="yellow")
        return simulated()


def live_through(client: Headrace, stream: DemoStream) -> None:
    """Send the catalogue, then the stream, with progress; wait until the weights have caught up."""
    ids = list(stream.items)
    for start in range(0, len(ids), 1000):
        client.items({item: stream.items[item] for item in ids[start : start + 1000]})
    with progress() as bar:
        show = ReplayProgress(bar, client, stream.events.num_rows, 0)
        tally = Replay(client, None, show).run(stream.events)
    console.print(f"{tally.accepted:,} events accepted at {tally.events_per_s:,.0f}/s")
    with console.status("the rest of it is being learned, a minute or so"):
        wait_until_learned(client, tally.log_ms)


def wait_until_learned(client: Headrace, log_ms: int) -> float:
    """Poll until an answer comes from weights trained through `log_ms`; seconds waited, infinite if it never does.

    Meanwhile the stream goes on: under the event clock time passes as events tell it, so every second or so somebody
    else does something half an hour later.
    """
    began_s = time.monotonic()
    newest_ms, went_on_s = log_ms, 0.0
    while time.monotonic() - began_s < LEARN_WAIT_S:
        if time.monotonic() - went_on_s > EVERY_S:
            newest_ms, went_on_s = newest_ms + int(1000 * BATCH_SPAN_S) + 1000, time.monotonic()
            client.send([{"type": "view", "user": "somebody-else", "item": "x", "ts_ms": newest_ms}])
        if client.rank("headrace-demo", ["x"])["model"]["trained_through_ms"] > log_ms:
            return time.monotonic() - began_s
        time.sleep(0.02)
    return float("inf")


def learned_something(client: Headrace) -> bool:
    """Show the progressive metric of model and popularity; true if the model is the better one."""
    model = client.get("/v1/model")
    metrics = model["progressive"]
    console.print(
        f"version {model['version']}: slate log loss {metrics['logloss']:.3f}, MRR@10 {metrics['mrr']:.3f}; "
        f"popularity alone: {metrics['popularity_logloss']:.3f}, {metrics['popularity_mrr']:.3f}"
    )
    return bool(metrics["logloss"] < metrics["popularity_logloss"])


def show_clicks(client: Headrace, stream: DemoStream) -> list[bool]:
    """Print one person's ranking before and after three clicks on one kind of item."""
    counts = Counter(stream.events["item"].to_pylist())
    popular = [item for item, _ in counts.most_common() if item in stream.items]
    kind, clicked = _kind_to_click(stream, popular[N_CANDIDATES:])
    candidates = popular[:N_CANDIDATES]
    user = "someone-new"
    for item in popular[5:8]:
        client.send([{"type": "view", "user": user, "item": item}])
    before = client.rank(user, candidates, limit=10)
    for item in clicked:
        client.send([{"type": "like", "user": user, "item": item}])
    after = client.rank(user, candidates, limit=10)
    titles = {item: str(row["title"]) for item, row in stream.items.items()}
    table = Table(title=f"top 10 of {N_CANDIDATES} for {user}, before and after liking three times {kind}")
    table.add_column("before")
    table.add_column(f"after liking {', '.join(titles[item] for item in clicked)}")
    place = {item["id"]: index for index, item in enumerate(before["items"])}
    for index, (old, new) in enumerate(zip(before["items"], after["items"], strict=True)):
        moved = place.get(new["id"])
        arrow = "new" if moved is None else "" if moved == index else f"from {moved + 1}"
        marks = ["* " if kind in stream.items[item["id"]]["tags"] else "  " for item in (old, new)]
        table.add_row(marks[0] + titles[old["id"]], f"{marks[1]}{titles[new['id']]}  [dim]{arrow}[/dim]")
    console.print(table)
    return [[item["id"] for item in before["items"]] != [item["id"] for item in after["items"]]]


def _kind_to_click(stream: DemoStream, items: Sequence[str]) -> tuple[str, list[str]]:
    """The first tag that three of these items share, with those items."""
    by_tag: dict[str, list[str]] = {}
    for item in items:
        for tag in stream.items[item]["tags"]:
            found = by_tag.setdefault(tag, [])
            found.append(item)
            if len(found) == 3 and tag not in ("Drama", "Comedy"):
                return tag, found
    raise ValueError("no three items share a tag")


def measure_promises(client: Headrace, stream: DemoStream) -> list[bool]:
    """Measure and print the three promises."""
    items = list(stream.items)[:N_CANDIDATES]
    users = stream.events["user"].unique().to_pylist()
    latency_ms = []
    for index in range(N_RANKS):
        began_s = time.monotonic()
        client.rank(str(users[index % len(users)]), items)
        latency_ms.append((time.monotonic() - began_s) * 1000.0)
    visible = 0
    for index in range(N_VISIBLE):
        user, item = f"demo-{index}", items[index % len(items)]
        client.send([{"type": "view", "user": user, "item": item}])
        known = client.get(f"/v1/users/{user}")["recent"]["items"]
        visible += bool(known) and known[0]["item"] == item
    waits_s = []
    for index in range(N_LEARNED):
        receipt = client.send([{"type": "like", "user": f"demo-{index}", "item": items[-1]}])
        waits_s.append(wait_until_learned(client, receipt["log_ms"]))
    table = Table(title="the three promises, measured on this run (one connection)")
    for column in ("promise", "measured"):
        table.add_column(column)
    p50, p99 = np.percentile(latency_ms, [50, 99])
    table.add_row("answer now", f"rank of {len(items)} candidates: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    table.add_row("know what just happened", f"{visible} of {N_VISIBLE} acknowledged events in the next read")
    table.add_row("learn from it", f"event to weights that answer: p95 {np.percentile(waits_s, 95):.1f} s")
    console.print(table)
    return [visible == N_VISIBLE, max(waits_s) < SLOWEST_S]
