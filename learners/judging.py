"""What the judge does: reads the log as a learner does, but learns nothing, and says what the hub may publish.

    log ─► ticks ─► batches ─► Judge ◄─ editions ◄─ hub
                                 │
                                 ├─► verdicts
                                 └─► sources whose labels say the opposite, into quarantine

It shares nothing with a learner but the log: what goes wrong in one does not in the other. It begins where the newest
version stands, whoever is lost; an anchor it asks the hub for.

Whatever goes wrong in the loop, it begins anew. While it does, nothing is published (`learners.publishing`).
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from features.connect import StoreConfig, bulk_of, connect
from features.deep_log import log_of
from features.events import Positions
from features.priority import step_back
from features.schema import Schema
from features.ticks import Tick, TickReader
from learners import editions, snapshots
from learners.actor import IDLE_S, READ_TIMEOUT_S, RETRY_S, remember, slices
from learners.erasing import is_past
from learners.hub import get_hub
from learners.judge import Judge, JudgeConfig
from learners.memory import keep_memory
from learners.online import LearnerConfig
from learners.quarantining import Quarantining
from learners.verdicts import Verdict
from learners.witness import Witness

ANCHOR_S: Final = 5.0  # between looks whether another anchor is wanted
SOURCES_S: Final = 2.0  # between looks which sources are in quarantine
EditionRefs = Sequence[Any]
"""Object references of its packed head and parts."""

logger = logging.getLogger(__name__)


class Judging:
    """In a process of its own; see `learners.judge`.

    Args:
        learner: How learners cut their batches.
        niceness: Added to the process's own; as the hub's, which waits for it.
        release: What it is made of; told in `status`.
        trusted: Sources that are never put in quarantine.
        export: Hands `Agreement.figures` out for ever, as it is called with what reads them; None: nobody does.
    """

    def __init__(
        self,
        store: StoreConfig,
        schema: Schema,
        learner: LearnerConfig,
        config: JudgeConfig,
        niceness: int = 5,
        release: str = "",
        trusted: frozenset[str] = frozenset(),
        export: Callable[[Callable[[], Any]], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._release = release
        step_back(niceness, entirely=store.clock == "wall")
        threadpool_limits(1)
        keep_memory()
        self._schema = schema
        self._learner = learner
        self._config = config
        self._judge = Judge(schema, config)
        self._deciding = asyncio.Lock()
        self._store = connect(store, schema, timeout_s=READ_TIMEOUT_S)
        self._log = log_of(store, self._store)
        self._witness = self._begun()
        self._bulk = bulk_of(store)
        is_wanted, agreement = config.sources.quarantine, self._judge.agreement
        self._quarantining = Quarantining(agreement, self._bulk, is_wanted=is_wanted, trusted=trusted)
        loop = asyncio.get_running_loop()
        works = (self._read, self._look_for_anchors, self._look_at_sources)
        self._tasks = [loop.create_task(self._for_ever(each)) for each in works]
        if export is not None:
            self._tasks.append(loop.create_task(export(agreement.figures)))

    async def weigh(self, edition: EditionRefs) -> Verdict:
        """Say whether replicas may get an edition; if so, it is what answers from now on.

        Raises:
            StaleSnapshot, ForeignSnapshot: As `Judge.begin`.
        """
        async with self._deciding:
            await self._prepare(edition)
            verdict = self._judge.decide()
            await self._settle()
        return verdict

    async def follow(self, edition: EditionRefs) -> None:
        """Take an edition for what answers."""
        async with self._deciding:
            await self._prepare(edition)
            self._judge.follow()
            await self._settle()

    async def erase(self, people: Sequence[int], positions: Positions, edition: EditionRefs) -> bool:
        """Have nothing of people who were erased.

        Args:
            people: Hashes of their ids.
            positions: Of their erasures in the log.
            edition: All that answers now, as one; empty: nothing does.
        Returns:
            False while it has not read as far; it may have something of them still.
        """
        async with self._deciding:
            if edition:
                await self._prepare(edition)
                self._judge.take_over()
                await self._settle()
            if self._judge.anchor:
                await self._lay_anchor_again()
            self._judge.forget(np.array(people, dtype=np.uint64))
        return is_past(self._witness.reader.positions, positions)

    async def status(self) -> dict[str, Any]:
        """How far it has read, by its own account, and how far sources agree with what answers."""
        return {
            "pid": os.getpid(),
            "release": self._release,
            "version": self._judge.live.version,
            "read_through_ms": self._witness.reader.settled_through_ms,
            "sources": self._judge.agreement.figures(),
        }

    async def _prepare(self, edition: EditionRefs) -> None:
        self._judge.begin(editions.heads.unpack(memoryview(await edition[0])))
        for ref in edition[1:]:
            for _ in self._judge.add(editions.parts.unpack(memoryview(await ref))):
                await asyncio.sleep(0)

    async def _settle(self) -> None:
        for _ in self._judge.settle():
            await asyncio.sleep(0)

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:  # a supervisor, as the learner's loop is
                logger.exception("the judge begins anew")
            await asyncio.sleep(RETRY_S)

    async def _read(self) -> None:
        await self._store.open()
        await self._restore()
        ticks = TickReader(self._log, self._witness.reader.positions)
        while True:
            tick = await ticks.next(wait_s=IDLE_S)
            if tick is None:
                await asyncio.sleep(0.0 if ticks.is_behind else IDLE_S)
                continue
            await self._take_in(tick)

    async def _take_in(self, tick: Tick) -> None:
        # By itself, so that no entry is held until the next one comes: it may be of somebody who is erased.
        for entries in slices(tick):
            for entry in entries:
                self._witness.read(entry)
            await asyncio.sleep(0)
        self._witness.close_tick(tick.end_ms)

    async def _restore(self) -> None:
        self._witness = self._begun()
        packed = await get_hub().committed.remote()
        if packed is not None:
            self._witness.restore(snapshots.unpack(packed))
            await remember(self._witness.reader, self._log, self._learner.join.attribution_s)

    def _begun(self) -> Witness:
        return Witness(self._schema, self._learner, self._judge, self._learner.rounds.n_learners)

    async def _look_at_sources(self) -> None:
        while True:
            await asyncio.sleep(SOURCES_S)
            await self._quarantining.look(self._witness.reader.settled_through_ms)

    async def _look_for_anchors(self) -> None:
        while True:
            await asyncio.sleep(ANCHOR_S)
            if self._judge.wants_anchor(self._witness.reader.settled_through_ms):
                edition = await get_hub().anchor.remote(self._config.anchor_age_s, self._judge.anchor)
                if edition is not None:
                    await self._lay_anchor(edition)

    async def _lay_anchor_again(self) -> None:
        edition = await get_hub().edition.remote(self._judge.anchor)
        if edition is None:
            self._judge.drop_anchor()
            return
        head, *rows = [memoryview(await ref) for ref in edition]
        for _ in self._judge.lay_anchor_again(editions.heads.unpack(head), map(editions.parts.unpack, rows)):
            await asyncio.sleep(0)

    async def _lay_anchor(self, edition: EditionRefs) -> None:
        head, *rows = [memoryview(await ref) for ref in edition]
        now_ms = self._witness.reader.settled_through_ms
        for _ in self._judge.lay_anchor(editions.heads.unpack(head), map(editions.parts.unpack, rows), now_ms):
            await asyncio.sleep(0)
