"""Fixtures that more than one package needs: compiled loops, a server for the whole session, a fresh store on it."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from hypothesis import settings

from features.embedded import EmbeddedServer
from features.embedded_cluster import EmbeddedCluster
from features.keys import Keys
from features.redis_store import RedisStore
from features.schema import Schema
from learners.online import OnlineLearner
from tests.learners.examples import CONFIG, SCHEMA, inputs_of, learned, log, shown, stream

# No test is timed: a first call compiles, and machines are shared.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


def pytest_configure() -> None:
    """What commands say is not broken into lines, wherever a test's folder is."""
    os.environ["COLUMNS"] = "200"


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """On a fresh machine the loops take half a minute to compile, later they are read from disk: no test waits."""
    learned([*log(stream(40)), *shown(40)]).model.score(inputs_of(OnlineLearner(SCHEMA, CONFIG)))


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


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[EmbeddedCluster]:
    """One Redis Cluster for all tests that leave its servers running."""
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
def empty_cluster(redis_cluster: EmbeddedCluster) -> EmbeddedCluster:
    """The session's cluster without a key."""
    for server in redis_cluster.masters():
        redis_cluster.say(server, "FLUSHALL")
    return redis_cluster


@pytest.fixture
async def redis_store(empty_server: EmbeddedServer) -> AsyncIterator[RedisStore]:
    """An open store of the default schema, four partitions and the wall clock, with nothing in it."""
    store = RedisStore(empty_server.url, Schema(), keys=Keys(n_partitions=4))
    await store.open()
    yield store
    await store.close()
