"""One Redis or Valkey server: connections to it, and the function library on it.

Knows commands, but neither keys nor what a reply means. `run` never raises for what the server says or for its silence:
each command gets its reply, the server's error, or a `FeatureError` in its place. A command is sent again only when the
server has said that it did not run (the library was missing), so nothing is ever applied twice from here.

A server that was lost is `is_away` until it answers a ping. It is pinged in the background, so nobody has to find out
by waiting; but commands are tried all the same: whoever would rather do without looks at `is_away` first.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from features.errors import (
    CorruptState,
    FeatureError,
    LogMoved,
    ProjectionConflict,
    ReaderMoved,
    SchemaMismatch,
    StoreRefused,
    StoreUnavailable,
)

Command = tuple[bytes | str | int, ...]

LIBRARY: Final = "headrace_4"
CODE: Final = files("features").joinpath("functions.lua").read_text("utf-8")
PIPELINE_MAX: Final = 32  # commands; longer pipelines were measured to lift a bystander's read p99 from 0.3 to 5 ms
HEARD_S: Final = 0.05  # between two looks at which keys were written; a look costs a tenth of a millisecond
FIRST_WAIT_S: Final = 0.01  # for a replica to sync what was written; an idle disk takes a millisecond
PROBE_S: Final = 0.25  # between two looks whether a server that was lost is back
LOST: Final = (RedisError, OSError)  # time-outs are OSErrors

_passing = (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError, AskError)  # MovedError is an AskError
_by_code: Final[dict[str, type[FeatureError]]] = {
    "HRSCHEMA": SchemaMismatch,
    "HRCORRUPT": CorruptState,
    "HRCONFLICT": ProjectionConflict,
    "HRMOVED": LogMoved,
    "HRREADER": ReaderMoved,
    "WRONGTYPE": CorruptState,
    **dict.fromkeys(("OOM", "LOADING", "READONLY", "BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN"), StoreUnavailable),
}


class Unreached(StoreUnavailable):
    """Nobody was there to take the commands: they did not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """What must be so before writes count: replicas have them in their synced append-only files."""

    n_replicas: int
    wait_s: float
    mark: Command
    """A write of no consequence, sent behind the others. The server waits for what its connection has written, and a
    duplicate writes nothing, though the write that it repeats may still be on its way."""


class RedisNode:
    """Commands to one server.

    Args:
        url: `redis://[user:password@]host:port/db`, or `rediss://` for TLS.
        timeout_s: How long to wait for a connection, and for the replies to one pipeline.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.address = url.rpartition("@")[2].rpartition("://")[2].partition("/")[0].partition("?")[0]
        self._url = url
        self._timeout_s = timeout_s
        self._pool = _connections(url, timeout_s, protocol=2)
        self._idle: list[AbstractConnection] = []
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        """Whether the server was lost and has not been seen since."""
        return self._probing is not None and not self._probing.done()

    async def run(
        self,
        commands: Sequence[Command],
        *,
        wait_s: float = 0.0,
        at_once: int = PIPELINE_MAX,
        confirmation: Confirmation | None = None,
    ) -> list[Any]:
        """Run commands in order, some at a time; once the connection is lost the rest is not sent.

        Args:
            wait_s: How much longer than usual a blocking command may take.
            at_once: Commands sent together.
        Returns:
            For each command its reply, the server's `ResponseError`, or the `FeatureError` that says what was lost.
        """
        replies = await self._run(commands, wait_s, at_once, confirmation)
        missing = [index for index, reply in enumerate(replies) if _lacks_library(reply)]
        if missing:
            try:
                await self.load_library()
            except FeatureError as error:
                again: list[Any] = [error] * len(missing)
            else:
                again = await self._run([commands[index] for index in missing], wait_s, at_once, confirmation)
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return replies

    async def call(self, *command: bytes | str | int, wait_s: float = 0.0) -> Any:
        """Run one command.

        Raises:
            FeatureError: What stands for a reply that is an error, or was lost.
        """
        (reply,) = await self.run([command], wait_s=wait_s)
        reply = judged(reply)
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

    async def load_library(self) -> None:
        """Put the function library on the server unless it is there; processes that race load the same code."""
        listed = await self.call("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
        if not listed or CODE.encode() not in listed[0]:
            await self.call("FUNCTION", "LOAD", "REPLACE", CODE)

    def give_up(self) -> None:
        """Look no further for a server that was lost: others have taken its place."""
        if self._probing is not None:
            self._probing.cancel()

    async def close(self) -> None:
        """Close every connection."""
        self.give_up()
        await self._pool.disconnect()

    async def _run(
        self, commands: Sequence[Command], wait_s: float, at_once: int, confirmation: Confirmation | None
    ) -> list[Any]:
        try:
            connection = await self._take()
        except LOST as error:
            return [self._lost(error, was_reached=False)] * len(commands)
        replies: list[Any] = []
        try:
            for start in range(0, len(commands), at_once):
                async with asyncio.timeout(self._timeout_s + wait_s):
                    await _exchange(connection, commands[start : start + at_once], confirmation, replies)
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

    def _lost(self, error: BaseException, *, was_reached: bool = True) -> FeatureError:
        if isinstance(error, AuthenticationError):
            return StoreRefused(f"{self.address}: {error}; give user and password in the address")
        if not self.is_away:
            self._probing = asyncio.get_running_loop().create_task(self._probe())
        kind = StoreUnavailable if was_reached else Unreached
        return kind(f"{self.address}: {str(error) or 'no answer in time'}")

    async def _probe(self) -> None:
        """Ping until there is an answer."""
        while True:
            await asyncio.sleep(PROBE_S)
            (reply,) = await self._run([("PING",)], 0.0, 1, None)
            if not isinstance(reply, FeatureError):
                return


async def _exchange(
    connection: AbstractConnection, commands: Sequence[Command], confirmation: Confirmation | None, replies: list[Any]
) -> None:
    """Send, and append what comes back; what has been read when the connection is lost counts."""
    if confirmation is None:
        await _send_and_read(connection, commands, replies)
        return
    unconfirmed: list[Any] = []
    await _send_and_read(connection, (*commands, confirmation.mark), unconfirmed)
    missing = judged(unconfirmed.pop())
    if not isinstance(missing, FeatureError):
        missing = await _confirm(connection, confirmation)
    replies += [reply if isinstance(reply, Exception) else missing or reply for reply in unconfirmed]


async def _send_and_read(connection: AbstractConnection, commands: Sequence[Command], replies: list[Any]) -> None:
    # The client's own packing is in Python, and takes as long as everything else here.
    packed = b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]  # stub: 1-tuples only
    await connection.send_packed_command(packed, check_health=False)
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)


async def _confirm(connection: AbstractConnection, confirmation: Confirmation) -> FeatureError | None:
    """What is missing for the writes of a connection to count; None if nothing is.

    A replica answers when it is asked how far it is, and else once a second. Asked in the same breath as it is sent a
    write, it says that it has not synced it; so it is asked afterwards, and again after ever longer waits.
    """
    ends_s, wait_s = time.monotonic() + confirmation.wait_s, FIRST_WAIT_S
    while True:
        answers: list[Any] = []
        await _send_and_read(connection, [("WAITAOF", 0, confirmation.n_replicas, round(wait_s * 1000))], answers)
        (answer,) = map(judged, answers)
        if isinstance(answer, FeatureError):
            return answer
        if answer[1] >= confirmation.n_replicas:
            return None
        left_s = ends_s - time.monotonic()
        if left_s <= FIRST_WAIT_S:
            return StoreUnavailable(f"written, but confirmed by {answer[1]} replicas of {confirmation.n_replicas}")
        wait_s = min(2 * wait_s, left_s)


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


def judged(reply: Any) -> Any:
    """A reply as it is, or the `FeatureError` for what the server said instead."""
    if not isinstance(reply, RedisError):
        return reply
    code, _, message = str(reply).partition(" ")
    if isinstance(reply, _passing):
        return StoreUnavailable(str(reply))
    if isinstance(reply, NoPermissionError):
        return StoreRefused(f"{reply}; see README on what a user needs")
    kind = _by_code.get(code, FeatureError)
    return kind(message if code.startswith("HR") else str(reply))


def _lacks_library(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "function not found" in str(reply).lower()
