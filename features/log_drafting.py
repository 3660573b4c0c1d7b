"""A log partition in Redis is written anew without some of its entries, while it goes on.

    begin ─► copy, some entries at a time ─► … ─► the last ones, and the draft takes the log's place, in one step

XDEL marks an entry as gone and leaves its bytes in the server's memory, in its files and in what it sends to replicas,
until all of its neighbours are gone. A log that is written anew has never had it. Price: for as long as it takes the
partition twice, and 4 us of the server an entry (EPYC, entries of 700 bytes), a hundred at a time.
"""

import uuid
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from features.events import START, StreamId
from features.keys import Keys

ENTRIES_AT_ONCE: Final = 100  # half a millisecond of the server, which answers nobody else meanwhile


async def rewrite_log(
    call: Callable[..., Awaitable[Any]], keys: Keys, partition: int, left_out: Collection[StreamId]
) -> None:
    """Put a copy in the place of a partition's log, without these entries; positions stay.

    Args:
        call: Runs a command at the slot of its first key.
    Raises:
        LogMoved: If somebody else has begun the same.
    """
    token, gone = uuid.uuid4().hex, sorted(left_out)
    where = 3, keys.log(partition), keys.draft(partition), keys.drafted(partition), token
    await call("FCALL", "headrace_4_begin_draft", *where)
    after, n_copied, n_seen = START, 0, ENTRIES_AT_ONCE
    while n_seen == ENTRIES_AT_ONCE:
        first = bisect_right(gone, after)
        near = map(str, gone[first : first + ENTRIES_AT_ONCE])
        last, n_copied, n_seen = await call(
            "FCALL", "headrace_4_put_draft", *where, n_copied, str(after), ENTRIES_AT_ONCE, *near
        )
        after = StreamId.parse(last)
