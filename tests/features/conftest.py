"""Every kind of store, with what works on all of it."""

from collections.abc import AsyncIterator

import pytest

from features.memory_store import MemoryStore
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from tests.features.examples import KEYS, SCHEMA, Both


@pytest.fixture
def schema() -> Schema:
    """That of `both`; a module may have another."""
    return SCHEMA


@pytest.fixture(params=["memory", "redis", "cluster"])
async def both(request: pytest.FixtureRequest, schema: Schema) -> AsyncIterator[Both]:
    """Every store, empty, on the event clock."""
    if request.param == "memory":
        memory = MemoryStore(schema, keys=KEYS, clock="event")
        yield Both(memory, memory)
        return
    servers = request.getfixturevalue({"redis": "empty_server", "cluster": "empty_cluster"}[request.param])
    store, bulk = RedisStore(servers.url, schema, keys=KEYS, clock="event"), RedisBulk(servers.url, keys=KEYS)
    await store.open()
    yield Both(store, bulk)
    await store.close()
    await bulk.close()
