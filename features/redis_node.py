"""One Redis or Valkey server: connections to it, the checks before it is trusted, and the function library on it.

Knows commands and errors, but neither keys nor records. `pipeline` never raises for what the server says or for its
silence: each command gets its reply or a `FeatureError` in its place. A command is sent again only when the server has
said that it did not run (the library was missing), so nothing is ever applied twice from here.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any, Final, Literal

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from features.errors import (
    CorruptState,
    FeatureError,
    ProjectionConflict,
    SchemaMismatch,
    StoreRefused,
    StoreUnavailable,
)

Durability = Literal["process", "disk"]
Command = tuple[bytes | str | int, ...]

LIBRARY: Final = "headrace_2"
CODE: Final = files("features").joinpath("functions.lua").read_text("utf-8")
PIPELINE_MAX: Final = 32  # commands; longer pipelines were measured to lift a bystander's read p99 from 0.3 to 5 ms
HEARD_S: Final = 0.05  # between two looks at which keys were written; a look costs a tenth of a millisecond
MIN_VERSION: Final = (7, 0)
LOST: Final = (RedisError, OSError)  # time-outs are OSErrors

_passing = (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError)
_by_code: Final[dict[str, type[FeatureError]]] = {
    "HRSCHEMA": SchemaMismatch,
    "HRCORRUPT": CorruptState,
    "HRCONFLICT": ProjectionConflict,
    "WRONGTYPE": CorruptState,
    **dict.fromkeys(("OOM", "LOADING", "READONLY", "BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN"), StoreUnavailable),
}


class RedisNode:
    """Commands to one server.

    Args:
        url: `redis://[user:password@]host:port/db`, or `rediss://` for TLS.
        timeout_s: How long to wait for a connection, and for the replies to one pipeline.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.address = url.rpartition("@")[2].rpartition("://")[2]
        self._url = url
        self._timeout_s = timeout_s
        self._pool = _connections(url, timeout_s, protocol=2)
        self._idle: list[AbstractConnection] = []

    async def pipeline(self, commands: Sequence[Command], *, wait_s: float = 0.0) -> list[Any]:
        """Run commands in order, 32 at a time; once the connection is lost the rest is not sent.

        Args:
            wait_s: How much longer than usual a blocking command may take.
        Returns:
            A reply for each command, or the `FeatureError` that stands for it.
        """
        replies = await self._run(commands, wait_s)
        missing = [index for index, reply in enumerate(replies) if _lacks_library(reply)]
        if missing:
            again = await self._run_with_library([commands[index] for index in missing], wait_s)
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return [_judged(reply) for reply in replies]

    async def call(self, *command: bytes | str | int, wait_s: float = 0.0) -> Any:
        """Run one command.

        Raises:
            FeatureError: What `pipeline` would return in place of the reply.
        """
        (reply,) = await self.pipeline([command], wait_s=wait_s)
        if isinstance(reply, FeatureError):
            raise reply
        return reply

    async def written(self, prefix: str) -> AsyncIterator[tuple[list[bytes] | None, float]]:
        """Names of keys under a prefix as they are written, in lots, by the server's own tracking.

        Yields:
            The names, or None if any key may have been written (at the beginning, and after a flush); and the instant
            (`time.monotonic`) before which everything written has been named.

        Raises:
            StoreUnavailable: When the connection is lost.
        """
        pool = _connections(self._url, self._timeout_s, protocol=3)  # only the third speaks unasked
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
                connection._parser.set_invalidation_push_handler(_as_is)
                await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
                await connection.read_response()
            named_s = sent_s = time.monotonic()
            yield None, named_s
            while True:
                # The answer to a look may overtake names of its own instant, never those of the look before.
                before_s, sent_s = sent_s, time.monotonic()
                async with asyncio.timeout(self._timeout_s):
                    await connection.send_command("PING")
                    while isinstance(reply := await connection.read_response(push_request=True), list):
                        yield reply[1], named_s
                named_s = before_s
                yield [], named_s
                await asyncio.sleep(HEARD_S)
        except LOST as error:
            raise self._lost(error) from None
        finally:
            await pool.disconnect()

    async def check(self, durability: Durability, *, is_ephemeral: bool) -> None:
        """Make sure that the server can keep the promises.

        Raises:
            StoreRefused: Naming what it is that it cannot, and how to mend it.
        """
        info = _fields(await self.call("INFO"))
        version = info.get("redis_version", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
            raise StoreRefused(
                f"{self.address}: version {version} has no functions; upgrade to Redis 7.2 or Valkey 8 or newer"
            )
        policy = info.get("maxmemory_policy", "unknown")
        if policy != "noeviction":
            raise StoreRefused(
                f"{self.address}: maxmemory-policy is {policy}, so people would be forgotten silently; "
                "CONFIG SET maxmemory-policy noeviction"
            )
        if not is_ephemeral:
            await self._check_durability(durability, has_file=info.get("aof_enabled") == "1")

    async def load_library(self) -> None:
        """Put the function library on the server unless it is there; processes that race load the same code."""
        listed = await self._run([("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")], 0.0)
        if not isinstance(listed[0], Exception) and listed[0] and CODE.encode() in listed[0][0]:
            return
        (reply,) = await self._run([("FUNCTION", "LOAD", "REPLACE", CODE)], 0.0)
        if isinstance(reply, Exception):
            raise _judged(reply)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.disconnect()

    async def _check_durability(self, durability: Durability, *, has_file: bool) -> None:
        if not has_file:
            raise StoreRefused(
                f"{self.address}: appendonly is off, so acknowledged events would die with the server; "
                "CONFIG SET appendonly yes, or say --ephemeral"
            )
        if durability == "disk":
            _, sync = await self.call("CONFIG", "GET", "appendfsync")
            if sync != b"always":
                raise StoreRefused(
                    f"{self.address}: durability 'disk' needs appendfsync always, it is {sync.decode()}; "
                    "CONFIG SET appendfsync always, or choose durability 'process'"
                )

    async def _run_with_library(self, commands: Sequence[Command], wait_s: float) -> list[Any]:
        try:
            await self.load_library()
        except FeatureError as error:
            return [error] * len(commands)
        return await self._run(commands, wait_s)

    async def _run(self, commands: Sequence[Command], wait_s: float) -> list[Any]:
        replies: list[Any] = []
        try:
            connection = await self._take()
        except LOST as error:
            return [self._lost(error)] * len(commands)
        try:
            for start in range(0, len(commands), PIPELINE_MAX):
                async with asyncio.timeout(self._timeout_s + wait_s):
                    await _exchange(connection, commands[start : start + PIPELINE_MAX], replies)
        except BaseException as error:
            # Replies still under way would be taken for those of the next command.
            await self._drop(connection)
            if not isinstance(error, LOST):
                raise
            return replies + [self._lost(error)] * (len(commands) - len(replies))
        self._idle.append(connection)
        return replies

    async def _take(self) -> AbstractConnection:
        """A connection that is ready: one just used, without the pool, whose bookkeeping costs as much as a read."""
        while self._idle:
            connection = self._idle.pop()
            if await _is_ready(connection):
                return connection
            await self._drop(connection)
        async with asyncio.timeout(self._timeout_s):
            return await self._pool.get_connection()  # type: ignore[no-any-return, no-untyped-call]

    async def _drop(self, connection: AbstractConnection) -> None:
        try:
            await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)

    def _lost(self, error: BaseException) -> FeatureError:
        if isinstance(error, AuthenticationError):
            return StoreRefused(f"{self.address}: {error}; give user and password in the address")
        return StoreUnavailable(f"{self.address}: {str(error) or 'no answer in time'}")


async def _exchange(connection: AbstractConnection, commands: Sequence[Command], replies: list[Any]) -> None:
    # The client's own packing is in Python, and takes as long as everything else here.
    packed = b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]  # stub: 1-tuples only
    await connection.send_packed_command(packed, check_health=False)
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)


async def _is_ready(connection: AbstractConnection) -> bool:
    """Whether the server has neither hung up nor said anything unasked."""
    try:
        return connection.is_connected and not await connection.can_read()
    except LOST:
        return False


def _connections(url: str, timeout_s: float, protocol: int) -> ConnectionPool:
    return ConnectionPool.from_url(
        url,
        protocol=protocol,
        socket_timeout=None,
        socket_connect_timeout=timeout_s,
        # The client's own retries would append a second time what was applied before the reply got lost.
        retry=Retry(NoBackoff(), 0),
    )


async def _as_is(message: list[Any]) -> list[Any]:
    return message


def _lacks_library(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "function not found" in str(reply).lower()


def _judged(reply: Any) -> Any:
    if not isinstance(reply, RedisError):
        return reply
    code, _, message = str(reply).partition(" ")
    if isinstance(reply, _passing):
        return StoreUnavailable(str(reply))
    kind = _by_code.get(code, FeatureError)
    return kind(message if code.startswith("HR") else str(reply))


def _fields(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
