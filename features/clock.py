"""The only reader of time below the edge. Instants are int64 epoch milliseconds, durations float seconds."""

import time
from typing import Protocol


class Clock(Protocol):
    """Something that knows what time it is."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        ...


class WallClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Epoch milliseconds of the system clock."""
        return time.time_ns() // 1_000_000


class FakeClock:
    """A clock that stands still until told otherwise, for tests and for reading history."""

    def __init__(self, now_ms: int = 1_764_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """The instant last set."""
        return self._now_ms

    def set_ms(self, now_ms: int) -> None:
        """Move to an instant, forwards or backwards."""
        self._now_ms = now_ms

    def advance(self, duration_s: float) -> None:
        """Move forwards by a duration."""
        self._now_ms += round(duration_s * 1000)


class EventClock:
    """Time as the stream tells it: the newest event time plus the wall time since it arrived.

    With it history can be lived through at any speed; an idle stream still comes to rest.
    """

    def __init__(self, newest_ms: int = 0) -> None:
        self._newest_ms = newest_ms
        self._seen_s = time.monotonic()

    def observe(self, event_ms: int) -> None:
        """Take note of an event time; older ones change nothing."""
        if event_ms > self._newest_ms:
            self._newest_ms = event_ms
            self._seen_s = time.monotonic()

    def now_ms(self) -> int:
        """Newest event time plus the wall time since it was observed; 0 before any event."""
        if not self._newest_ms:
            return 0
        return self._newest_ms + int((time.monotonic() - self._seen_s) * 1000)
