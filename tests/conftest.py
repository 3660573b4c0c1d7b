"""Fixtures that more than one package needs: a server for the whole session, and a fresh store on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from features.embedded import EmbeddedServer
from features.keys import Keys
from features.redis_store import RedisStore
from features.schema import Schema


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One embedded server for all tests; whoever uses it through `redis_store` finds it empty."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def empty_server(redis_server: EmbeddedServer) -> EmbeddedServer:
    """The session's server without a key."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
    return redis_server


@pytest.fixture
async def redis_store(empty_server: EmbeddedServer) -> AsyncIterator[RedisStore]:
    """An open store of the default schema, four partitions and the wall clock, with nothing in it."""
    store = RedisStore(empty_server.url, Schema(), keys=Keys(n_partitions=4))
    await store.open()
    yield store
    await store.close()
