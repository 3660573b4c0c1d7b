"""Whoever has done nothing for long is erased, by an entry of the log, and nobody else."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from features import idling
from features.errors import LogMoved, StoreUnavailable
from features.events import ERASURE, LoggedErasure
from features.idling import erase_idle
from features.memory_store import MemoryStore
from features.store import erasure_record, user_record
from tests.features.examples import KEYS, SCHEMA, T0_MS, Both, applied, attributes, click, log_of, plant

IDLE_MS = 1000


async def there(both: Both) -> set[str]:
    return {user async for users in both.bulk.users() for user in users}


async def test_whoever_did_nothing_for_long_is_under_way_to_be_erased(both: Both) -> None:
    await applied(both.store, click("old", ts_ms=T0_MS), click("old", ts_ms=T0_MS + 5))
    await applied(both.store, user_record(attributes("known", segment="a"), KEYS))
    await applied(both.store, click("fresh", ts_ms=T0_MS), click("fresh", ts_ms=T0_MS + IDLE_MS))
    plant(both.store, "unreadable", b"?")
    assert await erase_idle(both.store, both.bulk, 10 * IDLE_MS) == 0
    await applied(both.store, click("new", ts_ms=T0_MS + IDLE_MS + 6))
    assert await erase_idle(both.store, both.bulk, IDLE_MS) == 1
    assert await there(both) == {"known", "fresh", "unreadable", "new"}
    assert [one.user for one in (await both.bulk.erasing()).values()] == ["old"]
    assert [entry.kind for entry in await log_of(both.store)].count(ERASURE) == 1
    assert await erase_idle(both.store, both.bulk, IDLE_MS) == 0


async def test_a_state_that_is_another_meanwhile_stays(both: Both) -> None:
    await applied(both.store, click("u1"))
    (seen,), _ = await both.store.read(["u1"], [])
    assert isinstance(seen, bytes)
    await applied(both.store, click("u1", "b"))
    before = await both.store.read(["u1"], [])
    (result,) = await both.store.apply([erasure_record(LoggedErasure("u1", T0_MS), KEYS, "e1", seen)])
    assert isinstance(result, LogMoved)
    assert await both.store.read(["u1"], []) == before and await both.bulk.erasing() == {}
    assert len(await log_of(both.store)) == 2


class Acting:
    """A store in which everybody acts between being looked at and what is written then."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, users: list[str], items: list[str]) -> Any:
        found = await self._store.read(users, items)
        await applied(self._store, *(click(user, "b", ts_ms=T0_MS + 2 * IDLE_MS) for user in users))
        return found


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    await applied(store, *(click(f"u{n}", ts_ms=T0_MS) for n in range(200)))
    await applied(store, click("now", ts_ms=T0_MS + IDLE_MS + 1))
    yield store


async def test_whoever_acts_just_then_is_left_alone(memory: MemoryStore) -> None:
    assert await erase_idle(Acting(memory), memory, IDLE_MS) == 0
    assert await memory.erasing() == {}


async def test_no_more_are_under_way_than_a_pass_takes(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idling, "MAX_ERASURES", 70)
    assert await erase_idle(memory, memory, IDLE_MS) == 70 == len(await memory.erasing())
    assert await erase_idle(memory, memory, IDLE_MS) == 0
    for name, one in (await memory.erasing()).items():
        await memory.end_erasing(name, one, T0_MS)
    assert await erase_idle(memory, memory, IDLE_MS) == 70


class Away:
    """A store that takes nothing."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, records: list[Any]) -> list[Any]:
        return [StoreUnavailable("away") for _ in records]


async def test_a_store_that_is_away_is_told(memory: MemoryStore) -> None:
    with pytest.raises(StoreUnavailable):
        await erase_idle(Away(memory), memory, IDLE_MS)
