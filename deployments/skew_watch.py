"""The check of skew that never ends: a Ray actor that follows the log and makes the features of some decisions again.

    oldest whole version (rows, positions) ─► log, every `READ_S` ─► `features.skew` ─► counters, and lines in the log

Without a version it begins with the log, if that is whole. It writes nothing and nobody waits for it: what is served
and what is learned are the same with and without it. If it cannot go on, as when the store is away, it begins anew.

Price: item rows once more (2.5 kB an item), the last entry of `MAX_PEOPLE` people, and 7 us of a core an entry.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import ray

from deployments.metrics import Exporter
from deployments.skew_start import Start, whole_version
from features.connect import StoreConfig, bulk_of, connect
from features.deep_log import whole_log_of
from features.errors import FeatureError
from features.priority import step_back
from features.schema import Schema
from features.skew import Skew, SkewConfig
from features.skew_findings import Judged
from features.ticks import READ_COUNT, Log, TickReader

WATCH_NAME: Final = "headrace-skew"
READ_S: Final = 5.0  # each read costs some milliseconds, however little has come
AGAIN_S: Final = 10.0
TIMEOUT_S: Final = 10.0
MAX_PEOPLE: Final = 50_000  # 100 MB
N_NAMED: Final = 5  # features of a decision that a line in the log names

logger = logging.getLogger(__name__)


class Watch:
    """Follows a log: `begin`, then `advance` in a loop; after an error begin anew. `values` go on counting."""

    def __init__(self, schema: Schema, sample: int) -> None:
        self._schema = schema
        self._config = SkewConfig(sample=sample, max_people=MAX_PEOPLE)
        self._since_ms = 0
        self._values = dict.fromkeys(("decisions", "late_decisions", "compared", "differing"), 0)

    @property
    def values(self) -> Mapping[str, float]:
        """What was found so far, by metric."""
        return {f"headrace_skew_{name}_total": value for name, value in self._values.items()}

    def begin(self, log: Log, start: Start) -> None:
        """Forget everything but the counts; no decision counts again."""
        config = replace(self._config, since_ms=self._since_ms)
        self._skew = Skew(self._schema, config, table=start.table, start_ms=start.ms)
        self._reader = TickReader(log, start.positions, tick_ms=1, count=READ_COUNT)

    async def advance(self) -> bool:
        """Read once; False if there was little, so that the next read can wait.

        Raises:
            FeatureError: If the log cannot be read, or not all of it.
        """
        tick = await self._reader.next()
        if tick is None:
            return False
        for judged in self._skew.read(tick.entries):
            self._note(judged)
            await asyncio.sleep(0)
        return len(tick.entries) >= READ_COUNT

    @property
    def known_before(self) -> str:
        """See `Moments`."""
        return self._skew.moments.known_before

    def _note(self, judged: Judged) -> None:
        self._since_ms = max(self._since_ms, judged.ts_ms + 1)
        self._values["decisions"] += 1
        self._values["compared"] += judged.n_compared
        self._values["differing"] += len(judged.differences)
        if not judged.differences:
            return
        if judged.explained_ms is not None and all(difference.item for difference in judged.differences):
            self._values["late_decisions"] += 1
            logger.warning("decision %s: rows were %d ms behind the log", judged.decision, judged.explained_ms)
            return
        features = list(dict.fromkeys(difference.feature for difference in judged.differences))[:N_NAMED]
        logger.error("decision %s was not made with what the log gives: %s", judged.decision, ", ".join(features))


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class SkewWatch:
    """Watches for ever.

    Args:
        folder: Of durable versions; empty: in the store.
        sample: Of so many decisions one is looked at.
        niceness: Added to the process's own; see `step_back`.
        release: What it is made of; told in `status`.
    """

    def __init__(
        self, store: StoreConfig, schema: Schema, folder: str, sample: int, niceness: int = 10, release: str = ""
    ) -> None:
        step_back(niceness, entirely=store.clock == "wall")
        self._release = release
        self._where = store, schema, folder
        self._store = connect(store, schema, timeout_s=TIMEOUT_S)
        self._bulk = bulk_of(store)
        self._log = whole_log_of(store, self._store, self._bulk)
        self._watch = Watch(schema, sample)
        loop = asyncio.get_running_loop()
        exporter = Exporter(lambda: self._watch.values)
        self._tasks = [loop.create_task(self._live()), loop.create_task(exporter.run())]

    async def status(self) -> dict[str, Any]:
        """What it has found."""
        return {"pid": os.getpid(), "release": self._release, **self._watch.values}

    async def _live(self) -> None:
        while True:
            try:
                erased = await self._bulk.erased_to()
                start = await whole_version(*self._where, erased)
                if start is not None or not (erased or await self._log.begins()):
                    self._watch.begin(self._log, start or Start({}))
                    await self._follow()
            except FeatureError as error:
                logger.warning("the watch over features begins anew: %s", error)
            except Exception:  # the watch's loop is a supervisor of its own fold
                logger.exception("the watch over features begins anew")
            await asyncio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        while not self._watch.known_before:  # or a history was put in before: only a version has its rows
            if not await self._watch.advance():
                await asyncio.sleep(READ_S)
