"""Routes of erasures and exports, without Ray; and the client that asks them."""

from typing import Any

import httpx
import msgspec
import pytest

from deployments.client import AsyncHeadrace, HeadraceError
from deployments.entrance import Entrance
from deployments.erasure_routes import LogSide
from deployments.events import EventsEndpoint
from deployments.gate import AccessConfig
from features.access_store import MemoryAccessStore
from features.clock import FakeClock
from features.erasing import Eraser
from features.exporting import export
from features.log_limit import LogLimit
from features.memory_store import MemoryStore
from features.people import LATE_MS
from features.quarantine import QuarantineKeeper
from features.schema import Schema
from features.source_watch import SourceWatch
from features.sources import SourceRules
from tests.scanning import traces_in_store

USER = "u 1/ü"


class Door:
    """The Events application over a store in memory, and a client of it."""

    def __init__(self) -> None:
        self.clock = FakeClock(1_764_000_000_000)
        self.store = MemoryStore(Schema(), time=self.clock)
        self.max_bytes = 1 << 20
        keeper = QuarantineKeeper(self.store, SourceWatch(SourceRules(), ()), self.clock.now_ms)
        self.records = MemoryAccessStore()
        endpoint = EventsEndpoint(
            *(self.store, keeper, _nobody, _nobody, LogSide(self.store, _nobody, self._export), self.clock.now_ms),
            entrance=Entrance(AccessConfig(keys="off"), self.records),
            is_event_clock=True,
        )
        self.app = endpoint.app
        self.client = AsyncHeadrace("http://test")
        self.client._http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def _export(self, user: str) -> bytes | None:
        told = b"".join([line async for line in export(user, self.store, None)])
        return told if len(told) <= self.max_bytes else None

    async def click(self, user: str = USER, item: str = "a") -> None:
        event = {"type": "click", "user": user, "item": item, "ts_ms": self.clock.now_ms()}
        assert (await self.client.send([event]))["accepted"] == 1

    async def carry_out(self) -> None:
        """Everybody has read, and it is done."""
        self.clock.advance(LATE_MS + 1)
        heads = await self.store.heads()
        for partition, stored in enumerate(await self.store.projected()):
            await self.store.commit_rows(partition, {}, expected=stored, reached=heads)
        assert await Eraser(self.store, self.store, _Clean(), None, self.clock).advance() == 1


class _Clean:
    async def erase(self, people: Any, positions: Any) -> bool:
        """There are no versions."""
        return True


async def _nobody(*_: Any, **__: Any) -> Any:
    raise AssertionError("nobody is asked")


@pytest.fixture
def door() -> Door:
    return Door()


async def test_an_erasure_has_a_name_that_tells_how_far_it_is_and_nothing_else(door: Door) -> None:
    await door.click()
    name = await door.client.erase(USER)
    began = await door.client.erasure(name)
    assert (began["state"], began["done_ms"]) == ("under way", None) and USER not in name
    assert began["steps"] == {"state": began["asked_ms"], "log": None, "archive": None, "versions": None}
    assert (await door.client.get("/v1/users/u%201%2F%C3%BC"))["recent"]["items"] == []
    await door.carry_out()
    told = await door.client.erasure(name)
    assert told["state"] == "done" and told["done_ms"] == door.clock.now_ms()
    assert all(step is not None for step in told["steps"].values())
    assert traces_in_store(door.store, [USER]) == []


async def test_the_answer_tells_the_position_of_the_entry_as_before(door: Door) -> None:
    response = await door.client._http.delete("/v1/users/u1")
    assert response.status_code == 202
    assert response.json().keys() == {"log_ms", "erasure"} and response.json()["log_ms"] == door.clock.now_ms()


async def test_an_erasure_that_nobody_knows_is_not_found(door: Door) -> None:
    with pytest.raises(HeadraceError, match="404"):
        await door.client.erasure("nothing")


@pytest.mark.parametrize("path", ["/v1/users/{}", "/v1/users/{}/export"])
async def test_an_id_that_is_none_is_refused(door: Door, path: str) -> None:
    method = "GET" if "export" in path else "DELETE"
    response = await door.client._http.request(method, path.format("u" * 300))
    assert response.status_code == 422 and response.json()["error"]["path"] == "$.id"


async def test_an_erasure_is_taken_when_the_log_is_full(door: Door) -> None:
    async def full() -> int:
        return 100

    door.store._limit = LogLimit(1, full)
    assert (await door.client.erasure(await door.client.erase(USER)))["state"] == "under way"


async def test_everything_that_is_known_is_told(door: Door) -> None:
    await door.click(item="a")
    await door.click("somebody else")
    await door.client.user(USER, {"city": "Ghent"})
    await door.click(item="b")
    state, *entries = await door.client.export(USER)
    assert state["user"] == USER and state["state"]["attributes"] == {"city": "Ghent"}
    assert [(entry["kind"], entry.get("item")) for entry in entries] == [
        ("event", "a"),
        ("attributes", None),
        ("event", "b"),
    ]
    assert all(entry.get("user", entry.get("entity")) == USER for entry in entries)
    assert (await door.client.export("a stranger"))[1:] == []


async def test_more_than_a_replica_holds_is_left_to_the_command(door: Door) -> None:
    await door.click()
    door.max_bytes = 10
    with pytest.raises(HeadraceError, match="headrace export"):
        await door.client.export(USER)


async def test_the_record_says_that_somebody_was_erased_or_exported_and_not_who(door: Door) -> None:
    await door.client.erase(USER)
    await door.client.export(USER)
    actions = await door.records.actions(9)
    assert sorted(action.what for action in actions) == ["erase", "export"] and USER not in repr(actions)


async def test_lines_are_json_each_with_its_end(door: Door) -> None:
    await door.click()
    response = await door.client._http.get("/v1/users/u%201%2F%C3%BC/export")
    assert response.headers["content-type"] == "application/x-ndjson" and response.content.endswith(b"\n")
    assert [msgspec.json.decode(line) for line in response.content.splitlines()] == await door.client.export(USER)
