"""A backfill: the steps that make states and rows out of a history, run by Ray Data, and put into the store.

    check ─► people ─► items ─► write people ─► write rows ─► release at the cut ─► train ─► publish
    └──── only files ────────┘  └─────── the store, live events meanwhile ──────────────────────────┘

What the steps do is told in `features.backfill`. Ray Data spreads them over the nodes, as many at once as there are
cores, and runs those again that a lost node takes along. A step whose report is in the folder is done: so whatever ends
a run, the next one goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, TaskPoolStrategy

from features.backfill import stages, writing
from features.backfill.pieces import Folder
from features.backfill.stages import CheckReport, ItemsReport, PeopleReport, Plan
from features.connect import StoreConfig, bulk_of, connect, files_of
from features.errors import FeatureError
from features.events import Positions
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from learners import snapshots
from learners.checkpoints import Checkpoints, Files
from learners.folder_files import FolderFiles
from learners.hub import get_hub
from learners.online import LearnerConfig
from learners.training import SNAPSHOT, train

TIMEOUT_S: Final = 30.0  # of the store, while it is written in bulk
N_LOTS: Final = 16  # of partitions that are written together: a step costs a tenth of a second by itself
BASE_BYTES: Final = 300 * 2**20  # of a worker, before it has any data

T = TypeVar("T")
Show = Callable[[str, int, int, str], None]
"""Told what is going on: the stage, how much of it is done, of how much, and a note."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backfill came to."""

    n_events: int
    n_duplicates: int
    first_duplicate: str
    """Where in the files; empty if there is none."""
    n_users: int
    n_items: int
    n_dropped: int
    """Rows of items that the history does not know, and the log after the cut may."""
    last_ms: int
    """Of the newest event."""


class Backfill:
    """One run: `fold` the history into files, then `write` them; either goes on where an earlier run has stopped.

    Args:
        cut: Position of the log that the history reaches.
        n_at_once: Steps.
    """

    def __init__(self, plan: Plan, store: StoreConfig, cut: Positions, show: Show, n_at_once: int) -> None:
        self._plan = plan
        self._store = store
        self._cut = cut
        self._show = show
        self._n_at_once = n_at_once
        self._folder = Folder(plan.folder)

    def fold(self) -> None:
        """Make states and rows out of the files; the store is not touched.

        Raises:
            BadFile: If a file cannot be read, is not in time order, or holds rows that are no events.
        """
        plan, n = self._plan, len(self._plan.units)
        checks = self._run("check", range(n), stages.check_unit, CheckReport, [unit.n_rows for unit in plan.units])
        stages.judge(plan, checks)
        pieces = [name for report in checks for name in report.pieces]
        n_item_shards = plan.n_item_shards(stages.n_items_in(checks))
        fold_people = partial(stages.fold_user_shard, pieces=pieces, n_item_shards=n_item_shards)
        self._people = self._run("people", range(plan.n_user_shards), fold_people, PeopleReport)
        fold_items = partial(stages.fold_item_shard, pieces=self._pieces("shares"))
        self._items = self._run("items", range(n_item_shards), fold_items, ItemsReport)
        self._last_ms = max(report.last_ms for report in checks)
        self._timed = [piece for report in checks for piece in report.timed]

    def write(self) -> Summary:
        """Put what was made into the store.

        Raises:
            StoreRefused: If entries after the cut are gone from the log.
            ProjectionConflict: If another backfill has taken this one's place.
        """
        plan, name = self._plan, self._plan.name
        if not self._with_store(lambda store, bulk: writing.begin(store, bulk, name, self._cut)):
            self._folder.forget("written-")
        lots = range(min(N_LOTS, plan.n_partitions))
        self._with_store(lambda _, bulk: bulk.hold_rows(name))
        write_people = partial(_write_people, store=self._store, pieces=self._pieces("states"), cut=self._cut)
        self._run("written-people", lots, write_people, int)
        write_rows = partial(_write_rows, store=self._store, pieces=self._pieces("rows"))
        self._run("written-rows", lots, write_rows, int)
        n_dropped = self._with_store(self._settle)
        duplicates = [row for report in self._people for row in report.duplicates]
        return Summary(
            sum(report.n_events for report in self._people),
            len(duplicates),
            plan.place(min(duplicates)) if duplicates else "",
            sum(report.n_users for report in self._people),
            sum(report.n_items for report in self._items),
            n_dropped,
            self._last_ms,
        )

    def train(self, config: LearnerConfig) -> bytes:
        """Train a model on the history; returns a whole version that stands at the cut."""
        if SNAPSHOT not in self._folder.names():
            skipped = np.array(sorted(row for report in self._people for row in report.duplicates), dtype=np.int64)
            telling: Any = train.remote(self._plan, self._timed, skipped, self._store, self._cut, config)
            total = sum(report.n_events for report in self._people)
            for told in telling:
                n_done, note = ray.get(told)
                self._show("train", n_done, total, note)
        return self._folder.read(SNAPSHOT)

    def publish(self, packed: bytes, folder: str) -> int:
        """Let a version answer, in the place of all before it; returns its number.

        Args:
            folder: Of durable versions, as `GroupConfig` has it, where no hub is running.
        """
        try:
            hub = get_hub()
        except ValueError:
            return asyncio.run(
                _keep(packed, FolderFiles(folder) if folder else files_of(self._store), self._plan.schema)
            )
        version: int = ray.get(hub.adopt.remote(packed))
        return version

    def end(self) -> None:
        """Let the log be trimmed again, and remove the files."""
        self._with_store(lambda _, bulk: writing.end(bulk, self._plan.name))
        self._folder.delete()

    async def _settle(self, store: RedisStore, bulk: RedisBulk) -> int:
        name, kept = self._plan.name, writing.items_in(self._folder, self._pieces("rows"), self._plan.n_partitions)
        n_dropped = await writing.drop_other_rows(store, bulk, kept, name)
        await bulk.release_rows(self._cut, name)
        await store.try_replicas()
        return n_dropped

    def _with_store(self, do: Callable[[RedisStore, RedisBulk], Awaitable[T]]) -> T:
        return asyncio.run(_with_store(self._store, self._plan.schema, do))

    def _pieces(self, kind: str) -> list[str]:
        return sorted(name for name in self._folder.names() if name.startswith(f"{kind}-") and name.endswith(".arrow"))

    def _run(
        self, stage: str, numbers: Sequence[int], step: Callable[..., Any], kind: type[Any], weights: Sequence[int] = ()
    ) -> list[Any]:
        """The reports of all steps of a stage; runs those that are not done."""
        names = {f"{stage}-{number:06d}.json": number for number in numbers}
        done = self._folder.names() & set(names)
        reports = {names[name]: msgspec.json.decode(self._folder.read(name), type=kind) for name in done}
        total = sum(weights) or len(numbers)
        n_done = sum(weights[number] if weights else 1 for number in reports)
        self._show(stage, n_done, total, "")
        for number, report in self._each([n for n in numbers if n not in reports], step):
            reports[number] = msgspec.json.decode(report, type=kind)
            self._folder.write(f"{stage}-{number:06d}.json", report)
            n_done += weights[number] if weights else 1
            self._show(stage, n_done, total, "")
        return [reports[number] for number in numbers]

    def _each(self, numbers: list[int], step: Callable[..., Any]) -> Any:
        """Run steps as Ray Data sees fit; each one's number and report, as they come."""
        if not numbers:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        run = partial(_run_step, ray.put(self._plan), ray.put(step), numbers)
        rows = ray.data.range(len(numbers), override_num_blocks=len(numbers)).map(
            run, compute=TaskPoolStrategy(self._n_at_once), num_cpus=1, memory=self._plan.budget_bytes + BASE_BYTES
        )
        for row in rows.iter_rows():
            if row["problem"]:
                raise FeatureError(row["problem"])
            yield row["number"], row["report"]


def _run_step(plan: Any, step: Any, numbers: list[int], row: dict[str, Any]) -> dict[str, Any]:
    """One step, on a worker. What is wrong with the data is an answer: Ray Data would wrap and print it."""
    number = numbers[row["id"]]
    pa.set_cpu_count(1)
    try:
        report = ray.get(step)(ray.get(plan), number)
    except FeatureError as error:
        return {"number": number, "report": b"", "problem": str(error)}
    return {"number": number, "report": msgspec.json.encode(report), "problem": ""}


def _write_people(plan: Plan, lot: int, *, store: StoreConfig, pieces: Sequence[str], cut: Positions) -> int:
    async def write(reading: RedisStore, bulk: RedisBulk) -> int:
        folder = Folder(plan.folder)
        return sum([await writing.write_people(reading, bulk, folder, pieces, p, cut) for p in _partitions(plan, lot)])

    return asyncio.run(_with_store(store, plan.schema, write))


def _write_rows(plan: Plan, lot: int, *, store: StoreConfig, pieces: Sequence[str]) -> int:
    async def write(reading: RedisStore, bulk: RedisBulk) -> int:
        folder, name = Folder(plan.folder), plan.name
        return sum([await writing.write_rows(reading, bulk, folder, pieces, p, name) for p in _partitions(plan, lot)])

    return asyncio.run(_with_store(store, plan.schema, write))


async def _with_store(config: StoreConfig, schema: Schema, do: Callable[[RedisStore, RedisBulk], Awaitable[T]]) -> T:
    store, bulk = connect(config, schema, timeout_s=TIMEOUT_S), bulk_of(config)
    try:
        return await do(store, bulk)
    finally:
        await store.close()
        await bulk.close()


def _partitions(plan: Plan, lot: int) -> range:
    return range(lot, plan.n_partitions, N_LOTS)


async def _keep(packed: bytes, files: Files, schema: Schema) -> int:
    """Make a version the only durable one, for a hub that is still to come."""
    checkpoints = Checkpoints(files, schema)
    before, full = await checkpoints.load(), snapshots.unpack(packed)
    full.version = (before.version if before else 0) + 1
    await checkpoints.replace(full)
    return full.version
