"""The Events application behind keys: every route, without Ray."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from deployments.entrance import Entrance
from deployments.erasure_routes import LogSide
from deployments.events import EventsEndpoint
from deployments.gate import AccessConfig
from deployments.openapi import openapi
from deployments.ranker import RankEndpoint
from features.access import ADMIN, EVENTS, RANK, Action, new_key, new_token
from features.access_store import MemoryAccessStore
from features.errors import StoreUnavailable
from features.memory_store import MemoryStore
from features.quarantine import QuarantineKeeper
from features.schema import Schema
from features.source_watch import SourceWatch
from features.sources import SourceRules

Answer = tuple[int, Any]
OF_RANKER = "/v1/rank"
WHO_MAY = {
    "GET /v1/health": {"", RANK, EVENTS, ADMIN},
    "POST /v1/rank": {RANK, ADMIN},
    "POST /v1/events": {EVENTS, ADMIN},
    "POST /v1/items": {EVENTS, ADMIN},
    "PUT /v1/items/{id}": {EVENTS, ADMIN},
    "GET /v1/items/{id}": {RANK, EVENTS, ADMIN},
    "GET /v1/users/{id}": {ADMIN},
    "PUT /v1/users/{id}": {EVENTS, ADMIN},
    "DELETE /v1/users/{id}": {ADMIN},
    "GET /v1/users/{id}/export": {ADMIN},
    "GET /v1/erasures/{id}": {ADMIN},
    "GET /v1/model": {RANK, EVENTS, ADMIN},
    "GET /v1/model/versions": {RANK, EVENTS, ADMIN},
    "POST /v1/model/rollback": {ADMIN},
    "POST /v1/model/resume": {ADMIN},
    "GET /v1/sources": {ADMIN},
    "POST /v1/sources/quarantine": {ADMIN},
    "POST /v1/sources/release": {ADMIN},
    "GET /v1/log": {RANK, EVENTS, ADMIN},
    "GET /v1/audit": {ADMIN},
    "GET /v1/openapi.json": {RANK, EVENTS, ADMIN},
}
"""Scopes that open a route; the empty one: no key at all."""


class Record(MemoryAccessStore):
    """A store of keys and actions, in which no action may be kept for a while."""

    is_away = False

    async def note_action(self, action: Action) -> None:
        """Keep an action, if that can be."""
        if self.is_away:
            raise StoreUnavailable("away")
        await super().note_action(action)


class Door:
    """Both applications over a store in memory, and a key of each scope."""

    def __init__(self) -> None:
        store = MemoryStore(Schema())
        self.record = Record()
        self.entrance = Entrance(
            AccessConfig(keys="on", max_body_bytes=4096, body_s=0.1), self.record, now_ms=lambda: 9
        )
        keeper = QuarantineKeeper(store, SourceWatch(SourceRules(), ()), lambda: 5)
        self._events = EventsEndpoint(
            *(store, keeper, self._hub, _nobody, LogSide(store, _nobody, _export), lambda: 5),
            entrance=self.entrance,
            is_event_clock=False,
        ).app
        self._ranker = RankEndpoint(_Unasked(), app=self.entrance.app()).app  # type: ignore[arg-type]
        self.tokens: dict[str, str] = {}

    async def _hub(self, method: str, *arguments: Any, wait_s: float = 0.0) -> Any:
        if method == "rollback" and arguments[0] == 99:
            raise StoreUnavailable("no such version")
        return {"version": 7, "live": 5, "trained_through_ms": 1} if method == "status" else 5

    async def opened(self) -> "Door":
        for scope in (RANK, EVENTS, ADMIN):
            self.tokens[scope] = await self.new(scope, scope)
        return self

    async def new(self, name: str, *scopes: str, **options: Any) -> str:
        token = new_token()
        await self.record.put_key(new_key(token, name, scopes, made_ms=0, **options))
        return token

    def client(self, path: str) -> httpx.AsyncClient:
        app = self._ranker if path == OF_RANKER else self._events
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def ask(self, method: str, path: str, body: Any = None, token: str = "", **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            given["authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        async with self.client(path) as client:
            response = await client.request(method, path, content=raw, headers=given)
        return response.status_code, response.json()

    async def send(self, token: str, *events: dict[str, Any], **headers: str) -> Answer:
        clicks = [{"type": "click", "user": "u", "item": "a", **event} for event in events]
        return await self.ask("POST", "/v1/events", {"events": clicks}, token, **headers)


class _Unasked:
    """A `Ranking` that nobody gets to."""

    async def answer(self, requests: list[Any]) -> list[Any]:
        raise AssertionError(f"{requests} are ranked")


async def _nobody(*_: Any, **__: Any) -> Any:
    return {}


async def _export(_: str) -> bytes:
    return b"{}\n"


@pytest.fixture
async def door() -> Door:
    return await Door().opened()


def described() -> list[str]:
    return [
        f"{method.upper()} {path}"
        for path, operations in openapi(Schema())["paths"].items()
        for method in operations
        if method != "parameters"
    ]


def test_it_is_said_here_of_every_route_who_may_use_it() -> None:
    assert sorted(described()) == sorted(WHO_MAY)


@pytest.mark.parametrize("route", described())
async def test_a_route_opens_to_its_scopes_and_to_nobody_else(door: Door, route: str) -> None:
    method, path = route.replace("{id}", "u1").split()
    for scope in ("", RANK, EVENTS, ADMIN):
        status, body = await door.ask(method, path, b"{", door.tokens.get(scope, ""))
        if scope in WHO_MAY[route]:
            assert status not in (401, 403), (scope, body)
        else:
            assert status == (403 if scope else 401), (scope, body)
            assert body["error"]["code"] == ("forbidden" if scope else "unauthorized")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/events", 405)])
async def test_which_paths_there_are_is_told_to_whoever_has_a_key(
    door: Door, method: str, path: str, status: int
) -> None:
    assert (await door.ask(method, path))[0] == 401
    assert (await door.ask(method, path, token=door.tokens[RANK]))[0] == status


async def test_who_is_not_let_in_is_told_how_and_nothing_of_the_body_is_read(door: Door) -> None:
    async def never() -> Any:
        yield b"{"
        raise AssertionError("the body is read")

    async with door.client("/v1/events") as client:
        response = await client.post("/v1/events", content=never())
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


async def test_events_are_of_the_source_that_their_key_speaks_for(door: Door) -> None:
    web = await door.new("web", EVENTS)
    assert (await door.send(web, {}, {"source": "web"}))[1]["accepted"] == 2
    status, receipt = await door.send(web, {"source": "kiosk"}, {})
    assert (status, receipt["accepted"]) == (202, 1)
    assert receipt["rejected"][0]["error"]["path"] == "$.source"
    status, answer = await door.send(web, {}, headrace_source="kiosk")
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    known = (await door.ask("GET", "/v1/sources", token=door.tokens[ADMIN]))[1]["sources"]
    assert {name: (told["accepted"], told["invalid"]) for name, told in known.items()} == {"web": (3, 1)}
    relay = await door.new("relay", EVENTS, sources=("*",))
    assert (await door.send(relay, {"source": "kiosk"}, headrace_source="app"))[1]["accepted"] == 1


async def test_each_event_takes_of_the_rate_of_its_key(door: Door) -> None:
    slow = await door.new("slow", EVENTS, per_s=10.0)
    assert (await door.send(slow, *[{}] * 30))[0] == 202
    status, answer = await door.send(slow, {})
    assert (status, answer["error"]["code"]) == (429, "rate")
    assert (await door.send(door.tokens[EVENTS], {}))[0] == 202


async def test_what_is_done_with_power_is_kept_with_who_and_the_versions(door: Door) -> None:
    admin = door.tokens[ADMIN]
    await door.ask("POST", "/v1/model/rollback", {"version": 3, "who": "ann", "reason": "clicks fell"}, admin)
    await door.ask("POST", "/v1/model/resume", {}, admin)
    await door.ask("POST", "/v1/sources/quarantine", {"source": "kiosk", "reason": "twice"}, admin)
    await door.ask("POST", "/v1/sources/release", {"source": "another"}, admin)
    await door.ask("DELETE", "/v1/users/secret-person", token=admin)
    status, told = await door.ask("GET", "/v1/audit?last=10", token=admin)
    rows = [
        tuple(one[name] for name in ("who", "what", "about", "before", "after", "reason"))
        for one in told["actions"][::-1]
    ]
    assert status == 200 and rows == [
        ("admin (ann)", "rollback", "", 5, 3, "clicks fell"),
        ("admin", "resume", "", 5, 7, ""),
        ("admin", "quarantine", "kiosk", None, None, "twice"),
        ("admin", "release", "another", None, None, ""),
        ("admin", "release", "another", None, None, ""),
        ("admin", "erase", "", None, None, ""),
    ]
    assert [bool(one["failed"]) for one in told["actions"][::-1]] == [False, False, False, False, True, False]
    assert "secret-person" not in str(told)


async def test_without_a_place_for_the_record_nothing_is_done(door: Door) -> None:
    door.record.is_away = True
    for route, body in (("/v1/model/rollback", {}), ("/v1/sources/quarantine", {"source": "kiosk"})):
        assert (await door.ask("POST", route, body, door.tokens[ADMIN]))[0] == 503
    known = (await door.ask("GET", "/v1/sources", token=door.tokens[ADMIN]))[1]["sources"]
    assert known == {}


@pytest.mark.parametrize("query", ["last=0", "last=x", "last=99999999999999999999", "first=3", "last", "last=-1"])
async def test_what_is_wrong_with_a_question_for_the_record_is_said(door: Door, query: str) -> None:
    assert (await door.ask("GET", f"/v1/audit?{query}", token=door.tokens[ADMIN]))[0] == 422


async def test_a_body_has_its_size_and_its_time(door: Door) -> None:
    status, _ = await door.ask("POST", "/v1/events", b"x" * 4097, door.tokens[EVENTS])
    assert status == 413

    async def slowly() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with door.client("/v1/events") as client:
        response = await client.post(
            "/v1/events", content=slowly(), headers={"authorization": f"Bearer {door.tokens[EVENTS]}"}
        )
    assert (response.status_code, response.json()["error"]["code"]) == (408, "slow")


async def test_how_often_who_was_refused_is_counted(door: Door) -> None:
    await door.ask("GET", "/v1/model")
    await door.ask("GET", "/v1/audit", token=door.tokens[RANK])
    counted = {tags[0][1]: count for (_, tags), count in door.entrance.values().items()}
    assert counted == {"unauthorized": 1, "forbidden": 1}
