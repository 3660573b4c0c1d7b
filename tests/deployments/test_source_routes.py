"""Routes of sources and of the events that name them, without Ray."""

from typing import Any

import httpx
import msgspec
import pytest

from deployments.entrance import Entrance
from deployments.erasure_routes import LogSide
from deployments.events import EventsEndpoint
from deployments.gate import AccessConfig
from features.access_store import MemoryAccessStore
from features.memory_store import MemoryStore
from features.quarantine import QuarantineKeeper
from features.schema import Schema
from features.source_watch import SourceWatch
from features.sources import SourceRules

Answer = tuple[int, Any]


class Door:
    """The Events application over a store in memory."""

    def __init__(self) -> None:
        store = MemoryStore(Schema())
        keeper = QuarantineKeeper(store, SourceWatch(SourceRules(), ("device",)), lambda: 5)
        self.labels: dict[str, dict[str, Any]] = {}
        """What the judge makes of sources."""
        self.entrance = Entrance(AccessConfig(keys="off"), MemoryAccessStore())
        self._app = EventsEndpoint(
            *(store, keeper, _nobody, self._judge, LogSide(store, _nobody, _nobody), lambda: 5),
            entrance=self.entrance,
            is_event_clock=False,
        ).app

    async def _judge(self) -> dict[str, dict[str, Any]]:
        return self.labels

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Status and decoded body of one request."""
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://test") as client:
            response = await client.request(method, path, content=raw, headers=given)
        return response.status_code, response.json()

    async def send(self, *events: dict[str, Any], **headers: str) -> Answer:
        clicks = [{"type": "click", "user": "u", "item": "a", **event} for event in events]
        return await self.ask("POST", "/v1/events", {"events": clicks}, **headers)


async def _nobody(*_: Any, **__: Any) -> Any:
    raise AssertionError("nobody is asked")


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_source_is_put_into_quarantine_and_released_and_its_sender_is_told(door: Door) -> None:
    assert (await door.send({"source": "kiosk"}))[1]["accepted"] == 1
    body = {"source": "kiosk", "who": "ann", "reason": "twice"}
    held = {"who": "ann", "why": "twice", "since_ms": 5}
    assert await door.ask("POST", "/v1/sources/quarantine", body) == (200, {"source": "kiosk", "quarantine": held})
    status, receipt = await door.send({"source": "kiosk"}, {})
    assert status == 202 and (receipt["accepted"], receipt["quarantined"]) == (1, 1)
    told = (await door.ask("GET", "/v1/sources"))[1]
    assert told["sources"]["kiosk"] == {
        **{"accepted": 1, "quarantined": 1, "invalid": 0, "invalid_ratio": 0.0},
        **{"lag_s": 0.0, "same": {"user": 1.0, "item": 1.0, "value": 1.0}, "quarantine": held, "labels": None},
    }
    assert told["problems"] == ["source 'kiosk' is in quarantine, by ann: twice"]
    assert await door.ask("POST", "/v1/sources/release", {"source": "kiosk"}) == (
        200,
        {"source": "kiosk", "quarantine": None},
    )
    assert (await door.send({"source": "kiosk"}))[1]["accepted"] == 1
    assert (await door.ask("POST", "/v1/sources/release", {"source": "kiosk"}))[0] == 404


async def test_labels_are_told_of_and_what_nobody_can_say(door: Door) -> None:
    door.labels = {
        "kiosk": {"slates": 90, "agreement": 0.3, "in_doubt": True},
        "app": {"slates": 9, "agreement": 0.7, "in_doubt": False},
    }
    await door.send({"source": "app"})
    told = (await door.ask("GET", "/v1/sources"))[1]
    assert {name: source["labels"] for name, source in told["sources"].items()} == door.labels
    assert told["sources"]["kiosk"]["accepted"] == 0 and told["sources"]["app"]["accepted"] == 1
    assert len(told["problems"]) == 1 and "kiosk" in told["problems"][0]


async def test_a_post_may_name_the_source_of_its_events(door: Door) -> None:
    await door.send({}, {"source": "app"}, headrace_source="läden")
    assert {name: told["accepted"] for name, told in (await door.ask("GET", "/v1/sources"))[1]["sources"].items()} == {
        "app": 1,
        "läden": 1,
    }


async def test_a_body_that_is_no_json_is_counted_against_who_sends_it(door: Door) -> None:
    status, _ = await door.ask("POST", "/v1/events", b'{"events": [{"value": NaN}]}', headrace_source="app")
    assert status == 400
    assert (await door.ask("GET", "/v1/sources"))[1]["sources"]["app"]["invalid"] == 1


async def test_a_header_that_is_no_name_is_refused(door: Door) -> None:
    status, answer = await door.send({}, headrace_source="x" * 257)
    assert status == 400 and "headrace-source" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({}, 422, "$"),
        ({"source": ""}, 422, "$.source"),
        ({"source": 5}, 422, "$.source"),
        ({"source": "a", "why": ""}, 422, "$.why"),
        ({"source": "a", "reason": "x" * 501}, 422, "$.reason"),
        (b"{", 400, None),
    ],
)
async def test_what_is_wrong_is_named(door: Door, body: Any, status: int, path: str | None) -> None:
    got, answer = await door.ask("POST", "/v1/sources/quarantine", body)
    assert got == status and answer["error"].get("path") == path
