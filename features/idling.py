"""People who have done nothing for long are erased, as if they had asked for it: by an entry of the log.

So whoever folds the log knows, and a state that is made again from it is the one that is served. A time to live of keys
would be cheaper, and nobody who reads the log would know of it. Whoever acts between the look and the entry stays.

Of whom only attributes are known it is not known when they were here: they stay. Price: one look at every state.
"""

import uuid
from collections.abc import Sequence
from typing import Final

from features.errors import CorruptState, FeatureError, LogMoved, SchemaMismatch
from features.events import LoggedErasure
from features.schema import Schema
from features.state import unpack
from features.store import Applied, BulkStore, FeatureStore, Record, all_of, erasure_record

MAX_ERASURES: Final = 10_000  # under way at once, whoever asked: they share a pass over the archive
USERS_AT_ONCE: Final = 64  # for a fraction of a millisecond the server answers nobody else


async def erase_idle(store: FeatureStore, bulk: BulkStore, idle_ms: int) -> int:
    """Ask for the erasure of whoever has done nothing for so long; returns of how many.

    Raises:
        FeatureError: If the store does not do its part; those that were asked for are under way.
    """
    now_ms, n_asked = await store.now_ms(), 0
    n_left = MAX_ERASURES - len(await bulk.erasing())
    async for users in bulk.users():
        for start in range(0, len(users), USERS_AT_ONCE):
            some = users[start : start + USERS_AT_ONCE]
            states, _ = await store.read(some, [])
            idle = [
                _record(user, state, now_ms, bulk)
                for user, state in zip(some, states, strict=True)
                if isinstance(state, bytes) and _is_idle(state, store.schema, now_ms - idle_ms)
            ][: n_left - n_asked]
            if idle:
                n_asked += _n_asked(await store.apply(idle))
            if n_asked >= n_left:
                return n_asked
    return n_asked


def _is_idle(state: bytes, schema: Schema, since_ms: int) -> bool:
    try:
        recent = unpack(state, schema).recent
    except (CorruptState, SchemaMismatch):
        return False
    return bool(recent) and max(ts_ms for _, _, ts_ms in recent) < since_ms


def _record(user: str, state: bytes, now_ms: int, bulk: BulkStore) -> Record:
    return erasure_record(LoggedErasure(user, now_ms), bulk.keys, uuid.uuid4().hex, state)


def _n_asked(results: Sequence[Applied | FeatureError]) -> int:
    """How many were written; others have acted meanwhile."""
    return len(all_of(result for result in results if not isinstance(result, LogMoved)))
