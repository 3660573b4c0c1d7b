"""The projector as a Ray actor: keeps item rows a fraction of a second behind the log.

The fold and its exactly-once commits are `features.projection`; this module adds the loop, the pace and the door that a
ranking under the event clock waits at.
"""

import asyncio
import logging
import math
import os
import time
from typing import Any, Final

import ray

from features.connect import StoreConfig, connect
from features.deep_log import log_of
from features.errors import FeatureError, RowsHeld
from features.events import START, Positions, StreamId
from features.priority import step_back
from features.projection import Projection
from features.schema import Schema

PROJECTOR_NAME: Final = "headrace-projector"
FLUSH_S: Final = 0.25  # with the replica's cache of 0.25 s rows stay within 0.5 s, also if the store tells nothing
EVENLY_S: Final = 2.0  # in this time every item partition gets its positions: bounds what is read after a crash
RETRY_S: Final = 0.25
READ_TIMEOUT_S: Final = 10.0  # far behind, one read brings tens of megabytes

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Projector:
    """Folds the log into item rows, for ever.

    Args:
        niceness: Added to the process's own; see `step_back`.
        release: What it is made of; told in `status`.
    """

    def __init__(self, store: StoreConfig, schema: Schema, niceness: int = 10, release: str = "") -> None:
        self._release = release
        step_back(niceness, entirely=store.clock == "wall")
        self._store = connect(store, schema, timeout_s=READ_TIMEOUT_S)
        self._projection = Projection(self._store, schema, log=log_of(store, self._store))
        Projection.warm_up(schema)
        self._held = ""
        self._is_event_clock = store.clock == "event"
        self._committed: Positions = {}
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._live())

    async def wait_for(self, positions: Positions, wait_s: float) -> bool:
        """Whether the item rows reach these positions, now or within `wait_s`."""
        deadline_s = time.monotonic() + wait_s
        while not self._has_reached(positions):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            try:
                await asyncio.wait_for(self._moved.wait(), left_s)
            except TimeoutError:
                return False
        return True

    async def status(self) -> dict[str, Any]:
        """How far the rows are, and why they stand still, if they do."""
        newest_ms = max((id.ms for id in self._committed.values()), default=0)
        return {
            "pid": os.getpid(),
            "release": self._release,
            "entries": self._projection.n_entries,
            "unheard": self._projection.n_unheard,
            "newest_ms": newest_ms,
            "held": self._held,
        }

    def _has_reached(self, positions: Positions) -> bool:
        return all(self._committed.get(partition, START) >= StreamId(*id) for partition, id in positions.items())

    async def _live(self) -> None:
        while True:
            try:
                await self._store.open()
                await self._projection.load()
                self._held = ""
                self._committed = dict(self._projection.reached)
                await self._project()
            except RowsHeld as error:
                if not self._held:
                    logger.warning("projector waits: %s", error)
                self._held = str(error)
            except FeatureError as error:
                logger.warning("projector starts over: %s", error)
            except Exception:  # the projector's loop is a supervisor of its own fold
                logger.exception("projector starts over")
            await asyncio.sleep(RETRY_S)

    async def _project(self) -> None:
        # A few at a time: all of them at once would keep rankings waiting for their reads.
        n_untouched = math.ceil(self._store.keys.n_partitions * FLUSH_S / EVENLY_S)
        while True:
            started_s = time.monotonic()
            n_entries = await self._projection.advance(block_s=FLUSH_S, n_untouched=n_untouched)
            if n_entries:
                self._committed = dict(self._projection.reached)
                self._moved.set()
                self._moved = asyncio.Event()
            if not self._is_event_clock:
                rest_s = 0.0 if self._projection.is_behind else FLUSH_S - (time.monotonic() - started_s)
                await asyncio.sleep(max(0.0, rest_s))


def get_projector() -> Any:
    """Handle of the projector of this cluster.

    Raises:
        ValueError: If none is running.
    """
    return ray.get_actor(PROJECTOR_NAME)
