"""How soon after an acknowledged event do the weights that answer know it, and is what they learn worth anything?

    python -m benchmarks.bench_freshness [--seconds 60] [--per-s 1000] [--door http] [--rows 0] [--json [FILE]]

The application as `headrace up` runs it, under a steady stream of events and some rank requests beside it. The stream
comes over HTTP in posts of 20 (open loop: posts leave on schedule, whether the one before has been answered or not), or
with `--door push` from a Ray task in batches of 1,000 through `learners.push` (one at a time; a late one counts from
when it was due). Every acknowledged post is a sample:
from its acknowledgement to the first rank *answer* whose `model.trained_through_ms` lies beyond the post's `log_ms`.
Ranks are asked every 50 ms, so a figure is up to that much too high, never too low.

Also shown: the progressive log loss of the model (each example scored before it is learned from) beside that of
popularity and of a model that knows nothing, log(1 + negatives).

With `--rows` the item table has so many rows before anything happens, of items that nothing happens to: they are in
every whole version, in the hub, the judge and the replica.

NOT shown: real people (the stream is simulated; tastes are easy to learn), several machines, saturation (see
bench_serving), what a client far away would see.
"""

import argparse
import asyncio
import math
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
import psutil

import learners
from benchmarks import machine
from benchmarks.latency import summarize
from benchmarks.systems import System
from benchmarks.workloads import World, posts
from deployments.client import AsyncHeadrace, HeadraceError
from deployments.cluster import join
from deployments.config import Config
from deployments.processes import HOME_VARIABLE
from features.embedded import EmbeddedServer
from learners import snapshots
from learners.folder_files import FolderFiles
from learners.online import OnlineLearner

SIZES: Final = {"http": 20, "push": 1000}  # events in a post, by door
ASK_S: Final = 0.05
WARMUP_S: Final = 10.0
DRAIN_S: Final = 20.0  # how long the last posts are waited for


@dataclass(slots=True)
class Seen:
    """What was observed; instants are monotonic seconds."""

    acks: list[tuple[float, int, float]] = field(default_factory=list)
    """(acknowledged at, `log_ms`, seconds the acknowledgement took) by post."""
    answers: list[tuple[float, int, int, float]] = field(default_factory=list)
    """(answered at, `trained_through_ms`, version, seconds the answer took) by rank."""
    failures: list[str] = field(default_factory=list)
    is_over: bool = False


def push_steadily(batches: list[list[dict[str, Any]]], per_s: float) -> list[tuple[float, int, float]]:
    """Push on schedule, as a Ray task; returns the acknowledgements as `Seen.acks` (its clock is the machine's)."""
    acks = []
    began_s = time.monotonic()
    for index, events in enumerate(batches):
        due_s = began_s + index * len(events) / per_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        receipt = learners.push(events)
        if receipt["rejected"]:
            raise RuntimeError(f"rejected: {receipt['rejected'][0]}")
        now_s = time.monotonic()
        acks.append((now_s, receipt["log_ms"], now_s - due_s))
    return acks


async def push(ray: Any, batches: list[list[dict[str, Any]]], per_s: float, seen: Seen) -> None:
    """Have a task push everything."""
    seen.acks += await ray.remote(num_cpus=0)(push_steadily).remote(batches, per_s)
    seen.is_over = True


async def send(client: AsyncHeadrace, bodies: list[list[dict[str, Any]]], per_s: float, seen: Seen) -> None:
    """Post on schedule; time is counted from when a post was due."""
    began_s = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()

    async def post(events: list[dict[str, Any]], due_s: float) -> None:
        try:
            receipt = await client.send(events)
        except (HeadraceError, httpx.TransportError) as error:
            seen.failures.append(f"events: {error}")
            return
        now_s = time.monotonic()
        seen.acks.append((now_s, receipt["log_ms"], now_s - due_s))

    for index, events in enumerate(bodies):
        due_s = began_s + index * len(events) / per_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        task = asyncio.create_task(post(events, due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks)
    seen.is_over = True


async def ask(client: AsyncHeadrace, requests: list[dict[str, Any]], seen: Seen) -> None:
    """Rank every 50 ms until the last acknowledged post is answered for, or waited for long enough."""
    over_s = math.inf
    number = 0
    while time.monotonic() < over_s + DRAIN_S:
        request = requests[number % len(requests)]
        number += 1
        began_s = time.monotonic()
        try:
            answer = await client.rank(request["user"], request["candidates"], context=request["context"])
            now_s = time.monotonic()
            model = answer["model"]
            seen.answers.append((now_s, model["trained_through_ms"], model["version"], now_s - began_s))
        except (HeadraceError, httpx.TransportError) as error:
            seen.failures.append(f"rank: {error}")
        if seen.is_over:
            over_s = min(over_s, time.monotonic())
            newest_ms = max((log_ms for _, log_ms, _ in seen.acks), default=0)
            if seen.answers and seen.answers[-1][1] > newest_ms:
                return
        await asyncio.sleep(max(0.0, began_s + ASK_S - time.monotonic()))


def delays_s(seen: Seen, from_s: float) -> list[float]:
    """Seconds from each acknowledgement after `from_s` to the first answer by weights that know the post; inf if none.

    Both lists are walked once: what answers for a post answers for every post logged before it.
    """
    found: list[float] = []
    reached_ms = -1
    best: list[tuple[float, int]] = []  # answers that know more than all before them
    for at_s, through_ms, _, _ in sorted(seen.answers):
        if through_ms > reached_ms:
            reached_ms = through_ms
            best.append((at_s, through_ms))
    for acked_s, log_ms, _ in seen.acks:
        if acked_s >= from_s:
            first_s = next((at_s for at_s, through_ms in best if through_ms > log_ms), math.inf)
            found.append(max(0.0, first_s - acked_s))
    return found


async def observe(
    url: str, world: World, seconds_s: float, per_s: float, ray: Any = None
) -> tuple[Seen, float, dict[str, Any]]:
    """Send items, then events at a steady rate, asking all the while; returns also the start of the measured time.

    Args:
        ray: The module, connected to the system's cluster, to push; None to post.
    """
    n_events = round((WARMUP_S + seconds_s) * per_s)
    size = SIZES["http" if ray is None else "push"]
    bodies = [msgspec.json.decode(body)["events"] for body in posts(world.events(n_events), size=size)]
    requests = [msgspec.json.decode(body) for body in world.rank_bodies(256)]
    seen = Seen()
    async with AsyncHeadrace(url, timeout_s=30.0) as client:
        for body in posts(world.items(), "items"):
            await client.items({row["id"]: row["attributes"] for row in msgspec.json.decode(body)["items"]})
        from_s = time.monotonic() + WARMUP_S
        sending = send(client, bodies, per_s, seen) if ray is None else push(ray, bodies, per_s, seen)
        await asyncio.gather(sending, ask(client, requests, seen))
        return seen, from_s, await client.get("/v1/model")


def fill(folder: Path, n_rows: int, config: Config) -> None:
    """Leave a version whose item table has so many rows, for the hub to go on from."""
    learner = OnlineLearner(config.schema, config.learner)
    keys = np.random.default_rng(5).integers(1, 2**63, n_rows, dtype=np.uint64)
    for _ in range(config.learner.table.admit_after):
        learner.tables["item"].meet(keys, round(time.time()))
    full = learner.snapshot(1)
    assert len(full.tables["item"].rows) > n_rows
    asyncio.run(FolderFiles(str(folder)).write("v0000000001.full", snapshots.pack(full)))


def run(seconds_s: float, per_s: float, door: str, n_rows: int = 0) -> dict[str, Any]:
    """Start, observe, stop; returns everything that is reported."""
    known, world, config = machine.facts(), World(), Config()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        store = stack.enter_context(EmbeddedServer())
        if n_rows:
            fill(scratch / "versions", n_rows, config)
        print("starting Headrace")
        system = stack.enter_context(System("headrace", redis_url=store.url, folder=scratch / "versions"))
        ray = None
        if door == "push":
            os.environ[HOME_VARIABLE] = system.home
            ray = join(system.port)
        print(f"{WARMUP_S:g} s of warm-up, then {seconds_s:g} s at {per_s:g} events/s")
        neighbours = machine.Neighbours(lambda: system.cpu_s() + sum(psutil.Process(store.pid).cpu_times()[:2]))
        seen, from_s, model = asyncio.run(observe(system.url, world, seconds_s, per_s, ray))
        others_ratio = neighbours.ratio()
    measured = [row for row in seen.acks if row[0] >= from_s]
    answers = [row for row in seen.answers if row[0] >= from_s]
    span_s = max(row[0] for row in measured) - from_s
    delays = delays_s(seen, from_s)
    n_negatives = config.learner.sampling.n_negatives
    return {
        "what": "event acknowledged -> answered by weights trained on it",
        "machine": known,
        "settings": {
            "seconds_s": seconds_s,
            "per_s": per_s,
            "door": door,
            "rows": n_rows,
            "post": SIZES[door],
            "world": asdict(world.config),
        },
        "others_ratio": others_ratio,
        "n_samples": len(delays),
        "n_never": sum(math.isinf(delay) for delay in delays),
        "freshness_s": quantiles_s(delays),
        "ack_s": quantiles_s([row[2] for row in measured]),
        "rank_s": quantiles_s([row[3] for row in answers]),
        "events_per_s": len(measured) * SIZES[door] / span_s,
        "versions_per_s": len({row[2] for row in answers}) / span_s,
        "failures": seen.failures,
        "model": model,
        "untrained_logloss": math.log(1 + n_negatives),
        "n_negatives": n_negatives,
    }


def quantiles_s(values_s: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in seconds."""
    found = summarize(values_s, {}, 1.0, 0.0)
    return {name: getattr(found, f"{name}_ms") / 1000.0 for name in ("p50", "p95", "p99", "max")}


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    model, settings = found["model"], found["settings"]
    print(f"\n{machine.describe(found['machine'])}\n{machine.warn(found['others_ratio'])}")
    learned = f"{model['events']:,} events and {model['examples']:,} examples learned"
    door = f"by {settings['door']}, {settings['post']} at a time"
    print(
        f"{settings['seconds_s']:g} s at {found['events_per_s']:.0f} events/s {door}, "
        f"{found['versions_per_s']:.2f} versions/s; {learned}\n"
    )
    names = (
        ("event acknowledged -> weights that know it answer", "freshness_s"),
        ("post due -> acknowledged", "ack_s"),
        ("rank asked -> answered", "rank_s"),
    )
    header = ("seconds", "p50", "p95", "p99", "max")
    print(machine.table(header, [[text, *found[name].values()] for text, name in names]))
    n_failed = len(found["failures"])
    stages = ", ".join(f"{name} {value:,g}" for name, value in sorted(model["publishing"].items()))
    print(f"\nthe newest version: {stages}")
    print(f"\n{found['n_samples']} posts sampled, {found['n_never']} never answered for; {n_failed} requests failed")
    for failure in found["failures"][:3]:
        print(f"  {failure}")
    progressive = model["progressive"]
    rows = [
        ["untrained", found["untrained_logloss"], found["untrained_logloss"]],
        ["popularity", progressive.get("popularity_logloss"), progressive.get("total_popularity_logloss")],
        ["the model", progressive.get("logloss"), progressive.get("total_logloss")],
    ]
    print(f"\nprogressive log loss, 1 positive among {found['n_negatives']} negatives (lower is better)")
    print(machine.table(("who", "newest examples", "all examples"), rows))


def main() -> None:
    """Observe and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_freshness", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds, after 10 s of warm-up")
    parser.add_argument("--per-s", type=float, default=1000.0, help="events per second")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    parser.add_argument("--door", choices=tuple(SIZES), default="http", help="how events come in")
    parser.add_argument("--rows", type=int, default=0, help="rows of the item table before anything happens")
    options = parser.parse_args()
    found = run(options.seconds, options.per_s, options.door, options.rows)
    report(found)
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
