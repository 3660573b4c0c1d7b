"""Fakes of our own protocols: they keep the promises, and fail where a test wants them to."""

from collections.abc import Mapping
from typing import Any

from features.errors import StoreUnavailable
from features.events import Positions
from features.memory_store import MemoryStore


class FaultyStore:
    """A memory store whose `commit_rows` fails at chosen calls, before or after having written.

    Args:
        faults: Number of the call -> whether it has written before it fails.
    """

    def __init__(self, store: MemoryStore, faults: Mapping[int, bool]) -> None:
        self._store = store
        self._faults = faults
        self._n_calls = 0
        self.n_faults = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit_rows(
        self,
        item_partition: int,
        rows: Mapping[str, bytes],
        *,
        expected: Positions,
        reached: Positions,
        holder: str = "",
    ) -> None:
        """As the store's, but for the faults."""
        self._n_calls += 1
        has_written = self._faults.get(self._n_calls)
        if has_written is not False:
            await self._store.commit_rows(item_partition, rows, expected=expected, reached=reached, holder=holder)
        if has_written is not None:
            self.n_faults += 1
            raise StoreUnavailable("the store went away")
