"""A learner as a Ray actor: read the log in ticks, learn, offer a version every half second. And the pipelines' door.

    committed version ─► OnlineLearner ◄─ ticks ◄─ log
            ▲                  │ settled, and it is time
            └──── hub ◄── offer (weights, optimizer, item rows, positions)

Several of them divide the partitions; when they offer is told in `learners.offers`.

Whatever goes wrong in the loop, the answer is the same: go back to what the hub has committed and read on from its
positions. So an offer whose acknowledgement was lost is found again, and one that was lost is learned again.

Training and the door share one event loop: a push waits for at most one training step.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any, Final

import ray
from threadpoolctl import threadpool_limits

from features.clock import WallClock
from features.connect import StoreConfig, bulk_of, connect
from features.deep_log import log_of
from features.errors import LogGap
from features.events import START, Entry, StreamId
from features.intake import Intake
from features.priority import step_back
from features.quarantine import QuarantineKeeper
from features.schema import Schema
from features.source_watch import SourceWatch
from features.sources import SourceRules
from features.ticks import READ_COUNT, Log, Tick, TickReader
from learners import snapshots
from learners.hub import get_hub
from learners.memory import keep_memory
from learners.offers import Alone, InRounds, Offers
from learners.online import LearnerConfig, OnlineLearner
from learners.reading import ExampleReader

LEARNER_NAME: Final = "headrace-learner"
"""Of the first one; see `learner_name`."""
RETRY_S: Final = 0.5
READ_TIMEOUT_S: Final = 10.0  # far behind, one read brings tens of megabytes; going back costs more than waiting
IDLE_S: Final = 0.02  # between looks at an idle log; ticks last 0.2 s
N_BETWEEN: Final = 32  # entries read before the door gets its turn

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class Learner:
    """Learns from the log, or its part of it; restarts from the hub's commit.

    Args:
        seat: Which one of `config.rounds.n_learners` it is.
        offer_s: Seconds between offered versions.
        sources: Rules for what is pushed.
        niceness: Added to the process's own; see `step_back`.
        release: What it is made of; told in `status`.
    """

    def __init__(
        self,
        store: StoreConfig,
        schema: Schema,
        config: LearnerConfig,
        offer_s: float = 1.0,
        sources: SourceRules | None = None,
        niceness: int = 10,
        seat: int = 0,
        release: str = "",
    ) -> None:
        self._release = release
        step_back(niceness, entirely=store.clock == "wall")
        threadpool_limits(1)
        keep_memory()
        self._schema = schema
        self._config = config
        self._seat = seat
        self._offer_s = offer_s
        self._store = connect(store, schema, timeout_s=READ_TIMEOUT_S)
        self._log = log_of(store, self._store)
        clock = WallClock()
        watch = SourceWatch(sources or SourceRules(), schema.context)
        self._quarantine = QuarantineKeeper(bulk_of(store), watch, clock.now_ms)
        self._intake = Intake(connect(store, schema), None if store.clock == "event" else clock, self._quarantine)
        self._version = 0
        self._lag: dict[str, Any] = {}
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(endless) for endless in (self._live(), self._quarantine.run())]

    async def push(self, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Accept rows as events; returns when they are durable, with the same receipt as `POST /v1/events`."""
        return (await self._intake.accept(events)).as_dict()

    async def status(self) -> dict[str, Any]:
        """How far this learner is, by its own account."""
        return {"pid": os.getpid(), "release": self._release, "seat": self._seat, "version": self._version, **self._lag}

    async def _live(self) -> None:
        while True:
            try:
                await self._learn()
            except Exception:  # the learner loop: one of the three places where everything is caught
                logger.exception("learner goes back to the committed version")
                await asyncio.sleep(RETRY_S)

    async def _learn(self) -> None:
        hub = get_hub()
        await self._store.open()
        learner, self._version = await self._restore(hub)
        kind = Alone if self._config.rounds.n_learners == 1 else InRounds
        offers: Offers = kind(hub, learner, self._version, self._offer_s)
        reader = TickReader(self._log, learner.positions)
        while True:
            tick = await reader.next(wait_s=IDLE_S)
            if tick is None:
                await asyncio.sleep(0.0 if reader.is_behind else IDLE_S)
                continue
            await self._read(tick, learner, offers)
            self._note(learner, tick, offers.version)

    @staticmethod
    async def _read(tick: Tick, learner: OnlineLearner, offers: Offers) -> None:
        # By itself, so that no entry is held until the next one comes: it may be of somebody who is erased.
        for entries in slices(tick):
            for entry in entries:
                await offers.before(entry.id.ms)
                learner.read(entry)
                await offers.after(entry.id.ms)
            await asyncio.sleep(0)
        await offers.close(tick)

    async def _restore(self, hub: Any) -> tuple[OnlineLearner, int]:
        learner = OnlineLearner(self._schema, self._config, self._seat)
        packed = await hub.committed.remote()
        if packed is None:
            return learner, 0
        full = snapshots.unpack(packed)
        learner.restore(full)
        await remember(learner.reader, self._log, self._config.join.attribution_s)
        logger.info("learner goes on from version %d", full.version)
        return learner, full.version

    def _note(self, learner: OnlineLearner, tick: Tick, version: int) -> None:
        self._version = version
        self._lag = {
            "events": learner.n_events,
            "trained_through_ms": learner.trained_through_ms,
            "behind_ms": max(0, tick.end_ms - learner.trained_through_ms),
        }


async def remember(reader: ExampleReader, log: Log, window_s: float) -> None:
    """Read the last attribution window again after `restore`: which decisions are open is in no version.

    What is gone is passed over.
    """
    committed = reader.positions
    read = {p: StreamId(max(at.ms - round(1000 * window_s), 0), 0) for p, at in committed.items()}
    while any(read[p] < at for p, at in committed.items()):
        try:
            entries = await log.read_log(read, count=READ_COUNT)
        except LogGap as gap:
            read[gap.partition] = StreamId(*gap.until)
            continue
        if not entries:
            return
        reader.remember(entry for entry in entries if entry.id <= committed.get(entry.partition, START))
        read.update({entry.partition: entry.id for entry in entries})


def slices(tick: Tick) -> list[list[Entry]]:
    """The entries of a tick, few at a time."""
    return [tick.entries[at : at + N_BETWEEN] for at in range(0, len(tick.entries), N_BETWEEN)]


def learner_name(seat: int) -> str:
    """Name of an actor in the cluster."""
    return f"{LEARNER_NAME}-{seat}" if seat else LEARNER_NAME
