"""Routes of versions, without Ray: what is asked of the hub, and what is wrong with a body is named."""

from typing import Any

import httpx
import msgspec
import pytest

from deployments.audit import Audit
from deployments.errors import InvalidError
from deployments.http import App
from deployments.versions import VersionRoutes
from features.access_store import MemoryAccessStore


class Hub:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.record = MemoryAccessStore()
        """What is kept of what was done."""

    async def ask(self, method: str, *arguments: Any, wait_s: float = 0.0) -> Any:
        if method != "status":
            self.asked.append((method, *arguments))
        if arguments[:1] == (99,):
            raise InvalidError("version 99 is not kept; kept are 3-7", path="$.version")
        return {"status": {"version": 7, "live": 5, "trained_through_ms": 400, "pid": 1}}.get(method, 5)


@pytest.fixture
def hub() -> Hub:
    return Hub()


async def send(hub: Hub, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and decoded body of one request."""
    app = App()
    for route in VersionRoutes(hub.ask, Audit(hub.record, lambda: 2000), lambda: 1000).routes:
        app.add(*route)
    raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.request(method, path, content=raw)
    return response.status_code, response.json()


async def test_the_model_is_told_with_the_age_of_its_knowledge(hub: Hub) -> None:
    status, body = await send(hub, "GET", "/v1/model")
    assert (status, body) == (200, {"version": 7, "live": 5, "trained_through_ms": 400, "age_ms": 600})


async def test_a_rollback_and_a_resumption_are_asked_for_with_who_and_why(hub: Hub) -> None:
    assert await send(hub, "POST", "/v1/model/rollback", {"version": 5, "who": "ann", "reason": "clicks fell"}) == (
        200,
        {"version": 5, "state": "pinned"},
    )
    assert (await send(hub, "POST", "/v1/model/rollback"))[0] == 200
    assert await send(hub, "POST", "/v1/model/resume", {"who": "bob"}) == (200, {"version": 5})
    assert hub.asked == [
        ("rollback", 5, "ann", "clicks fell"),
        ("rollback", None, "operator", ""),
        ("resume", "bob", ""),
    ]


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({"version": "five"}, 422, "$.version"),
        ({"verison": 5}, 422, "$.verison"),
        ({"version": 99}, 422, "$.version"),
        ({"reason": "x" * 501}, 422, "$.reason"),
        (b"{", 400, None),
    ],
)
async def test_what_is_wrong_is_named(hub: Hub, body: Any, status: int, path: str | None) -> None:
    got, answer = await send(hub, "POST", "/v1/model/rollback", body)
    assert got == status and answer["error"].get("path") == path
