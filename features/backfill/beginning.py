"""Whether a log reaches back to its beginning: if what people are follows from its entries alone."""

from features.backfill.tail import READ_COUNT, user_of
from features.backfill.writing import has_events
from features.errors import StoreRefused
from features.events import Positions
from features.store import BulkStore, FeatureStore, all_of
from features.ticks import Log


async def check_beginning(store: FeatureStore, bulk: BulkStore, log: Log) -> None:
    """See that nobody had done anything before the first entry of the log.

    Args:
        log: All that there is of the store's log, in its archive too.
    Raises:
        StoreRefused: If somebody had, naming the user.
    """
    at: Positions = {}
    known: set[str] = set()
    await _read_on(store, log, at, known)
    strangers: list[str] = []
    async for users in bulk.users():
        others = [user for user in users if user not in known]
        states, _ = await store.read(others, [])
        strangers += [u for u, state in zip(others, all_of(states), strict=True) if has_events(state, store.schema)]
    await _read_on(store, log, at, known)  # who came meanwhile is no stranger
    for user in strangers:
        if user not in known:
            raise _refused(user)


async def _read_on(store: FeatureStore, log: Log, at: Positions, known: set[str]) -> None:
    while entries := await log.read_log(at, count=READ_COUNT):
        for entry in entries:
            at[entry.partition] = entry.id
            user = user_of(entry)
            if user is not None and user not in known:
                known.add(user)
                if has_events(entry.state, store.schema):
                    raise _refused(user)


def _refused(user: str) -> StoreRefused:
    return StoreRefused(
        f"the log does not reach back to its beginning: user {user!r:.64} had done something before its first entry. "
        "Name the history that the store was backfilled from: --before EVENTS"
    )
