"""Where the learners of a round wait for one another: `hand_in` a share, and get those of all.

What was handed in is held until the version that the round becomes is committed. So a learner that is lost after it has
handed in does not keep the others, and finds what all have made of the round when it comes back.

A round is torn if its learners read different logs. All go back to what is committed then, and read it again.

No Ray: shares are whatever the caller hands in. One event loop.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from learners.errors import StaleSnapshot

T = TypeVar("T")
Ends = dict[int, tuple[int, int]]
"""Log positions where a round ends."""


@dataclass(slots=True)
class Meeting(Generic[T]):
    """One round."""

    n_learners: int
    ends: Ends
    shares: dict[int, T] = field(default_factory=dict)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_complete(self) -> bool:
        """Whether everybody has handed in."""
        return len(self.shares) == self.n_learners


class Meetings(Generic[T]):
    """Rounds that are not committed yet, by the version that they become."""

    def __init__(self) -> None:
        self._open: dict[int, Meeting[T]] = {}

    def is_complete(self, version: int) -> bool:
        """Whether all have handed in what becomes this version, and it is not committed."""
        return version in self._open and self._open[version].is_complete

    async def hand_in(self, version: int, seat: int, n_learners: int, ends: Ends, share: T) -> list[T]:
        """The shares of all, by seat, once they are there. Of a learner that comes twice the first one counts.

        Raises:
            StaleSnapshot: If somebody's round ends elsewhere in the log.
        """
        meeting = self._open.setdefault(version, Meeting(n_learners, ends))
        if (meeting.n_learners, meeting.ends) != (n_learners, ends):
            self.tear()
            raise StaleSnapshot(f"version {version}: learner {seat} of {n_learners} read another log than the others")
        meeting.shares.setdefault(seat, share)
        if meeting.is_complete:
            meeting.is_over.set()
        await meeting.is_over.wait()
        if not meeting.is_complete:
            raise StaleSnapshot(f"version {version}: its learners read different logs")
        return [meeting.shares[each] for each in range(n_learners)]

    def commit(self, version: int) -> None:
        """Let go of what is in a committed version."""
        self._open = {number: meeting for number, meeting in self._open.items() if number > version}

    def tear(self) -> None:
        """Send everybody who waits back to what is committed."""
        for meeting in self._open.values():
            meeting.is_over.set()
        self._open.clear()
