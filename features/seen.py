"""Which events were seen lately, in memory."""

from collections.abc import Iterable


class Seen:
    """Digests of this window and of the one before, by partition; as the rotating sets of the server."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._number = 0
        self._current: set[tuple[int, bytes]] = set()
        self._previous: set[tuple[int, bytes]] = set()

    def has(self, partition: int, digest: bytes, now_ms: int) -> bool:
        """Whether it was seen in this window or the one before."""
        self._rotate(now_ms // self._window_ms)
        return (partition, digest) in self._current or (partition, digest) in self._previous

    def add(self, partition: int, digest: bytes) -> None:
        """Remember it."""
        self._current.add((partition, digest))

    def discard(self, partition: int, digests: Iterable[bytes]) -> None:
        """Remember them no more."""
        gone = {(partition, digest) for digest in digests}
        self._current -= gone
        self._previous -= gone

    def _rotate(self, number: int) -> None:
        if number == self._number:
            return
        self._previous = self._current if number == self._number + 1 else set()
        self._current = set()
        self._number = number
