"""The Python client. Importing it loads neither Ray nor torch.

    with Headrace("http://127.0.0.1:8000") as headrace:
        headrace.send([{"type": "click", "user": "u1", "item": "b"}])
        answer = headrace.rank("u1", ["a", "b", "c"])

`AsyncHeadrace` has the same methods, to be awaited.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import msgspec

from features.decoding import decoder

DEFAULT_URL: Final = "http://127.0.0.1:8000"
EXPORT_S: Final = 70.0  # the server gives up after a minute
HEADERS: Final = {b"content-type": b"application/json"}
_decode = decoder(msgspec.json, object)


class HeadraceError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status.
        body: The decoded answer: `error` with `code`, `message` and perhaps `path`; for events also what became of
            each.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        error = body.get("error", {})
        self.status = status
        self.body = body
        self.code: str = error.get("code", "unknown")
        self.path: str | None = error.get("path")
        where = f" at {self.path}" if self.path else ""
        super().__init__(f"{status} {self.code}{where}: {error.get('message', 'no explanation')}")

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in {429, 503}


def _rank_body(user: str, candidates: Sequence[str], options: Mapping[str, Any]) -> bytes:
    given = {name: value for name, value in options.items() if value is not None}
    return msgspec.json.encode({"user": user, "candidates": list(candidates), **given})


def _many_body(requests: Sequence[Mapping[str, Any]]) -> bytes:
    return msgspec.json.encode({"requests": requests})


def _read_many(response: httpx.Response) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = _read(response)["answers"]
    return answers


def _read_lines(response: httpx.Response) -> list[dict[str, Any]]:
    if response.status_code >= 400:
        _read(response)
    return [msgspec.json.decode(line) for line in response.content.splitlines()]


def _read(response: httpx.Response) -> Any:
    try:
        body = _decode(response.content) if response.content else {}
    except msgspec.DecodeError:
        body = None
    if not isinstance(body, dict):
        body = {"error": {"code": "unreadable", "message": response.text[:200]}}
    if response.status_code >= 400:
        raise HeadraceError(response.status_code, body)
    return body


class Headrace:
    """A connection pool to one Headrace.

    Every method raises `HeadraceError` for an answer other than success, and `httpx.TransportError` if there is none.

    Args:
        api_key: What opens the doors; on one machine alone none is needed.
        source: Who sends: the source of events that name none.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 10.0,
        api_key: str | None = None,
        source: str | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s, headers=_headers(api_key, source))

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        *,
        context: Mapping[str, Any] | None = None,
        limit: int | None = None,
        explain: bool | None = None,
        now_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> dict[str, Any]:
        """Rank candidates for a person; see `POST /v1/rank`.

        Args:
            deadline_ms: Rather be refused (429) than answered later than this.
        """
        options = {
            "context": context,
            "limit": limit,
            "explain": explain,
            "now_ms": now_ms,
            "deadline_ms": deadline_ms,
        }
        body: dict[str, Any] = _read(self._http.post("/v1/rank", content=_rank_body(user, candidates, options)))
        return body

    def rank_many(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rank for up to 64 people at once.

        Args:
            requests: Each as `rank` takes it, by name: `{"user": …, "candidates": […], "limit": …}`.
        Returns:
            Answers in order; in the place of one that was refused, `{"error": {…}}`.
        """
        return _read_many(self._http.post("/v1/rank", content=_many_body(requests)))

    def send(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send up to 1,000 events; returns when they are durable, with what became of each."""
        content = msgspec.json.encode({"events": events})
        body: dict[str, Any] = _read(self._http.post("/v1/events", content=content))
        return body

    def items(self, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Set the attributes of up to 1,000 items, by id."""
        body: dict[str, Any] = _read(self._http.post("/v1/items", content=_items_body(items)))
        return body

    def user(self, user: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Set a person's attributes."""
        body: dict[str, Any] = _read(self._http.put(_user_path(user), content=_user_body(attributes)))
        return body

    def erase(self, user: str) -> str:
        """Have a person erased; returns the erasure's name, for `erasure`. The state is gone by then."""
        return str(_read(self._http.delete(_user_path(user)))["erasure"])

    def erasure(self, name: str) -> dict[str, Any]:
        """How far an erasure is: `state` is `done` when the person is nowhere any more."""
        return self.get(f"/v1/erasures/{quote(name, safe='')}")

    def export(self, user: str) -> list[dict[str, Any]]:
        """What is known of a person: the state, then every entry of the log; at most 16 MiB."""
        return _read_lines(self._http.get(f"{_user_path(user)}/export", timeout=EXPORT_S))

    def rollback(self, version: int | None = None, *, who: str = "operator", reason: str = "") -> int:
        """Have replicas answer with a version that is kept, until `resume`; by default they stay where they are."""
        body = {"version": version, "who": who, "reason": reason}
        return int(_read(self._http.post("/v1/model/rollback", json=body))["version"])

    def resume(self, *, who: str = "operator", reason: str = "") -> int:
        """Have replicas follow the newest version again; returns that."""
        return int(_read(self._http.post("/v1/model/resume", json={"who": who, "reason": reason}))["version"])

    def quarantine(self, source: str, *, who: str = "operator", reason: str = "") -> dict[str, Any]:
        """Have what a source sends kept, and nothing else, until `release`; returns why it is in quarantine."""
        body = {"source": source, "who": who, "reason": reason}
        found: dict[str, Any] = _read(self._http.post("/v1/sources/quarantine", json=body))["quarantine"]
        return found

    def release(self, source: str, *, who: str = "operator") -> None:
        """Have what a source sends count again."""
        _read(self._http.post("/v1/sources/release", json={"source": source, "who": who}))

    def get(self, path: str) -> dict[str, Any]:
        """Read what a path shows, such as `/v1/items/{id}`, `/v1/model` or `/v1/audit`."""
        body: dict[str, Any] = _read(self._http.get(path))
        return body

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncHeadrace:
    """`Headrace` for asyncio."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 10.0,
        api_key: str | None = None,
        source: str | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s, headers=_headers(api_key, source))

    async def rank(
        self,
        user: str,
        candidates: Sequence[str],
        *,
        context: Mapping[str, Any] | None = None,
        limit: int | None = None,
        explain: bool | None = None,
        now_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> dict[str, Any]:
        """As `Headrace.rank`."""
        options = {
            "context": context,
            "limit": limit,
            "explain": explain,
            "now_ms": now_ms,
            "deadline_ms": deadline_ms,
        }
        response = await self._http.post("/v1/rank", content=_rank_body(user, candidates, options))
        body: dict[str, Any] = _read(response)
        return body

    async def rank_many(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """As `Headrace.rank_many`."""
        return _read_many(await self._http.post("/v1/rank", content=_many_body(requests)))

    async def send(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As `Headrace.send`."""
        response = await self._http.post("/v1/events", content=msgspec.json.encode({"events": events}))
        body: dict[str, Any] = _read(response)
        return body

    async def items(self, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """As `Headrace.items`."""
        body: dict[str, Any] = _read(await self._http.post("/v1/items", content=_items_body(items)))
        return body

    async def user(self, user: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """As `Headrace.user`."""
        body: dict[str, Any] = _read(await self._http.put(_user_path(user), content=_user_body(attributes)))
        return body

    async def erase(self, user: str) -> str:
        """As `Headrace.erase`."""
        return str(_read(await self._http.delete(_user_path(user)))["erasure"])

    async def erasure(self, name: str) -> dict[str, Any]:
        """As `Headrace.erasure`."""
        return await self.get(f"/v1/erasures/{quote(name, safe='')}")

    async def export(self, user: str) -> list[dict[str, Any]]:
        """As `Headrace.export`."""
        return _read_lines(await self._http.get(f"{_user_path(user)}/export", timeout=EXPORT_S))

    async def rollback(self, version: int | None = None, *, who: str = "operator", reason: str = "") -> int:
        """As `Headrace.rollback`."""
        body = {"version": version, "who": who, "reason": reason}
        return int(_read(await self._http.post("/v1/model/rollback", json=body))["version"])

    async def resume(self, *, who: str = "operator", reason: str = "") -> int:
        """As `Headrace.resume`."""
        return int(_read(await self._http.post("/v1/model/resume", json={"who": who, "reason": reason}))["version"])

    async def quarantine(self, source: str, *, who: str = "operator", reason: str = "") -> dict[str, Any]:
        """As `Headrace.quarantine`."""
        body = {"source": source, "who": who, "reason": reason}
        found: dict[str, Any] = _read(await self._http.post("/v1/sources/quarantine", json=body))["quarantine"]
        return found

    async def release(self, source: str, *, who: str = "operator") -> None:
        """As `Headrace.release`."""
        _read(await self._http.post("/v1/sources/release", json={"source": source, "who": who}))

    async def get(self, path: str) -> dict[str, Any]:
        """As `Headrace.get`."""
        body: dict[str, Any] = _read(await self._http.get(path))
        return body

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _headers(api_key: str | None, source: str | None) -> dict[bytes, bytes]:
    headers = dict(HEADERS)
    if api_key is not None:
        headers[b"authorization"] = b"Bearer " + api_key.encode()
    if source is not None:
        headers[b"headrace-source"] = source.encode()
    return headers


def _items_body(items: Mapping[str, Mapping[str, Any]]) -> bytes:
    return msgspec.json.encode({"items": [{"id": item, "attributes": row} for item, row in items.items()]})


def _user_path(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"


def _user_body(attributes: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"attributes": attributes})
