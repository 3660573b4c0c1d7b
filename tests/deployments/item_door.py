"""The routes of items on a real socket, over a store in memory, with faults where a test wants them."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import uvicorn

from deployments.entrance import Entrance
from deployments.erasure_routes import LogSide
from deployments.events import EventsEndpoint
from deployments.gate import MAX_BODY_BYTES, AccessConfig
from deployments.http import Message, Receive, Scope, Send, read_body
from features.access_store import MemoryAccessStore
from features.events import ITEM, decode_attributes
from features.memory_store import MemoryStore
from features.quarantine import QuarantineKeeper
from features.schema import Schema
from features.source_watch import SourceWatch
from features.sources import SourceRules
from tests.waiting import eventually

Item = dict[str, Any]


UNWRITTEN: Final = (("away", 503, b"no backend"), ("broken", 500, b"no luck"))


class Door:
    """The front door on a socket, in front of a store in memory; some posts meet with something.

    Args:
        faults: What happens at a post, by its number: `away` and `broken` (503 and 500, nothing is written), `lost` (it
            is written, and the connection breaks), `stop` (the user stops the command); two with a space between.
    """

    def __init__(self, schema: Schema, faults: Mapping[int, str]) -> None:
        self.store = MemoryStore(schema)
        self.faults = dict(faults)
        self.url = ""
        self.posts: list[list[str]] = []
        """Ids of the items of each post."""
        self.sizes_bytes: list[int] = []
        quarantine = QuarantineKeeper(self.store, SourceWatch(SourceRules(), ()), lambda: 1)
        entrance = Entrance(AccessConfig(keys="off"), MemoryAccessStore())
        self._app = EventsEndpoint(
            *(self.store, quarantine, _no_model, _no_model, LogSide(self.store, _no_model, _no_export), lambda: 1),
            entrance=entrance,
            is_event_clock=False,
        ).app

    @property
    def taken(self) -> list[str]:
        """Ids as they were written, one post after the other."""
        unwritten = {number for number, fault in self.faults.items() if any(name in fault for name, _, _ in UNWRITTEN)}
        return [item for number, post in enumerate(self.posts) if number not in unwritten for item in post]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        body = await read_body({}, receive, MAX_BODY_BYTES)
        fault = self.faults.get(len(self.posts), "")
        self.posts.append([item["id"] for item in msgspec.json.decode(body)["items"]])
        self.sizes_bytes.append(len(body))
        if "stop" in fault:
            os.kill(os.getpid(), signal.SIGINT)
        for name, status, text in UNWRITTEN:
            if name in fault:
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": text})
                return

        async def whole() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def start_alone(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)

        await self._app(scope, whole, start_alone if "lost" in fault else send)

    def items(self) -> dict[str, Item]:
        """What the store was told of each item at last."""
        entries = asyncio.run(self.store.read_log({}, count=1 << 20))
        stated = [decode_attributes(entry.body) for entry in entries if entry.kind == ITEM]
        return {one.entity: dict(one.attributes) for one in stated}


async def _no_model() -> Item:
    return {}


async def _no_export(_: str) -> bytes:
    return b""


@contextlib.contextmanager
def opened(faults: Mapping[int, str] | None = None, schema: Schema | None = None) -> Iterator[Door]:
    """A door, open."""
    door = Door(schema or Schema(), faults or {})
    with served(door) as door.url:
        yield door


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """An application on a real socket; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            eventually(lambda: server.started, "the door is open")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
