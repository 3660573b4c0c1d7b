"""Following the hub: a replica's weights are prepared off the request path and swapped by one reference.

A replica keeps two scorers. `live` answers; the other one is brought up to date in slices of half a millisecond, with
the event loop free between them, and then the two change places. A batch takes `live` once and scores without giving up
the loop, so every answer is computed by exactly one version. Before they do, the new weights score a few made-up
candidates, so that no answer pays for their first use.

Settings that can be changed while a replica runs come along with the weights.

Price: the weights twice in memory. Not known here: what weights are, or where the hub got them.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from ray.exceptions import RayError

from deployments.warm_up import made_up_inputs
from features.schema import Schema
from learners import snapshots
from learners.errors import LearnerError
from learners.hub import get_hub
from learners.scorer import Scorer
from learners.snapshots import Delta

WAIT_S: Final = 5.0  # of one long poll; bounds how long a dead connection goes unnoticed
RETRY_S: Final = 0.25


logger = logging.getLogger(__name__)


class WeightFollower:
    """Keeps `live` at the hub's newest version. Run `run` as a task for the replica's whole life."""

    def __init__(
        self,
        schema: Schema,
        on_swap: Callable[[int], None] | None = None,
        on_settings: Callable[[bytes], None] | None = None,
        new_scorer: Callable[[Schema], Scorer] = Scorer,
    ) -> None:
        self.live = new_scorer(schema)
        self.trained_through_ms = 0
        self.status: dict[str, Any] = {}
        self.n_swaps = 0
        self._spare = new_scorer(schema)
        self._made_up = made_up_inputs(schema)
        self._spare_lacks: list[Delta] = []
        self._on_swap = on_swap
        self._on_settings = on_settings
        self._settings = b""

    @property
    def version(self) -> int:
        """Version of the weights that answer; 0 before the first."""
        return self.live.version

    async def run(self) -> None:
        """Follow for ever; an absent hub is waited for, with the old weights in use."""
        while True:
            try:
                await self.follow_once(get_hub())
            except (RayError, ValueError, LearnerError) as error:
                logger.warning("weights stay at version %d: %s", self.version, str(error).splitlines()[0])
                await asyncio.sleep(RETRY_S)

    async def follow_once(self, hub: Any) -> None:
        """One long poll, and the swap if there is something new."""
        news = await hub.follow.remote(self.version, self.trained_through_ms, WAIT_S)
        deltas = [snapshots.unpack(await ref) for ref in news["refs"]]
        if deltas:
            await self.swap(deltas)
        if self.version == news["version"]:
            self.trained_through_ms = news["trained_through_ms"]
        self.status = news["status"]
        if news["settings"] != self._settings:
            self._settings = news["settings"]
            if self._on_settings is not None:
                self._on_settings(self._settings)

    async def swap(self, deltas: list[Delta]) -> None:
        """Bring the spare scorer up to date in slices, then let it answer."""
        missing = deltas if deltas[0].base is None else [*self._spare_lacks, *deltas]
        for delta in missing:
            for _ in self._spare.apply(delta):
                await asyncio.sleep(0)
        for inputs in self._made_up:
            self._spare.score(inputs)
            await asyncio.sleep(0)
        self.live, self._spare = self._spare, self.live
        self._spare_lacks = deltas
        self.trained_through_ms = deltas[-1].progress.trained_through_ms
        self.n_swaps += 1
        if self._on_swap is not None:
            self._on_swap(self.version)
