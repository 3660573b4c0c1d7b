"""Events and stores to test with."""

from typing import Any, NamedTuple, cast

import redis
from redis.crc import key_slot

from features.archiving import Archiver
from features.events import (
    Entry,
    LoggedAttributes,
    LoggedDecision,
    LoggedErasure,
    LoggedEvent,
    encode_body,
)
from features.keys import Keys
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.schema import Counter, Schema, Voice
from features.state import UserState, unpack
from features.store import Applied, BulkStore, FeatureStore, Record, all_of, event_record

T0_MS = 1_764_000_000_000
KEYS = Keys(n_partitions=4)
SCHEMA = Schema(
    n_recent=4,
    successor_span=2,
    voice=Voice(per_item=2, burst=6.0, per_hour=60.0),  # so little that streams of a few dozen events go beyond it
    counters=(
        Counter(name="click", entity="user", types=("click",), half_lives_s=(60.0, 3600.0)),
        Counter(name="spent", entity="user", types=("cart", "purchase"), half_lives_s=(1800.0,), use_value=True),
        Counter(
            name="by_device",
            entity="user",
            types=("view", "click"),
            half_lives_s=(600.0, 86400.0),
            split="device",
            n_buckets=5,
        ),
        Counter(name="views", entity="item", types=("view",), half_lives_s=(600.0,)),
    ),
)
OTHER_SCHEMA = Schema(n_recent=5)

Store = MemoryStore | RedisStore


class Both(NamedTuple):
    """A store, and what works on all of it."""

    store: Store
    bulk: BulkStore


def event(user: str = "u1", item: str = "a", **fields: Any) -> LoggedEvent:
    """A checked click, unless told otherwise."""
    values = {"type": "click", "ts_ms": T0_MS, "value": 1.0, "context": {}, "id": None, "decision": None}
    return LoggedEvent(user=user, item=item, **{**values, **fields})


def click(user: str = "u1", item: str = "a", **fields: Any) -> Record:
    """The record of a click."""
    return event_record(event(user, item, **fields), SCHEMA, KEYS)


def attributes(entity: str, **values: Any) -> LoggedAttributes:
    """Declared attributes."""
    return LoggedAttributes(entity, values, T0_MS)


def erasure(user: str) -> LoggedErasure:
    """An erasure."""
    return LoggedErasure(user, T0_MS)


def decision(user: str) -> LoggedDecision:
    """A decision over two items."""
    return LoggedDecision("d1", user, T0_MS, 3, {}, ["a", "b"], [1.0, 0.5], b"\0" * 8)


async def applied(store: FeatureStore, *records: Record) -> list[Applied]:
    """Apply, and expect that nothing fails."""
    results = await store.apply(records)
    for result in results:
        assert isinstance(result, Applied), result
    return cast(list[Applied], results)


async def state_of(store: FeatureStore, user: str) -> UserState:
    """A user's state, taken apart."""
    (state,) = all_of((await store.read([user], []))[0])
    return unpack(state, SCHEMA)


async def log_of(store: FeatureStore) -> list[Entry]:
    """Everything in the log."""
    return await store.read_log({}, count=10_000)


async def archived(store: FeatureStore, bulk: BulkStore, files: LogFiles) -> Archiver:
    """An archiver that has put the whole log into files."""
    archiver = Archiver(store, bulk, files)
    await archiver.open()
    while await archiver.advance(0.0):
        pass
    await archiver.flush()
    return archiver


async def contents(store: Store) -> object:
    """Everything a store holds, down to the bytes, so that two moments can be compared."""
    seen = [await log_of(store), await store.heads(), await store.projected()]
    if isinstance(store, MemoryStore):
        return *seen, dict(store._users), dict(store._rows), store._seen._current.copy()
    return dump(store)


def dump(store: RedisStore) -> dict[bytes, bytes]:
    """Every key of the servers with its serialized value."""
    found: dict[bytes, bytes] = {}
    for address in masters_of(store):
        with redis.Redis.from_url(f"redis://{address}", protocol=2) as client:
            found.update((key, client.dump(key)) for key in client.scan_iter())
    return found


def masters_of(store: RedisStore) -> list[str]:
    """Addresses of the servers behind a store that has been used."""
    topology = store._servers._topology
    assert topology is not None
    return [node.address for node in topology.masters]


def client_of(store: RedisStore) -> redis.Redis:
    """A plain client to the one server behind a store."""
    (seed,) = store._servers._seeds
    return redis.Redis.from_url(f"redis://{seed.address}", protocol=2)


def plant(store: Store, user: str, state: bytes) -> None:
    """Put bytes where a user's state is kept, past every check."""
    if isinstance(store, MemoryStore):
        store._users[user] = state
        return
    key, topology = KEYS.user(user), store._servers._topology
    address = topology.owner(key_slot(key.encode())).address if topology else store._servers._seeds[0].address
    with redis.Redis.from_url(f"redis://{address}", protocol=2) as client:
        client.set(key, state)


def body_of(entry: LoggedEvent | LoggedAttributes | LoggedErasure | LoggedDecision) -> bytes:
    """As it is logged."""
    return encode_body(entry)
