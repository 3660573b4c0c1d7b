"""When versions that are held again and again lead back, and when nobody goes back by himself any more.

The first time after so many in a row; if what was learned anew is held too, after twice as many, and so on: it may be
the log that nothing good is learned from. One that passes makes an end of that.
"""

from collections import deque
from typing import Final

MAX_HELD: Final = 256
MAX_DECLINES: Final = 3
DECLINES_MS: Final = 3_600_000


class Patience:
    """Counts.

    Args:
        n_held: Versions in a row that are held before it is gone back the first time.
    """

    def __init__(self, n_held: int) -> None:
        self._n_first = self._n_most = n_held
        self._held: set[int] = set()
        self._began_again = 0
        self._declined_ms: deque[int] = deque(maxlen=MAX_DECLINES)

    @property
    def n_held(self) -> int:
        """Versions in a row."""
        return len(self._held)

    def hold(self, version: int) -> bool:
        """Note one that is held; whether that is enough."""
        self._held.add(version)
        return len(self._held) >= self._n_most

    def go_back(self, version: int) -> None:
        """What answers was made the newest version again, as this one."""
        self._held.clear()
        self._began_again = version
        self._n_most = min(2 * self._n_most, MAX_HELD)

    def let_pass(self, version: int) -> None:
        """Note one that is not held."""
        self._held.clear()
        if version > self._began_again:
            self._n_most = self._n_first

    def decline(self, now_ms: int) -> bool:
        """Note that what answered had become worse; whether that was too often."""
        self._declined_ms.append(now_ms)
        return len(self._declined_ms) == MAX_DECLINES and now_ms - self._declined_ms[0] <= DECLINES_MS
