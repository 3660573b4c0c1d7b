"""Puts sources that a judge has told into quarantine, and has them judged anew when somebody has released them.

No Ray, no clock. Whoever calls does so again, whatever went wrong: nothing is lost by a store that was away.
"""

import logging
from collections.abc import Collection
from typing import Final

from features.sources import Quarantine
from features.store import BulkStore
from learners.agreement import Agreement

JUDGE: Final = "judge"
"""Who puts them there."""

logger = logging.getLogger(__name__)


class Quarantining:
    """`look` every few seconds.

    Args:
        is_wanted: Whether any source is put there.
        trusted: Sources that never are.
    """

    def __init__(self, agreement: Agreement, bulk: BulkStore, *, is_wanted: bool, trusted: Collection[str]) -> None:
        self._agreement = agreement
        self._bulk = bulk
        self._is_wanted = is_wanted
        self._trusted = trusted
        self._waiting: dict[str, str] = {}
        """Told, and not put there yet."""
        self._there: set[str] = set()
        """In quarantine when last looked."""

    async def look(self, now_ms: int) -> None:
        """Put there what was told, and forget what was released.

        Args:
            now_ms: Log time.
        Raises:
            FeatureError: If the store is away.
        """
        for source, why in self._agreement.take_told().items():
            logger.warning("source %s: %s", source, why)
            if self._is_wanted and source not in self._trusted:
                self._waiting[source] = why
        for source, why in list(self._waiting.items()):
            await self._bulk.quarantine(source, Quarantine(JUDGE, why, now_ms))
            self._there.add(source)
            del self._waiting[source]
        there = set(await self._bulk.quarantined())
        for source in self._there - there:
            self._agreement.forget(source)
        self._there = there
