"""Where editions lie for those who follow: the newest ones, and everything as one for who is too far behind.

Not known here: where bytes are put so that others read them, and what weights mean. One event loop.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from learners import editions
from learners.editions import Head, Part, Place
from learners.publisher import Draft, Publisher

T = TypeVar("T")
N_EDITIONS: Final = 128  # about a minute of them: who is further behind takes everything


class LaidOut(NamedTuple, Generic[T]):
    """An edition where it can be read."""

    refs: list[T]
    """To its packed head and parts, in order."""
    n_bytes: int


class Shelf(Generic[T]):
    """`lay_out` an edition, then `send` it; those who `follow` get it.

    Args:
        publisher: Knows what they have.
        put: Makes bytes readable where they are; returns what leads to them.
    """

    def __init__(self, publisher: Publisher, put: Callable[[bytes], T]) -> None:
        self.publisher = publisher
        self.trained_through_ms = 0
        """Of what they have."""
        self._put = put
        self._changed = asyncio.Event()
        self._editions: OrderedDict[int, tuple[int, list[T]]] = OrderedDict()
        """By the number of the one before: its own number, and what leads to it."""
        self._everything: tuple[int, list[T]] = 0, []

    @property
    def version(self) -> int:
        """That they have; 0 before the first."""
        return self.publisher.version

    def lay_out(self, head: Head, rows: list[Part]) -> LaidOut[T]:
        """Put an edition where it is read from."""
        packed = [editions.heads.pack(head), *map(editions.parts.pack, rows)]
        return LaidOut([self._put(one) for one in packed], sum(map(len, packed)))

    def send(self, draft: Draft, edition: LaidOut[T]) -> None:
        """Hand an edition out from now on."""
        self.publisher.settle(draft)
        self._editions[draft.after.number] = draft.head.place.number, edition.refs
        while len(self._editions) > N_EDITIONS:
            self._editions.popitem(last=False)
        self.trained_through_ms = draft.head.trained_through_ms
        self.wake()

    def advance(self, version: int, trained_through_ms: int) -> None:
        """This version answers for the log up to here, if it is what they have."""
        if self.version == version and trained_through_ms > self.trained_through_ms:
            self.trained_through_ms = trained_through_ms
            self.wake()

    async def follow(self, place: Place, trained_through_ms: int, wait_s: float) -> dict[str, Any]:
        """What who is at `place` lacks; waits until there is something, at most `wait_s`.

        Returns:
            `place`, `version`, `trained_through_ms`, and `editions`: what leads to each one's packed head and parts, to
            apply in order.
        """
        if self.publisher.place == place and self.trained_through_ms == trained_through_ms:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        return {
            "place": self.publisher.place,
            "version": self.version,
            "trained_through_ms": self.trained_through_ms,
            "editions": self._since(place),
        }

    def begin_again(self, draft: Draft | None) -> None:
        """Hand out everything as it is after this edition, and none of those that led there; None: as it is."""
        if draft is not None:
            self.publisher.settle(draft)
        self._editions.clear()
        self._everything = 0, []
        self.wake()

    def wake(self) -> None:
        """Have who follows look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def everything(self) -> list[T]:
        """All that they have, as one edition.

        Raises:
            RuntimeError: If that is nothing.
        """
        number = self.publisher.place.number
        if self._everything[0] != number:
            self._everything = number, self.lay_out(*self.publisher.whole()).refs
        return self._everything[1]

    def _since(self, place: Place) -> list[list[T]]:
        """The editions that bring who is at `place` to the newest."""
        newest = self.publisher.place
        if place == newest or not newest.number:
            return []
        found, at = [], place.number if place.origin == newest.origin else -1
        while at in self._editions:
            at, refs = self._editions[at]
            found.append(refs)
        return found if at == newest.number else [self.everything()]
