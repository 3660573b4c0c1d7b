"""The store protocol: what every implementation promises, whatever keeps the bytes.

One write path: `apply` takes records (events, attributes, erasures, decisions) and for each of them, in isolation:
refuses a duplicate, reads the user's state, appends the log entry with that state, updates the state. When it returns
the person's next read sees it. One read path for ranking: `read`. One for folds: `read_log`, by position. Item rows are
written by `commit_rows`, which moves the rows of one item partition and the positions they reach in one step, and
refuses if somebody else has moved them.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from features.erasures import Erased, Erasing
from features.errors import FeatureError
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    ITEM,
    QUARANTINED,
    USER,
    Entry,
    LoggedAttributes,
    LoggedDecision,
    LoggedErasure,
    LoggedEvent,
    Positions,
    StreamId,
    encode_body,
)
from features.keys import Keys, digest
from features.schema import Schema
from features.sources import Quarantine
from features.state import Update, update_for

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One thing to append to the log, and what it does to a user's state."""

    kind: bytes
    partition: int
    body: bytes
    ts_ms: int
    user: str | None = None
    """Whose state is read and changed; None for item attributes and decisions."""
    digest: bytes = b""
    """Identity within `dedupe_window_s`; empty: always new."""
    update: Update | None = None
    attributes: bytes | None = None
    """New user attributes (msgpack map)."""
    erasure: str = ""
    """Name under which an erasure is noted, to be carried out in all other places; empty: it is not."""
    state: bytes = b""
    """State to log with a record that has no `user`: what a decision was made with. Of an erasure: the state that the
    person must have; empty: any."""


class Applied(NamedTuple):
    """What became of a record: its position, or for a duplicate the newest of its partition."""

    id: StreamId
    is_duplicate: bool


Read = bytes | FeatureError
"""What was read of a key, empty if there is nothing; or why that is not known."""


class RowListener(Protocol):
    """Who wants to know which item rows are written. Instants are `time.monotonic` seconds."""

    def began(self) -> None:
        """From now on it is told; what was written before is not."""

    def changed(self, items: Sequence[str]) -> None:
        """The rows of these items were written."""

    def heard(self, until_s: float) -> None:
        """Every row written before this instant has been told."""


class FeatureStore(Protocol):
    """Every method but `apply` and `read` raises `StoreUnavailable` when the store does not answer."""

    keys: Keys
    schema: Schema

    async def apply(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        """Apply records in order; each is judged by itself, and an error means that nothing of it was written.

        With a limit to the log, what comes beyond it is `LogFull`, but for erasures.
        """
        ...

    async def read(self, users: Sequence[str], items: Sequence[str]) -> tuple[list[Read], list[Read]]:
        """Packed user states and item rows; empty bytes for strangers.

        Raises nothing: an error stands in place of what can't be had, be it one of many servers that is away. `all_of`
        is for those who need everything.
        """
        ...

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """Entries after the positions (missing: from the start), at most `count` per partition, ordered within each.

        Waits up to `block_s` for the first entry; an empty list means that there is none.
        """
        ...

    async def heads(self) -> Positions:
        """The newest position of every partition that ever had an entry, trimmed ones too."""
        ...

    async def log_bytes(self) -> int:
        """Memory that the log takes in all partitions, estimated by the store."""
        ...

    async def now_ms(self) -> int:
        """Log time: no entry appended after this call gets an id before it (event clock: for a single sender)."""
        ...

    async def trim(self, positions: Positions) -> None:
        """Drop the entries up to and including each position."""
        ...

    async def commit_rows(
        self,
        item_partition: int,
        rows: Mapping[str, bytes],
        *,
        expected: Positions,
        reached: Positions,
        holder: str = "",
    ) -> None:
        """Write item rows (an empty one: have none) and the positions they reach, if those stored are `expected`.

        Compared are the log partitions in `expected`; `START` stands for one without a stored position.

        Args:
            holder: Who holds the rows, see `BulkStore`; empty: nobody may.
        Raises:
            ProjectionConflict: If they are not, or the rows are held by another; nothing was written.
        """
        ...

    async def projected(self) -> list[Positions]:
        """For every item partition, the position of every log partition up to which it is folded.

        Raises:
            RowsHeld: If they are being replaced.
        """
        ...

    async def follow_rows(self, listener: RowListener) -> None:
        """Tell which item rows are written, a few times a second, until cancelled.

        Raises:
            StoreUnavailable: When the store is lost; what is written from then on is not told.
        """
        ...

    async def close(self) -> None:
        """Release connections; the store can't be used after it."""
        ...


class BulkStore(Protocol):
    """What concerns all of a store that goes on living: to replace states and rows as a whole, who reads the log, whose
    events do not count, and who is erased. Raises as `FeatureStore` does.

    States of users follow from a position of their log, and are refused when that has moved. Rows are held: until they
    are released nobody else writes any, and who folds the log into them begins again where `release_rows` says.
    """

    keys: Keys

    async def trimmed(self) -> Positions:
        """The last entry that is gone from each log partition; those of which nothing is gone are not there."""
        ...

    async def trimming(self) -> Positions:
        """Up to where entries of each log partition may be gone: told before they go, so never behind `trimmed`.

        One small answer, whatever the number of servers: who reads on from there has missed nothing.
        """
        ...

    async def put_users(self, partition: int, states: Mapping[str, bytes], head: StreamId) -> None:
        """Replace states of users of a partition; an empty one: have none.

        Raises:
            LogMoved: If the partition's newest entry is not `head` (`START`: none); nothing was written.
        """
        ...

    async def hold_rows(self, holder: str) -> None:
        """Keep everybody else from writing item rows, whoever held them before."""
        ...

    async def holder(self) -> str:
        """By whom all item rows are held; empty if it is nobody, or not all of them."""
        ...

    async def put_rows(self, item_partition: int, rows: Mapping[str, bytes], holder: str) -> None:
        """Replace rows; an empty one: have none.

        Raises:
            ProjectionConflict: If they are held by another.
        """
        ...

    def items(self) -> AsyncIterator[list[str]]:
        """Every item that has a row, some at a time; perhaps twice."""
        ...

    def users(self) -> AsyncIterator[list[str]]:
        """Every user who has a state, some at a time; perhaps twice."""
        ...

    async def release_rows(self, reached: Positions, holder: str) -> None:
        """Let others write rows again; all of them are now folded up to here.

        Raises:
            ProjectionConflict: If one is held by another.
        """
        ...

    async def note_reader(self, name: str, positions: Positions) -> None:
        """Note how far somebody has read: nothing after that is trimmed."""
        ...

    async def advance_reader(self, name: str, expected: Positions, reached: Positions) -> None:
        """Note how far somebody has read, if that was at `expected` before; other partitions stay where they are.

        `START` stands for a partition without a position.

        Raises:
            ReaderMoved: If it was elsewhere, or there is no such reader; nothing was noted.
        """
        ...

    async def forget_reader(self, name: str) -> None:
        """Trim without regard to this reader."""
        ...

    async def readers(self) -> dict[str, Positions]:
        """How far everybody who was noted has read."""
        ...

    async def quarantine(self, source: str, quarantine: Quarantine) -> bool:
        """Have what a source sends kept, and nothing else, from within a second on; False if that is so already."""
        ...

    async def release(self, source: str) -> bool:
        """Have what a source sends count again; False if it does."""
        ...

    async def quarantined(self) -> dict[str, Quarantine]:
        """The sources in quarantine."""
        ...

    async def erasing(self) -> dict[str, Erasing]:
        """The erasures that are under way, by name."""
        ...

    async def note_erasing(self, erasure: str, erasing: Erasing) -> None:
        """Note how far an erasure is."""
        ...

    async def end_erasing(self, erasure: str, erasing: Erasing, done_ms: int) -> None:
        """Note that an erasure is done; of whom it was about nothing is left."""
        ...

    async def erasure(self, erasure: str) -> Erasing | Erased | None:
        """An erasure that is under way, or was done in the last `ERASED_S`; None: there is none of this name."""
        ...

    async def note_erased(self, partition: int, at: StreamId) -> None:
        """Note that of a log partition not all entries up to here are there any more, before they go."""
        ...

    async def erased_to(self) -> Positions:
        """Up to where entries were erased; partitions where none was are not there."""
        ...

    async def drop_entries(self, partition: int, entries: Collection[StreamId], digests: Collection[bytes]) -> None:
        """Have entries of a log partition no more, and events of these digests not known as seen.

        Positions stay: what comes next comes after the newest entry there ever was. Nobody is told, as by `trim`.

        Raises:
            LogMoved: If somebody else does the same; nothing was dropped.
        """
        ...


def all_of(results: Iterable[T | FeatureError]) -> list[T]:
    """The results, if none of them is an error.

    Raises:
        FeatureError: The first one.
    """
    whole: list[T] = []
    for result in results:
        if isinstance(result, FeatureError):
            raise result
        whole.append(result)
    return whole


def quarantined_record(event: LoggedEvent, keys: Keys) -> Record:
    """The record of a checked event in quarantine: no state changes, and the same event may come again and count."""
    return Record(
        kind=QUARANTINED, partition=keys.user_partition(event.user), body=encode_body(event), ts_ms=event.ts_ms
    )


def event_record(event: LoggedEvent, schema: Schema, keys: Keys) -> Record:
    """The record of a checked event."""
    return Record(
        kind=EVENT,
        partition=keys.user_partition(event.user),
        body=encode_body(event),
        ts_ms=event.ts_ms,
        user=event.user,
        digest=digest(event.user, event.id) if event.id is not None else b"",
        update=update_for(event, schema),
    )


def item_record(entry: LoggedAttributes, keys: Keys) -> Record:
    """The record of an item's attributes; it lives in the log partition that the item's id hashes to."""
    return Record(kind=ITEM, partition=keys.user_partition(entry.entity), body=encode_body(entry), ts_ms=entry.ts_ms)


def user_record(entry: LoggedAttributes, keys: Keys) -> Record:
    """The record of a user's attributes."""
    return Record(
        kind=USER,
        partition=keys.user_partition(entry.entity),
        body=encode_body(entry),
        ts_ms=entry.ts_ms,
        user=entry.entity,
        attributes=msgspec.msgpack.encode(entry.attributes),
    )


def erasure_record(entry: LoggedErasure, keys: Keys, erasure: str = "", state: bytes = b"") -> Record:
    """The record that erases a person's state, and with a name has everything else erased; see `features.erasing`.

    Args:
        state: What it must be, else applying it is `LogMoved`; empty: whatever it is.
    """
    return Record(
        kind=ERASURE,
        partition=keys.user_partition(entry.user),
        body=encode_body(entry),
        ts_ms=entry.ts_ms,
        user=entry.user,
        erasure=erasure,
        state=state,
    )


def decision_record(decision: LoggedDecision, state: bytes, keys: Keys) -> Record:
    """The record of a decision with the user's state it was made with; the state itself is not touched."""
    return Record(
        kind=DECISION,
        partition=keys.user_partition(decision.user),
        body=encode_body(decision),
        ts_ms=decision.ts_ms,
        state=state,
    )
