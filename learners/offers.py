"""When a learner's work becomes a version.

*Alone*: when all that it has read is learned from and it is time. *In rounds*: after every round of
`learners.rounds`, where each gets the shares of all from the hub; the first learner then offers what they have become.

Whoever of them raises has lost the thread: the learner goes back to what is committed.
"""

import asyncio
import time
from typing import Any, Final, Protocol

from features.ticks import Tick
from learners import snapshots
from learners.errors import StaleSnapshot
from learners.online import OnlineLearner
from learners.rounds import RoundClock

IDLE_OFFER_S: Final = 5.0  # entries without examples (decisions) move the positions this often


class Offers(Protocol):
    """What the learner's loop tells as it reads."""

    version: int
    """What the learner stands on."""

    async def before(self, ms: int) -> None:
        """The next entry is of this instant of log time."""

    async def after(self, ms: int) -> None:
        """The learner has read it."""

    async def close(self, tick: Tick) -> None:
        """All entries of a tick are read."""


class Alone:
    """Offers of the only learner.

    Args:
        hub: Handle of the model hub.
        version: That the learner was restored from; 0: none.
        offer_s: Seconds between versions.
    """

    def __init__(self, hub: Any, learner: OnlineLearner, version: int, offer_s: float) -> None:
        self.version = version
        self._hub = hub
        self._learner = learner
        self._offer_s = offer_s
        self._offered_s = -offer_s  # what is learned first is offered at once
        self._told_s = self._offered_s
        self._n_offered = self._n_learned()

    async def before(self, ms: int) -> None:
        """Learn what is due; offer in between."""
        for _ in self._learner.advance(ms):
            await self._offer_what_is_new()

    async def after(self, ms: int) -> None:
        """Offer, if it is time."""
        await self._offer_what_is_new()

    async def close(self, tick: Tick) -> None:
        """Offer, or tell the hub that there is nothing; also while there was nothing ever."""
        await self.before(tick.end_ms)
        await self._offer_what_is_new()
        waited_s = time.monotonic() - self._offered_s
        if not self.version and not self._learner.n_examples:
            await self._tell_how_far(tick)
        if self._learner.is_settled and self.version and waited_s >= self._offer_s:
            if tick.entries and waited_s >= IDLE_OFFER_S:
                await self._offer()
            elif not await self._hub.advance.remote(self.version, self._learner.trained_through_ms):
                raise StaleSnapshot(f"version {self.version} is not the current one any more")

    async def _tell_how_far(self, tick: Tick) -> None:
        now_s = time.monotonic()
        if tick.entries or now_s - self._told_s >= IDLE_OFFER_S:
            await self._hub.note_read.remote(_ends(self._learner))
            self._told_s = now_s

    async def _offer_what_is_new(self) -> None:
        is_due = time.monotonic() - self._offered_s >= self._offer_s
        if is_due and self._learner.is_settled and self._n_learned() > self._n_offered:
            await self._offer()

    def _n_learned(self) -> int:
        """Examples and erasures: of either replicas and the next learner are to know soon."""
        return self._learner.n_examples + (self._learner.n_erased if self.version else 0)

    async def _offer(self) -> None:
        delta = self._learner.take_delta(self.version + 1, self.version or None)
        self.version = await self._hub.offer.remote(snapshots.pack(delta))
        self._offered_s, self._n_offered = time.monotonic(), self._n_learned()


def _ends(learner: OnlineLearner) -> dict[int, tuple[int, int]]:
    return {partition: (at.ms, at.seq) for partition, at in learner.positions.items()}


class InRounds:
    """Offers of one of several learners; arguments as of `Alone`."""

    def __init__(self, hub: Any, learner: OnlineLearner, version: int, offer_s: float) -> None:
        self.version = version
        self._hub = hub
        self._learner = learner
        self._check_s = offer_s
        self._checked_s = time.monotonic()
        self._clock = RoundClock(learner.config.rounds)
        self._offered: Any = None  # on its way to the hub, while the next round is read

    async def before(self, ms: int) -> None:
        """Meet the others, if the round is over."""
        if self._clock.is_over(ms):
            await self._meet()

    async def after(self, ms: int) -> None:
        """Count the entry."""
        self._clock.count(ms)

    async def close(self, tick: Tick) -> None:
        """Meet the others, or see that the hub still knows what they have made together."""
        await self.before(tick.end_ms)
        await self._acknowledge()
        if not self._clock.n_entries and time.monotonic() - self._checked_s >= self._check_s:
            await self._check(tick.end_ms)

    async def _meet(self) -> None:
        learner, version = self._learner, self.version + 1
        share = learner.end_round(self._clock.end_ms)
        gathered = await self._hub.gather.remote(version, learner.config.rounds.n_learners, share)
        learner.lay(await asyncio.gather(*gathered))
        await self._acknowledge()
        if learner.seat:
            learner.drop_delta()
        else:
            self._offered = self._hub.offer.remote(snapshots.pack(learner.take_delta(version, self.version or None)))
        self.version = version
        self._clock.start()

    async def _acknowledge(self) -> None:
        if self._offered is not None:
            offered, self._offered = self._offered, None
            await offered

    async def _check(self, end_ms: int) -> None:
        if not await self._hub.stands.remote(self.version):
            raise StaleSnapshot(f"version {self.version} is lost, with the hub that had its shares")
        if self.version and not self._learner.seat:
            await self._hub.advance.remote(self.version, end_ms)
        self._checked_s = time.monotonic()
