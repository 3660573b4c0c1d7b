"""Whose events do not count, as one process knows it: the list in the store, and what its own watch finds.

    list in the store ──► once a second ──► `holds`
    SourceWatch ────────► once a second ──► who breaks a rule is put on the list

All processes that take events do this, each by what came to it; whoever is put on the list by one is held by all of
them a second later. When the store is away, the list of before holds.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from features.errors import FeatureError
from features.source_watch import SourceReport, SourceWatch
from features.sources import Quarantine
from features.store import BulkStore

LOOK_S: Final = 1.0
RULE: Final = "rule"

logger = logging.getLogger(__name__)


class QuarantineKeeper:
    """Run `run` as a task; `await ready()` before `holds` is asked for the first time.

    Args:
        now_ms: Log time.
    """

    def __init__(self, bulk: BulkStore, watch: SourceWatch, now_ms: Callable[[], int]) -> None:
        self._bulk = bulk
        self._now_ms = now_ms
        self._held: dict[str, Quarantine] | None = None
        self._looking = asyncio.Lock()
        self.watch = watch

    @property
    def held(self) -> dict[str, Quarantine]:
        """The sources in quarantine, as of the last look."""
        return self._held or {}

    async def ready(self) -> None:
        """See that the list is known.

        Raises:
            StoreUnavailable: If it cannot be read.
        """
        if self._held is None:
            self._held = await self._bulk.quarantined()

    def holds(self, source: str | None) -> bool:
        """Whether what a source sends does not count."""
        return self._held is not None and source in self._held

    async def put(self, source: str, quarantine: Quarantine) -> None:
        """Put a source on the list, if it is not there.

        Raises:
            StoreUnavailable: If that cannot be done.
        """
        await self._bulk.quarantine(source, quarantine)
        await self.look()

    async def release(self, source: str) -> bool:
        """Take a source off the list; False if it is not there.

        Raises:
            StoreUnavailable: If that cannot be done.
        """
        was_there = await self._bulk.release(source)
        await self.look()
        return was_there

    async def look(self) -> None:
        """Read the list, and put on it who breaks a rule; who has left it is judged anew.

        Raises:
            StoreUnavailable: If that cannot be done.
        """
        async with self._looking:
            before, self._held = self.held, await self._bulk.quarantined()
            for source in before.keys() - self._held.keys():
                self.watch.forget(source)
            for _ in self.watch.refresh():
                await asyncio.sleep(0)  # it takes half a millisecond a source, in which no event is taken
            for source, why in self.watch.judge(self._held).items():
                found = Quarantine(RULE, why, self._now_ms())
                if await self._bulk.quarantine(source, found):
                    logger.warning("source %r is put in quarantine: %s", source, why)
                    self._held[source] = found

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except FeatureError as error:
                logger.warning("the list of quarantine is as it was: %s", error)
            await asyncio.sleep(LOOK_S)

    def problems(self) -> list[str]:
        """What somebody should look at, in words."""
        held = [f"source {name!r} is in quarantine, by {why.who}: {why.why}" for name, why in sorted(self.held.items())]
        return held + self.watch.suspicions

    def status(self) -> dict[str, dict[str, Any]]:
        """What is known of every source, by name; `quarantine` where it is in it."""
        reports = self.watch.reports()
        return {
            name: {**asdict(reports.get(name) or SourceReport()), "quarantine": self.held.get(name)}
            for name in sorted({*reports, *self.held})
        }
