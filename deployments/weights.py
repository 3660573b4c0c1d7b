"""Following the hub: a replica's weights are prepared off the request path and changed between two batches.

New rows are written beside those that answer, in slices of half a millisecond with the event loop free between them.
Then one step without a pause in it makes them those that answer. A batch scores without giving up the loop either, so
every answer is computed by exactly one version.

Settings that can be changed while a replica runs come along with the weights.

Not known here: what weights are, or where the hub got them.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from ray.exceptions import RayError

from features.schema import Schema
from learners.editions import heads, parts
from learners.errors import LearnerError
from learners.hub import get_hub
from learners.scorer import Scorer

WAIT_S: Final = 5.0  # of one long poll; bounds how long a dead connection goes unnoticed
RETRY_S: Final = 0.25
CATCH_UP_S: Final = 10.0  # a new replica waits so long for the weights that others answer with

logger = logging.getLogger(__name__)


class WeightFollower:
    """Keeps `live` at what the hub publishes. `catch_up`, then run `run` as a task for the replica's whole life.

    Args:
        on_settings: Told settings that have changed.
        find_hub: Gives a handle of the hub.
    """

    def __init__(
        self,
        schema: Schema,
        on_settings: Callable[[bytes], None] | None = None,
        find_hub: Callable[[], Any] = get_hub,
    ) -> None:
        self.live = Scorer(schema)
        self.trained_through_ms = 0
        self.n_swaps = self.n_bytes = 0
        self.swap_s = self.prepare_s = 0.0
        """Of the newest edition: the step in which nothing is answered, and all before it."""
        self._on_settings = on_settings
        self._find_hub = find_hub
        self._settings = b""

    @property
    def version(self) -> int:
        """Version of the weights that answer; 0 before the first."""
        return self.live.version

    async def catch_up(self, within_s: float = CATCH_UP_S) -> None:
        """Come to what the others answer with; without it, if the hub does not say within this time."""
        try:
            async with asyncio.timeout(within_s):
                while not await self._try_to_follow(0.0):
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            logger.warning("the hub does not answer within %g s; answering without its weights", within_s)

    async def run(self) -> None:
        """Follow for ever; an absent hub is waited for, with the old weights in use."""
        while True:
            if not await self._try_to_follow(WAIT_S):
                await asyncio.sleep(RETRY_S)

    async def follow_once(self, hub: Any, wait_s: float) -> None:
        """One long poll, and what it brings."""
        news = await hub.follow.remote(self.live.place, self.trained_through_ms, wait_s)
        for edition in news["editions"]:
            await self._become(edition)
        if self.live.place == news["place"]:
            self.trained_through_ms = news["trained_through_ms"]
        if news["settings"] != self._settings:
            self._settings = news["settings"]
            if self._on_settings is not None:
                self._on_settings(self._settings)

    async def _try_to_follow(self, wait_s: float) -> bool:
        try:
            await self.follow_once(self._find_hub(), wait_s)
        except (RayError, ValueError, LearnerError) as error:
            logger.warning("weights stay at version %d: %s", self.version, str(error).splitlines()[0])
            return False
        return True

    async def _become(self, edition: list[Any]) -> None:
        """Prepare an edition part by part, then let it answer."""
        began_s = time.monotonic()
        packed = await edition[0]
        head, n_bytes = heads.unpack(memoryview(packed)), len(packed)
        self.live.begin(head)
        for ref in edition[1:]:
            packed = await ref
            n_bytes += len(packed)
            for _ in self.live.add(parts.unpack(memoryview(packed))):
                await asyncio.sleep(0)
        swap_s = time.monotonic()
        self.live.flip()
        self.trained_through_ms = head.trained_through_ms
        self.prepare_s, self.swap_s = swap_s - began_s, time.monotonic() - swap_s
        self.n_swaps += 1
        self.n_bytes += n_bytes
        for _ in self.live.settle():
            await asyncio.sleep(0)
