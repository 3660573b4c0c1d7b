"""The store in Redis or Valkey: one round trip to write, one to read.

Everything that must happen together happens in one server-side function (`functions.lua`), within one hash tag. This
module turns records into its arguments and its replies into positions; it holds no state that the server does not.

Knows one server. What goes to which server is decided by the calls of `self._node` alone: every other function deals
in the keys of one partition, or in lists that can be cut by partition.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from features.clock import EventClock
from features.errors import FeatureError, StoreRefused
from features.events import ERASURE, START, Entry, Positions, StreamId
from features.keys import Keys
from features.redis_node import Command, Durability, RedisNode
from features.schema import FORMAT, Schema
from features.state import HEADER, Add
from features.store import Applied, Record, RowListener

ClockMode = Literal["wall", "event"]

TIMEOUT_S: Final = 2.0
PARTITIONS_AT_ONCE: Final = (
    8  # of the log in one read: a fifth of a second of 1,000 decisions/s takes 0.4 ms of the server
)
STRANGER: Final = b""


class RedisStore:
    """A `FeatureStore` on one server: construct, `open`, use from any number of tasks, `close`.

    A restarted server is found again, and given the function library again if it came back empty.

    Args:
        clock: With `event`, ids follow event time.
        dedupe_window_s: How long an event id is remembered, at least.
        timeout_s: After this an answer counts as lost.
        durability: What a reply promises: `process` survives the death of the server, `disk` that of the machine.
        ephemeral: Accept a server without append-only file.
    """

    def __init__(
        self,
        url: str,
        schema: Schema,
        *,
        keys: Keys | None = None,
        clock: ClockMode = "wall",
        dedupe_window_s: float = 3600.0,
        timeout_s: float = TIMEOUT_S,
        durability: Durability = "process",
        ephemeral: bool = False,
    ) -> None:
        self.schema = schema
        self.keys = keys or Keys()
        self.clock = clock
        self._durability: Durability = durability
        self._ephemeral = ephemeral
        self._window_ms = round(dedupe_window_s * 1000)
        self._node = RedisNode(url, timeout_s)
        self._event_clock = EventClock()
        self._header = HEADER.pack(FORMAT, schema.fingerprint)
        self._partitions = range(self.keys.n_partitions)
        self._partition_of_log = {self.keys.log(p).encode(): p for p in self._partitions}

    async def open(self) -> None:
        """Check the server, load the function library, agree on what is fixed at creation.

        Raises:
            StoreRefused: If the server cannot keep the promises, or holds a store of other partitions or another clock.
        """
        await self._node.check(self._durability, is_ephemeral=self._ephemeral)
        await self._node.load_library()
        await self._agree_on_settings()

    async def apply(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        """Apply records in order. Lost answers are `StoreUnavailable` too: such a record may or may not be written."""
        replies = await self._node.pipeline([self._command(record) for record in records])
        results = [_applied(reply) for reply in replies]
        for result in results:
            if isinstance(result, Applied):
                self._event_clock.observe(result.id.ms)
        return results

    async def read(self, users: Sequence[str], items: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
        """Packed user states and item rows, in one command."""
        keys = [*map(self.keys.user, users), *map(self.keys.item, items)]
        if not keys:
            return [], []
        values = [value or STRANGER for value in await self._node.call("MGET", *keys)]
        return values[: len(users)], values[len(users) :]

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """Entries after the positions, a few partitions at a time: the server does nothing else while it reads.

        A read that waits has a connection of its own, so it holds up nobody.
        """
        if block_s > 0:
            wait = ("XREAD", "COUNT", 1, "BLOCK", max(1, round(block_s * 1000)))
            if not await self._node.call(*wait, *self._streams(self._partitions, positions), wait_s=block_s):
                return []
        entries: list[Entry] = []
        for start in range(0, len(self._partitions), PARTITIONS_AT_ONCE):
            some = self._partitions[start : start + PARTITIONS_AT_ONCE]
            reply = await self._node.call("XREAD", "COUNT", count, *self._streams(some, positions))
            entries += [
                _entry(entry_id, fields, self._partition_of_log[log])
                for log, rows in reply or ()
                for entry_id, fields in rows
            ]
        return entries

    async def heads(self) -> Positions:
        """The newest position of every partition that ever had an entry."""
        logs = list(self._partition_of_log)
        ids = await self._node.call("FCALL_RO", "headrace_2_heads", len(logs), *logs)
        return {partition: StreamId.parse(head) for partition, head in enumerate(ids) if head}

    async def now_ms(self) -> int:
        """Log time: the server's clock, or the newest event time plus the time since it was first noticed from here."""
        if self.clock == "wall":
            seconds, microseconds = await self._node.call("TIME")
            return int(seconds) * 1000 + int(microseconds) // 1000
        for head in (await self.heads()).values():
            self._event_clock.observe(head.ms)
        return self._event_clock.now_ms()

    async def trim(self, positions: Positions) -> None:
        """Drop the entries up to and including each position."""
        await self._all(
            [("XTRIM", self.keys.log(p), "MINID", "=", f"{at.ms}-{at.seq + 1}") for p, at in positions.items()]
        )

    async def commit_rows(
        self, item_partition: int, rows: Mapping[str, bytes], *, expected: Positions, reached: Positions
    ) -> None:
        """Write item rows and positions in one step; only the partitions in `expected` are compared.

        Raises:
            ProjectionConflict: If a stored position is another; nothing was written.
        """
        keys = [self.keys.positions(item_partition), *map(self.keys.item, rows)]
        pairs = [text for positions in (expected, reached) for pair in positions.items() for text in map(str, pair)]
        await self._node.call(
            "FCALL", "headrace_2_commit_rows", len(keys), *keys, len(expected), len(reached), *pairs, *rows.values()
        )

    async def projected(self) -> list[Positions]:
        """For every item partition, the position of every log partition up to which it is folded."""
        replies = await self._all([("HGETALL", self.keys.positions(partition)) for partition in self._partitions])
        return [
            {int(partition): StreamId.parse(at) for partition, at in zip(flat[::2], flat[1::2], strict=True)}
            for flat in replies
        ]

    async def follow_rows(self, listener: RowListener) -> None:
        """Tell which item rows are written; the server names them by itself."""
        async for keys, until_s in self._node.written(self.keys.items()):
            if keys is None:
                listener.began()
            else:
                listener.changed([item for item in map(self.keys.item_of, keys) if item is not None])
            listener.heard(until_s)

    async def close(self) -> None:
        """Release connections."""
        await self._node.close()

    def _streams(self, partitions: Sequence[int], positions: Positions) -> Command:
        starts = [str(positions.get(partition, START)) for partition in partitions]
        return ("STREAMS", *map(self.keys.log, partitions), *starts)

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._node.pipeline(commands)
        for reply in replies:
            if isinstance(reply, FeatureError):
                raise reply
        return replies

    async def _agree_on_settings(self) -> None:
        key = self.keys.settings()
        mine = {"n_partitions": str(self.keys.n_partitions), "clock": self.clock}
        claims = [("HSETNX", key, name, value) for name, value in mine.items()]
        *_, flat = await self._all([*claims, ("HGETALL", key)])
        stored = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
        for name, value in mine.items():
            if stored[name] != value:
                raise StoreRefused(
                    f"{key}: the store was created with {name} {stored[name]}, expected {value}; "
                    f"start with {name} {stored[name]} or take another prefix"
                )
        await self._node.call("HSET", key, "schema", f"{self.schema.fingerprint:016x}")

    def _command(self, record: Record) -> Command:
        name, further = self._change(record)
        user = () if record.user is None else (self.keys.user(record.user),)
        return (
            *("FCALL", name, 2 + len(user), self.keys.log(record.partition), self.keys.seen(record.partition), *user),
            *(record.kind, record.body, self.clock, record.ts_ms, record.digest, self._window_ms),
            *further,
        )

    def _change(self, record: Record) -> tuple[str, Command]:
        layout = (self._header, self.schema.user_block_bytes)
        if record.update is not None:
            adds = b"".join(map(_pack_add, record.update.adds))
            update = record.update
            return "headrace_2_event", (*layout, adds, update.recent, update.context, self.schema.n_recent)
        if record.attributes is not None:
            return "headrace_2_attributes", (*layout, record.attributes)
        if record.kind == ERASURE:
            return "headrace_2_erasure", ()
        return "headrace_2_plain", (record.state,)


def _pack_add(add: Add) -> bytes:
    n = len(add.half_lives_ms)
    return struct.pack(f"<4Id{n}d", add.offset, n, add.n_buckets, add.bucket, add.amount, *add.half_lives_ms)


def _applied(reply: Any) -> Applied | FeatureError:
    if isinstance(reply, FeatureError):
        return reply
    entry_id, is_duplicate = reply
    return Applied(StreamId.parse(entry_id), bool(is_duplicate))


def _entry(entry_id: bytes, fields: list[bytes], partition: int) -> Entry:
    _, kind, _, body, _, state = fields
    return Entry(StreamId.parse(entry_id), partition, kind, body, state)
