"""Steps of a backfill, run by Ray Data; a worker needs neither torch nor what learns.

Ray Data spreads them over the nodes, as many at once as it is told, and runs those again that a lost node takes along.
A step whose report is in the folder is done: whatever ends a run, the next one goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import pyarrow as pa
import ray
from ray.data import DataContext, TaskPoolStrategy

from features.backfill import writing
from features.backfill.pieces import Folder
from features.backfill.planning import Plan
from features.connect import StoreConfig, bulk_of, connect
from features.deep_log import DeepLog
from features.errors import FeatureError
from features.events import Positions
from features.log_files import LogFiles
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema

TIMEOUT_S: Final = 30.0  # of the store, while it is written in bulk
N_LOTS: Final = 16  # of partitions that are written together: a step costs a tenth of a second by itself
BASE_BYTES: Final = 200 * 2**20  # of a worker, before it has any data

T = TypeVar("T")
Show = Callable[[str, int, int, str], None]
"""Told what is going on: the stage, how much of it is done, of how much, and a note."""


class Steps:
    """Runs the steps of one plan.

    Args:
        n_at_once: Steps.
    """

    def __init__(self, plan: Plan, show: Show, n_at_once: int) -> None:
        self._plan = plan
        self._show = show
        self._n_at_once = n_at_once
        self._folder = Folder(plan.folder)

    def run(
        self, stage: str, numbers: Sequence[int], step: Callable[..., Any], kind: type[Any], weights: Sequence[int] = ()
    ) -> list[Any]:
        """The reports of all steps of a stage; runs those that are not done.

        Args:
            step: Called with the plan and a number; returns a report.
            kind: Of the reports.
            weights: What each step counts for as progress; all the same by default.
        Raises:
            FeatureError: If a step raises one, with what it says.
        """
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

    def _each(self, numbers: list[int], step: Callable[..., Any]) -> Iterator[tuple[int, bytes]]:
        """Run steps as Ray Data sees fit; each one's number and report, as they come."""
        if not numbers:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        run = partial(_run_step, ray.put(self._plan), ray.put(step), numbers)
        rows = ray.data.range(len(numbers), override_num_blocks=len(numbers)).map(
            run,
            compute=TaskPoolStrategy(min(self._n_at_once, len(numbers))),
            num_cpus=1,
            memory=self._plan.budget_bytes + BASE_BYTES,
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


def write_people(
    plan: Plan, lot: int, *, store: StoreConfig, pieces: Sequence[str], cut: Positions, is_deep: bool
) -> int:
    """Write the states of a lot of partitions; returns how many."""

    async def write(reading: RedisStore, bulk: RedisBulk) -> int:
        folder, n = Folder(plan.folder), 0
        with closing(DeepLog(reading, bulk, LogFiles(store.archive))) if is_deep else nullcontext() as log:
            for partition in _partitions(plan, lot):
                n += await writing.write_people(reading, bulk, folder, pieces, partition, cut, log)
        return n

    return asyncio.run(with_store(store, plan.schema, write))


def write_rows(plan: Plan, lot: int, *, store: StoreConfig, pieces: Sequence[str]) -> int:
    """Write the rows of a lot of item partitions; returns how many."""

    async def write(reading: RedisStore, bulk: RedisBulk) -> int:
        folder, name = Folder(plan.folder), plan.name
        return sum([await writing.write_rows(reading, bulk, folder, pieces, p, name) for p in _partitions(plan, lot)])

    return asyncio.run(with_store(store, plan.schema, write))


async def with_store(config: StoreConfig, schema: Schema, do: Callable[[RedisStore, RedisBulk], Awaitable[T]]) -> T:
    """Do something with a store that is written in bulk, and close it."""
    store, bulk = connect(config, schema, timeout_s=TIMEOUT_S), bulk_of(config)
    try:
        return await do(store, bulk)
    finally:
        await store.close()
        await bulk.close()


def _partitions(plan: Plan, lot: int) -> range:
    return range(lot, plan.n_partitions, N_LOTS)
