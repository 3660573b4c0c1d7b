"""What happened after a history ends: the entries of the log, laid over states that the history gave.

A state follows from the history and the entries after its cut. So a state that is about to be written takes in what the
log has by then, and is refused if the log has moved: an event that comes meanwhile is in it, and once.
"""

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from features.errors import CorruptState, LogMoved, SchemaMismatch, StoreRefused
from features.events import (
    BEYOND,
    ERASURE,
    EVENT,
    START,
    USER,
    Entry,
    StreamId,
    decode_attributes,
    decode_erasure,
    decode_event,
)
from features.state import split, state_after, with_attributes
from features.store import BulkStore, FeatureStore, all_of
from features.ticks import Log

READ_COUNT: Final = 1000

logger = logging.getLogger(__name__)


class Tail:
    """The entries of one partition after a position, by user: `put` states.

    Args:
        log: Where entries are read; None: in the store.
    """

    def __init__(
        self, store: FeatureStore, bulk: BulkStore, partition: int, after: StreamId = START, log: Log | None = None
    ) -> None:
        self._store = store
        self._log = log or store
        self._bulk = bulk
        self._partition = partition
        self._head = after
        self._elsewhere = {other: BEYOND for other in range(store.keys.n_partitions) if other != partition}
        self._entries: dict[str, list[Entry]] = {}

    async def put(self, states: Mapping[str, bytes]) -> None:
        """Write states that a history gave, with what has happened since, and the attributes that are stored.

        Raises:
            StoreRefused: If entries after the cut are gone.
        """
        while True:
            try:
                stored, _ = await self._store.read(list(states), [])
                now = {
                    user: self._with_attributes(self._laid_over(user, state), before)
                    for (user, state), before in zip(states.items(), all_of(stored), strict=True)
                }
                return await self._bulk.put_users(self._partition, now, self._head)
            except LogMoved as error:
                if not await self._read():
                    raise StoreRefused(f"{error}; but what came is gone from the log") from None

    def _laid_over(self, user: str, state: bytes) -> bytes:
        for entry in self._entries.get(user, ()):
            state = state_after(state, entry, self._store.schema)
        return state

    def _with_attributes(self, state: bytes, stored: bytes) -> bytes:
        """What is stored knows every attribute, also from entries that are gone from the log."""
        try:
            attributes = split(stored, self._store.schema).attributes if stored else b""
        except (SchemaMismatch, CorruptState):
            return state  # what the log says is all that can be known
        return with_attributes(state, attributes, self._store.schema) if attributes else state

    async def _read(self) -> bool:
        """Read what has come since; False if there is nothing."""
        before = self._head
        while entries := await self._log.read_log({**self._elsewhere, self._partition: self._head}, count=READ_COUNT):
            for entry in entries:
                user = user_of(entry)
                if user is not None:
                    self._entries.setdefault(user, []).append(entry)
            self._head = entries[-1].id
        return self._head > before


def user_of(entry: Entry) -> str | None:
    """Whose state an entry changes; None if it changes none, or can't be read."""
    try:
        if entry.kind == EVENT:
            return decode_event(entry.body).user
        if entry.kind == USER:
            return decode_attributes(entry.body).entity
        if entry.kind == ERASURE:
            return decode_erasure(entry.body).user
    except msgspec.DecodeError as error:
        logger.error("entry %s of partition %d is passed over: %s", entry.id, entry.partition, error)
    return None
