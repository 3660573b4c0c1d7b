"""What replicas get: the newest version as an edition, unless they are kept at an earlier one.

    note ─► wanted ─► draft ─► handed out ─► follow ─► replicas

Replicas `follow`: they get the editions since theirs, while those are still here, else all that the others have. One
that is pinned stays until it is resumed; versions go on to be committed beside it, and so does their history.

Not known here: where bytes are put so that others read them, and what weights mean. One event loop.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from features.clock import Clock
from features.schema import Schema
from learners import editions, pinning, snapshots
from learners.checkpoints import Files
from learners.editions import Head, Part, Place
from learners.errors import LearnerError
from learners.pinning import PINNED, Pin
from learners.publisher import Draft, Publisher
from learners.snapshots import Delta
from learners.version_history import VersionHistory, What

T = TypeVar("T")
HISTORY: Final = "history"
"""Name of the file of what became of versions."""
N_EDITIONS: Final = 128  # about a minute of them: a replica further behind takes everything
LEFT_S: Final = 1.0  # after which rows that did not fit are sent, if no version comes
RETRY_S: Final = 1.0
LEARNER: Final = "learner"

logger = logging.getLogger(__name__)


class Publishing(Generic[T]):
    """`load`, then `run` as a task; `note` what was committed.

    Args:
        publisher: Knows what replicas have.
        put: Makes bytes readable where replicas are; returns what leads to them.
        newest: Gives the current version, whole.
    """

    def __init__(
        self,
        publisher: Publisher,
        put: Callable[[bytes], T],
        newest: Callable[[], Delta | None],
        clock: Clock,
    ) -> None:
        self.stages: dict[str, float] = {}
        """What the newest edition took, by name."""
        self.trained_through_ms = 0
        """Of what replicas have."""
        self.pin: Pin | None = None
        self._publisher = publisher
        self._put = put
        self._newest = newest
        self._clock = clock
        self._files: Files
        self._history = VersionHistory()
        self._wanted = asyncio.Event()
        """Set while there may be something to publish."""
        self._changed = asyncio.Event()
        self._editions: OrderedDict[int, list[T]] = OrderedDict()
        self._whole: tuple[int, list[T]] = 0, []

    @property
    def version(self) -> int:
        """That replicas have; 0 before the first."""
        return self._publisher.version

    @property
    def described(self) -> dict[str, Any]:
        """For people."""
        return {
            "live": self.version,
            "trained_through_ms": self.trained_through_ms,
            "state": "pinned" if self.pin else "live",
            "pinned": self.pin.described if self.pin else None,
        }

    @property
    def history(self) -> list[dict[str, Any]]:
        """What became of versions, oldest first."""
        return [msgspec.structs.asdict(line) for line in self._history.lines]

    async def load(self, files: Files, schema: Schema) -> None:
        """Go on with what is durable: the history, and what replicas were kept at."""
        self._files = files
        names = await files.names()
        if HISTORY in names:
            self._history.load(await files.read(HISTORY))
        if PINNED in names:
            self._find_pinned(await files.read(PINNED), schema)
        self._wanted.set()

    def note(self, delta: Delta) -> None:
        """A delta was committed."""
        self._publisher.note(delta)
        self._wanted.set()

    def note_all(self, full: Delta) -> None:
        """A version is in the place of what was."""
        self._publisher.note_all(full)
        self._wanted.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                self._publish()
            except Exception:  # a supervisor: replicas keep what they have, and the next version is tried
                logger.exception("a version could not be published")
                await asyncio.sleep(RETRY_S)

    def advance(self, version: int, trained_through_ms: int) -> None:
        """This version answers for the log up to here, if it is what replicas have."""
        if self.version == version and trained_through_ms > self.trained_through_ms:
            self.trained_through_ms = trained_through_ms
            self.wake()

    async def keep_at(self, full: Delta, who: str, why: str) -> None:
        """Pin a version, durably."""
        pin = Pin(who, why, self._clock.now_ms(), pinning.public(full))
        await self._files.write(PINNED, pinning.pins.pack(pin))
        self._go_to(pin)
        await self.tell("rolled back", full.version, who, why)

    async def resume(self, who: str, why: str) -> None:
        """Publish the newest version again, if another one was pinned."""
        if self.pin is None:
            return
        await self._files.delete(PINNED)
        self.pin = None
        full = self._newest()
        if full is not None:
            self.note_all(full)
            await self.tell("resumed", full.version, who, why)

    async def follow(self, place: Place, trained_through_ms: int, wait_s: float) -> dict[str, Any]:
        """What a replica at `place` lacks; waits until there is something, at most `wait_s`.

        Returns:
            `place`, `version`, `trained_through_ms`, and `editions`: what leads to each one's packed head and parts, to
            apply in order.
        """
        if self._publisher.place == place and self.trained_through_ms == trained_through_ms:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        return {
            "place": self._publisher.place,
            "version": self.version,
            "trained_through_ms": self.trained_through_ms,
            "editions": self._since(place),
        }

    def wake(self) -> None:
        """Have who follows look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def tell(self, what: What, version: int, who: str, why: str) -> None:
        """Add to the history, durably."""
        self._history.note(what, version, self._clock.now_ms(), who, why)
        await self.save_history()

    async def save_history(self) -> None:
        """Make durable what was only noted: that versions were published."""
        await self._files.write(HISTORY, self._history.packed)

    def _publish(self) -> None:
        full = self._newest()
        if full is None or self.pin is not None:
            return
        began_s = time.monotonic()
        draft = self._publisher.draft(full)
        self.stages["draft_ms"] = round(1000.0 * (time.monotonic() - began_s), 2)
        self._send(draft)
        self._history.note("published", draft.head.version, self._clock.now_ms(), LEARNER)
        if draft.n_left:
            asyncio.get_running_loop().call_later(LEFT_S, self._wanted.set)

    def _find_pinned(self, packed: bytes, schema: Schema) -> None:
        try:
            pin = pinning.pins.unpack(packed)
            snapshots.check_schema(pin.full, schema)
        except LearnerError as error:
            logger.error("checkpoint %s is skipped, replicas get the newest version: %s", PINNED, error)
        else:
            self._go_to(pin)

    def _go_to(self, pin: Pin) -> None:
        self.pin = pin
        self._publisher.note_all(pin.full)
        self._send(self._publisher.draft(pin.full, is_limited=False))

    def _send(self, draft: Draft) -> None:
        """Hand an edition out from now on."""
        self._publisher.settle(draft)
        packed = _packed(draft.head, draft.parts)
        self._editions[draft.head.place.number] = [self._put(one) for one in packed]
        n_rows = sum(len(change.rows) for change in draft.changes.values())
        self.stages |= {"edition_bytes": sum(map(len, packed)), "rows": n_rows, "rows_left": draft.n_left}
        while len(self._editions) > N_EDITIONS:
            self._editions.popitem(last=False)
        self.trained_through_ms = draft.head.trained_through_ms
        self.wake()

    def _since(self, place: Place) -> list[list[T]]:
        """The editions that bring who is at `place` to the newest."""
        newest = self._publisher.place
        if not newest.number or place == newest:
            return []
        missing = range(place.number + 1, newest.number + 1)
        if place.origin == newest.origin and all(number in self._editions for number in missing):
            return [self._editions[number] for number in missing]
        if self._whole[0] != newest.number:
            self._whole = newest.number, [self._put(one) for one in _packed(*self._publisher.whole())]
        return [self._whole[1]]


def _packed(head: Head, rows: list[Part]) -> list[bytes]:
    return [editions.heads.pack(head), *map(editions.parts.pack, rows)]
