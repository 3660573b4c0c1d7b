"""A log with a limit: what comes beyond it is refused, and only that."""

from collections.abc import AsyncIterator

import pytest

from features import log_limit
from features.errors import LogFull
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.store import Applied, erasure_record
from tests.features.examples import KEYS, SCHEMA, T0_MS, Store, applied, click, erasure, state_of

MAX_BYTES = 40_000


@pytest.fixture(params=["memory", "redis", "cluster"])
async def limited(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """Every store, with a limit, measured before each write."""
    monkeypatch.setattr(log_limit, "LOOK_S", 0.0)
    if request.param == "memory":
        memory = MemoryStore(SCHEMA, keys=KEYS, clock="event")
        memory.limit_log(MAX_BYTES)
        yield memory
        return
    servers = request.getfixturevalue({"redis": "empty_server", "cluster": "empty_cluster"}[request.param])
    store = RedisStore(servers.url, SCHEMA, keys=KEYS, clock="event")
    store.limit_log(MAX_BYTES)
    await store.open()
    yield store
    await store.close()


async def filled(store: Store) -> int:
    """Append until it is refused; returns the number of entries."""
    for n in range(1000):
        (result,) = await store.apply([click(f"u{n % 7}", ts_ms=T0_MS + n)])
        if isinstance(result, LogFull):
            return n
        assert isinstance(result, Applied)
    raise AssertionError("never refused")


async def test_beyond_its_bytes_nothing_is_appended_until_room_was_made(limited: Store) -> None:
    assert await limited.log_bytes() < MAX_BYTES
    n_entries = await filled(limited)
    assert n_entries > 50
    assert MAX_BYTES < await limited.log_bytes() < 1.3 * MAX_BYTES
    before = await state_of(limited, "u1")
    (refused,) = await limited.apply([click("u1", ts_ms=T0_MS + 5000)])
    assert isinstance(refused, LogFull)
    assert (refused.status, refused.code, refused.retryable) == (429, "log_full", True)
    assert f"expected at most {MAX_BYTES:,} (log_max_bytes)" in str(refused)
    assert await state_of(limited, "u1") == before
    assert len(await limited.read_log({}, count=1000)) == n_entries
    await limited.trim(await limited.heads())
    assert await limited.log_bytes() < MAX_BYTES / 2
    await applied(limited, click("u1", ts_ms=T0_MS + 5000))


async def test_an_erasure_is_never_refused(limited: Store) -> None:
    await filled(limited)
    erase = erasure_record(erasure("u1"), KEYS)
    first, second, third = await limited.apply([click("u2"), erase, click("u3")])
    assert isinstance(first, LogFull) and isinstance(second, Applied) and isinstance(third, LogFull)
    assert (await state_of(limited, "u1")).recent == []


async def test_the_log_is_measured_once_a_second_and_a_failure_refuses_nothing() -> None:
    n_looks = 0

    async def measure() -> int:
        nonlocal n_looks
        n_looks += 1
        raise LogFull(0, 0)

    limit, store = log_limit.LogLimit(1, measure), MemoryStore(SCHEMA, keys=KEYS)
    for n in range(3):
        (result,) = await limit.apply([click(ts_ms=T0_MS + n)], store.apply)
        assert isinstance(result, Applied)
    assert n_looks == 1
