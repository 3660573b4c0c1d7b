"""What every store of keys does, in memory and in Redis, on one server and a cluster."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from features.access import RANK, Action, new_key, new_token
from features.access_store import DEMAND_MS, N_ACTIONS, AccessStore, Demand, MemoryAccessStore
from features.errors import StoreUnavailable
from features.redis_access import RedisAccessStore
from tests.features.examples import KEYS


@pytest.fixture(params=["memory", "redis", "cluster"])
async def access(request: pytest.FixtureRequest) -> AsyncIterator[AccessStore]:
    """Every store, empty."""
    if request.param == "memory":
        yield MemoryAccessStore()
        return
    servers = request.getfixturevalue({"redis": "empty_server", "cluster": "empty_cluster"}[request.param])
    store = RedisAccessStore(servers.url, keys=KEYS)
    yield store
    await store.close()


async def test_keys_are_kept_until_they_are_dropped(access: AccessStore) -> None:
    one, two = (new_key(new_token(), name, (RANK,), made_ms=5, per_s=2.5) for name in ("web", "kiosk"))
    assert await access.api_keys() == {}
    await access.put_key(one)
    await access.put_key(two)
    assert await access.api_keys() == {one.id: one, two.id: two}
    ending = msgspec.structs.replace(one, until_ms=9)
    await access.put_key(ending)
    assert (await access.api_keys())[one.id] == ending
    assert await access.drop_key(one.id) and not await access.drop_key(one.id)
    assert await access.api_keys() == {two.id: two}


async def test_doors_hear_what_others_were_asked_for_lately(access: AccessStore) -> None:
    first, second = Demand(1000, {"web": 3.0}), Demand(1000 + DEMAND_MS - 1, {"web": 4.0, "kiosk": 1.0})
    assert await access.tell_demand("a", first) == {"a": first}
    assert await access.tell_demand("b", second) == {"a": first, "b": second}
    later = Demand(1000 + DEMAND_MS, {})
    assert await access.tell_demand("b", later) == {"b": later}


async def test_the_newest_actions_are_kept_newest_first(access: AccessStore) -> None:
    done = [Action(at, "ann", "rollback", before=at, after=at - 1, reason="räson") for at in range(5)]
    for one in done:
        await access.note_action(one)
    assert await access.actions(3) == done[:1:-1]
    assert await access.actions(N_ACTIONS) == done[::-1]


async def test_what_another_release_wrote_opens_nothing_and_hides_nobody(empty_server: object) -> None:
    store = RedisAccessStore(empty_server.url, keys=KEYS)  # type: ignore[attr-defined]
    one = new_key(new_token(), "web", (RANK,), made_ms=5)
    await store.put_key(one)
    await store._call(("HSET", KEYS.api_keys(), "newer", b'{"id": 3}'))
    assert await store.api_keys() == {one.id: one}
    await store.close()


async def test_a_store_that_is_away_is_said_to_be() -> None:
    store = RedisAccessStore("redis://127.0.0.1:1", keys=KEYS, timeout_s=0.5)
    with pytest.raises(StoreUnavailable):
        await store.api_keys()
    await store.close()
