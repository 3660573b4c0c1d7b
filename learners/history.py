"""A backfill: states and rows made out of a history and put into the store, and a model trained on it.

    check ─► people ─► items ─► write people ─► write rows ─► release at the cut ─► train ─► publish
    └──── only files ────────┘  └─────── the store, live events meanwhile ──────────────────────────┘

What the steps do is told in `features.backfill`, who runs them in `learners.steps`. Each of the parts goes on where an
earlier run was interrupted. Rows are an exception: once somebody else may have written some, all are written anew.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import ray

from features.backfill import stages, writing
from features.backfill.pieces import Folder
from features.backfill.planning import Plan
from features.backfill.stages import CheckReport, ItemsReport, PeopleReport
from features.connect import StoreConfig, files_of
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from learners.checkpoints import LEFT, Files
from learners.folder_files import FolderFiles
from learners.hub import get_hub
from learners.online import LearnerConfig
from learners.steps import N_LOTS, Show, Steps, with_store, write_people, write_rows
from learners.training import SNAPSHOT, train

RELEASED: Final = "written-released"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a history came to."""

    n_events: int
    n_duplicates: int
    first_duplicate: str
    """Where in the files; empty if there is none."""
    n_users: int
    n_items: int
    last_ms: int
    """Of the newest event."""
    left_out: dict[str, int]
    """Events that do not count, by source."""
    counted_in: dict[str, int]
    """Events that count though they were in quarantine, by source."""


class Backfill:
    """One run: `fold` the history into files, `write` them, `train`, `publish`, `end`.

    Args:
        n_at_once: Steps.
    """

    def __init__(self, plan: Plan, store: StoreConfig, show: Show, n_at_once: int) -> None:
        self._plan = plan
        self._store = store
        self._cut = plan.cut
        self._show = show
        self._steps = Steps(plan, show, n_at_once)
        self._folder = Folder(plan.folder)
        self._duplicates: list[int] = []
        self._timed: list[str] = []
        self._touched: list[str] = []
        self._n_left_out = 0

    def fold(self) -> Summary:
        """Make states and rows out of the files; the store is not touched.

        Raises:
            FeatureError: If a file cannot be read, is not in time order, or holds rows that are no events.
        """
        plan, n = self._plan, len(self._plan.units)
        checks = self._steps.run(
            "check", range(n), stages.check_unit, CheckReport, [unit.n_rows for unit in plan.units]
        )
        stages.judge(plan, checks)
        pieces = [name for report in checks for name in report.pieces]
        n_item_shards = plan.n_item_shards(stages.n_items_in(checks))
        fold_people = partial(stages.fold_user_shard, pieces=pieces, n_item_shards=n_item_shards)
        people = self._steps.run("people", range(plan.n_user_shards), fold_people, PeopleReport)
        stated = [name for report in checks for name in report.stated]
        shares = self._pieces("shares")
        fold_items = partial(stages.fold_item_shard, pieces=shares, stated=stated, n_item_shards=n_item_shards)
        items = self._steps.run("items", range(n_item_shards), fold_items, ItemsReport)
        self._timed = [piece for report in checks for piece in report.timed]
        self._touched = [piece for report in checks for piece in report.touched]
        left_out, counted_in = _sum(r.left_out for r in checks), _sum(r.counted_in for r in checks)
        self._n_left_out = sum(left_out.values())
        self._duplicates = sorted(row for report in people for row in report.duplicates)
        return Summary(
            sum(report.n_events for report in people),
            len(self._duplicates),
            plan.place(self._duplicates[0]) if self._duplicates else "",
            sum(report.n_users for report in people),
            sum(report.n_items for report in items),
            max(report.last_ms for report in checks),
            left_out,
            counted_in,
        )

    def write(self, *, is_deep: bool = False) -> None:
        """Put what was made into the store.

        Args:
            is_deep: Read what is gone from its log in the archive that `StoreConfig` names.
        Raises:
            StoreRefused: If events after the cut are gone from the log.
            FeatureError: If another backfill has taken this one's place.
        """
        self._with_store(partial(self._begin, is_deep=is_deep))
        if RELEASED in self._folder.names():
            return
        lots = range(min(N_LOTS, self._plan.n_partitions))
        people = partial(write_people, store=self._store, pieces=self._pieces("states"), cut=self._cut, is_deep=is_deep)
        self._steps.run("written-people", lots, people, int)
        rows = partial(write_rows, store=self._store, pieces=self._pieces("rows"))
        self._steps.run("written-rows", lots, rows, int)
        self._with_store(self._settle)
        self._folder.write(RELEASED, b"")

    def train(self, config: LearnerConfig) -> bytes:
        """Train a model on the history; returns a whole version that stands at the cut."""
        if SNAPSHOT not in self._folder.names():
            skipped = np.array(self._duplicates, dtype=np.int64)
            telling: Any = train.remote(self._plan, self._timed, self._touched, skipped, self._store, self._cut, config)
            n_rows = self._plan.n_rows - len(self._duplicates) - self._n_left_out
            for told in telling:
                n_done, note = ray.get(told)
                self._show("train", n_done, n_rows, note)
        return self._folder.read(SNAPSHOT)

    def publish(self, packed: bytes, folder: str) -> int | None:
        """Let a version answer, in the place of all before it.

        Args:
            folder: Of durable versions, as `GroupConfig` has it; there it is left if no hub can be asked.
        Returns:
            Its number; None if it was left for the hub of another machine, or of later.
        """
        try:
            hub = get_hub()
        except ValueError:
            files: Files = FolderFiles(folder) if folder else files_of(self._store)
            asyncio.run(files.write(LEFT, packed))
            return None
        version: int = ray.get(hub.adopt.remote(packed))
        return version

    def end(self) -> None:
        """Let the log be trimmed again, and remove the files."""
        self._with_store(lambda _, bulk: writing.end(bulk, self._plan.name))
        self._folder.delete()

    async def _begin(self, store: RedisStore, bulk: RedisBulk, *, is_deep: bool) -> None:
        if not await writing.begin(store, bulk, self._plan.name, self._cut, is_deep=is_deep):
            self._folder.forget("written-")
        if RELEASED not in self._folder.names() and await bulk.holder() != self._plan.name:
            self._folder.forget("written-rows")  # they may have been released, and folded on from
            await bulk.hold_rows(self._plan.name)

    async def _settle(self, store: RedisStore, bulk: RedisBulk) -> None:
        name, kept = self._plan.name, writing.items_in(self._folder, self._pieces("rows"))
        await writing.drop_other_rows(store, bulk, kept, name)
        await bulk.release_rows(self._cut, name)
        await store.try_replicas()

    def _with_store(self, do: Callable[[RedisStore, RedisBulk], Awaitable[T]]) -> T:
        return asyncio.run(with_store(self._store, self._plan.schema, do))

    def _pieces(self, kind: str) -> list[str]:
        return sorted(name for name in self._folder.names() if name.startswith(f"{kind}-") and name.endswith(".arrow"))


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """By source, in order."""
    total = sum(map(Counter, counts), Counter[str]())
    return dict(sorted(total.items()))
