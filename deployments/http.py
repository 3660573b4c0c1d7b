"""Raw ASGI: routes, bodies, answers. No framework, because one costs more than a ranking.

Owns the way from an ASGI scope to a handler and from a `Response` or an exception back to bytes. Does not know what is
asked, nor that Ray Serve runs it.

    app = App(gate)
    app.add("POST", "/v1/rank", rank, RANK)             # async def rank(request: Request) -> Response
    app.add("GET", "/v1/users/{id}", show_user, ADMIN)  # request.params["id"], percent-decoded

Whoever asks is let in, or not, before anything of the body is read; every route says which scope it needs.

Invariant: every request that is read to its end gets exactly one answer, JSON if it is an error. A client that leaves
while its body is read gets none, and nothing is logged. The price: a body is held in memory whole, up to the limit.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from deployments.errors import (
    ApiError,
    MalformedError,
    MediaTypeError,
    MethodError,
    NotFoundError,
    SlowError,
    TooLargeError,
)
from deployments.gate import ANYBODY, KNOWN, MAX_BODY_BYTES, Caller, Gate, OpenGate

logger = logging.getLogger(__name__)

BODY_S: Final = 10.0
JSON_TYPE: Final = (b"content-type", b"application/json")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Format:
    """How a body is written."""

    header: tuple[bytes, bytes]
    """Its content-type."""
    encode: Callable[[object], bytes]


JSON: Final = Format(JSON_TYPE, msgspec.json.encode)
MSGPACK: Final = Format((b"content-type", b"application/msgpack"), msgspec.msgpack.encode)


class ClientGoneError(Exception):
    """The client left before its body was complete."""


@dataclass(slots=True)
class Request:
    """One request, its body complete and decompressed."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    """Lower-case names; of a repeated header the last."""
    query: bytes
    body: bytes
    params: Mapping[str, str] = field(default_factory=dict)
    caller: Caller = ANYBODY

    @property
    def content_type(self) -> str:
        """The media type without parameters, lower case; empty when absent."""
        return self.headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower().decode("latin-1")


@dataclass(slots=True, frozen=True)
class Response:
    """One answer; `headers` come on top of content-length."""

    status: int = 200
    body: bytes = b""
    headers: Headers = (JSON_TYPE,)


Handler = Callable[[Request], Awaitable[Response]]
Route = tuple[Handler, str]
"""A handler, and the scope that one needs for it."""
Hook = Callable[[], Awaitable[None]]


def json_response(value: object, status: int = 200) -> Response:
    """Encode a value as the answer's JSON body."""
    return Response(status, msgspec.json.encode(value))


def error_response(error: ApiError, form: Format = JSON) -> Response:
    """Turn an error of the tree into its answer."""
    return Response(error.status, form.encode(error.body()), (form.header, *wire_headers(error.headers)))


def wire_headers(headers: Mapping[str, str]) -> Headers:
    """Headers as they go over the wire."""
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())


NO_CONTENT: Final = Response(HTTPStatus.NO_CONTENT, b"", ())
INTERNAL: Final = error_response(ApiError("internal error; the server's log has the details"))


class Router:
    """Method and path to handler: exact paths by one look-up, `{param}` paths by their fixed parts."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._prefixed: list[tuple[str, str, str, dict[str, Route]]] = []

    def add(self, method: str, path: str, handler: Handler, scope: str) -> None:
        """Route one method of a path, which may hold one whole segment `{name}`.

        Args:
            scope: That one needs; see `gate.PUBLIC` and `gate.KNOWN` for what everybody may do.

        Raises:
            ValueError: the pattern is not one of these, or is taken.
        """
        routes = self._routes(path)
        if method in routes:
            raise ValueError(f"{method} {path} is routed twice")
        routes[method] = handler, scope

    def find(self, method: str, path: str, raw_path: str) -> tuple[Route, Mapping[str, str]]:
        """Return the route and its parameters.

        Args:
            path: Decoded path, for exact routes.
            raw_path: Path as sent, so that an encoded slash stays inside its segment.
        Raises:
            NotFoundError: no such path.
            MethodError: the path answers other methods.
        """
        routes = self._exact.get(path)
        params: Mapping[str, str] = {}
        if routes is None:
            routes, params = self._find_prefixed(raw_path)
        route = routes.get(method)
        if route is None:
            raise MethodError(method, routes)
        return route, params

    def _routes(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._exact.setdefault(path, {})
        before, _, rest = path.partition("{")
        name, _, after = rest.partition("}")
        if not before.endswith("/") or (after and not after.startswith("/")) or "{" in after or not name:
            raise ValueError(f"path {path!r}: expected at most one parameter, filling a segment: /a/{{name}}/b")
        for prefix, _, suffix, routes in self._prefixed:
            if (prefix, suffix) == (before, after):
                return routes
        self._prefixed.append((before, name, after, {}))
        return self._prefixed[-1][3]

    def _find_prefixed(self, raw_path: str) -> tuple[dict[str, Route], Mapping[str, str]]:
        for prefix, name, suffix, routes in self._prefixed:
            if not raw_path.startswith(prefix) or not raw_path.endswith(suffix):
                continue
            segment = raw_path[len(prefix) : len(raw_path) - len(suffix)]
            if segment and "/" not in segment:
                return routes, {name: decode_segment(segment)}
        raise NotFoundError("no such path")


class App:
    """An ASGI application: `Router` in front, handlers behind, errors as JSON.

    Args:
        gate: Lets in who may; None: everybody.
        max_body_bytes: After decompression.
        body_s: Until a body must be there.
        on_start: Awaited at lifespan start; a failure is reported as failed start-up.
        on_stop: Awaited at lifespan end.
    """

    def __init__(
        self,
        gate: Gate | None = None,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_s: float = BODY_S,
        on_start: Hook | None = None,
        on_stop: Hook | None = None,
    ) -> None:
        self._router = Router()
        self._gate = gate or OpenGate()
        self._max_body_bytes = max_body_bytes
        self._body_s = body_s
        self._hooks = {"lifespan.startup": on_start, "lifespan.shutdown": on_stop}

    def add(self, method: str, path: str, handler: Handler, scope: str) -> None:
        """Route one method of a path; see `Router.add`."""
        self._router.add(method, path, handler, scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: an HTTP request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"scope {scope['type']!r}: only http and lifespan are served")
        try:
            response = await self._answer(scope, receive)
        except ClientGoneError:
            return
        await _send_response(send, response, with_body=scope["method"] != "HEAD")

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        try:
            method, path = scope["method"], scope["path"]
            raw_path = scope.get("raw_path") or path.encode()
            headers = dict(scope["headers"])
            try:
                (handler, needed), params = self._router.find(method, path, raw_path.decode("latin-1"))
            except (NotFoundError, MethodError):
                await self._gate.admit(headers, KNOWN)  # which paths there are is no stranger's concern
                raise
            caller = await self._gate.admit(headers, needed)
            body = await self._read(headers, receive)
            query = scope.get("query_string", b"")
            return await handler(Request(method, path, headers, query, body, params, caller))
        except ApiError as error:
            return error_response(error)
        except ClientGoneError:
            raise
        except Exception:  # the ingress: one of the three places where everything is caught
            # Logs are kept, and name nobody: what comes third in a path may be an id.
            logger.exception("%s %s failed", scope["method"], "/".join(scope["path"].split("/")[:3]))
            return INTERNAL

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._body_s):
                return await read_body(headers, receive, self._max_body_bytes)
        except TimeoutError:
            raise SlowError(f"the body did not come within {self._body_s:g} s") from None

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            event = (await receive())["type"]
            hook = self._hooks.get(event)
            try:
                if hook is not None:
                    await hook()
            except Exception as error:
                logger.exception("%s failed", event)
                await send({"type": f"{event}.failed", "message": str(error)})
                return
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int) -> bytes:
    """Read a body to its end, decompressed; stop at the limit.

    Raises:
        TooLargeError: more than `max_bytes` after decompression.
        MediaTypeError: a content encoding other than gzip.
        MalformedError: broken gzip.
        ClientGoneError: the client left.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip", b"x-gzip", b""):
        raise MediaTypeError(f"content-encoding {encoding.decode('latin-1')!r}: expected gzip or none")
    raw = await _read_raw(receive, max_bytes)
    return gunzip(raw, max_bytes) if encoding in (b"gzip", b"x-gzip") else raw


async def _read_raw(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        n_bytes += len(chunk)
        if n_bytes > max_bytes:
            raise TooLargeError(f"body exceeds {max_bytes} bytes")
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else bytes(chunk)
        chunks.append(chunk)


def gunzip(raw: bytes, max_bytes: int) -> bytes:
    """Decompress one gzip member, producing at most `max_bytes` and never more.

    Raises:
        TooLargeError: there would be more.
        MalformedError: the data is not gzip, ends early, or something follows it.
    """
    decompressor = zlib.decompressobj(wbits=31)
    try:
        body = decompressor.decompress(raw, max_bytes + 1)
    except zlib.error as error:
        raise MalformedError(f"body is not gzip: {error}") from error
    if len(body) > max_bytes:
        raise TooLargeError(f"body exceeds {max_bytes} bytes after decompression")
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedError("body is not one complete gzip member")
    return body


def decode_segment(segment: str) -> str:
    """Percent-decode one path segment as UTF-8.

    Raises:
        MalformedError: an escape is not two hexadecimal digits, or the bytes are not UTF-8.
    """
    if "%" not in segment and segment.isascii():
        return segment
    for escape in segment.split("%")[1:]:
        if len(escape) < 2 or not all(digit in "0123456789abcdefABCDEF" for digit in escape[:2]):
            raise MalformedError(f"path: bad percent escape in {segment!r}")
    try:
        return unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"path: {segment!r} is not UTF-8 after decoding") from error


async def _send_response(send: Send, response: Response, *, with_body: bool) -> None:
    headers = list(response.headers)
    if response.status != HTTPStatus.NO_CONTENT:
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})
