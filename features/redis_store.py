"""The store in Redis or Valkey: one round trip to write, one to read.

Everything that must happen together happens in one server-side function (`functions.lua`), within one hash tag. This
module turns records into its arguments and its replies into positions; it holds no state that the server does not.

One server or the masters of a cluster: every command goes with the slot of its keys. On one server a command takes many
partitions at once, in a cluster those of one slot; that is all this module knows of the difference.
"""

import asyncio
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from redis.crc import key_slot

from features.clock import EventClock
from features.durability import Durability, check
from features.errors import FeatureError, RowsHeld, StoreRefused
from features.events import ERASURE, START, Entry, Positions, StreamId
from features.keys import Keys
from features.log_limit import LogLimit
from features.redis_node import PIPELINE_MAX, Command, Confirmation
from features.redis_servers import Addressed, RedisServers
from features.schema import FORMAT, Schema
from features.state import HEADER, Add
from features.store import Applied, Read, Record, RowListener, all_of

ClockMode = Literal["wall", "event"]

TIMEOUT_S: Final = 2.0
PARTITIONS_AT_ONCE: Final = (
    8  # of the log in one read: a fifth of a second of 1,000 decisions/s takes 0.4 ms of the server
)
N_SAMPLES: Final = 10  # of a log's blocks, each of 4 kB
POLL_S: Final = 0.02  # between looks at the logs of several servers, which nobody can wait for together
CONFIRM_SHARE: Final = 0.8  # of the time-out: the server says itself that a replica is late, before it counts as lost


class RedisStore:
    """A `FeatureStore` on one server or a cluster: construct, `open`, use from any number of tasks, `close`.

    A restarted server is found again, a replica that took its place as well; who came back empty gets the function
    library again.

    Args:
        clock: With `event`, ids follow event time.
        dedupe_window_s: How long an event id is remembered, at least.
        timeout_s: After this an answer counts as lost.
        durability: What a reply promises; see `features.durability`.
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
        self._servers = RedisServers(url, timeout_s)
        self._confirm_s = timeout_s * CONFIRM_SHARE
        self._event_clock = EventClock()
        self._limit = LogLimit(0, self.log_bytes)
        self._header = HEADER.pack(FORMAT, schema.fingerprint)
        self._partitions = range(self.keys.n_partitions)
        self._partition_of_log = {self.keys.log(p).encode(): p for p in self._partitions}
        self._user_slots = [key_slot(self.keys.log(p).encode()) for p in self._partitions]
        self._item_slots = [key_slot(self.keys.positions(p).encode()) for p in self._partitions]
        self._settings_slot = key_slot(self.keys.settings().encode())
        self._partition_of_slot = {slot: p for p, slot in enumerate(self._user_slots)}

    async def open(self) -> None:
        """Check the servers, load the function library, agree on what is fixed at creation.

        Raises:
            StoreRefused: If a server cannot keep the promises, or holds a store of other partitions or another clock.
        """
        for node in await self._servers.masters():
            await check(node, self._durability, is_ephemeral=self._ephemeral)
            await node.load_library()
        await self._agree_on_settings()

    async def try_replicas(self) -> None:
        """Have a write of every partition confirmed, if that is the durability; for once, when a deployment starts.

        Raises:
            StoreRefused: If that takes longer than an answer may: no event would be acknowledged.
        """
        if self._durability != "replica":
            return
        marks = [(slot, ("SET", self.keys.mark(p), "")) for p, slot in enumerate(self._user_slots)]
        for reply in await self._servers.pipeline(marks, confirm=self._confirmation):
            if isinstance(reply, FeatureError):
                raise StoreRefused(
                    f"durability 'replica': {reply}; every master needs a replica with appendonly yes and "
                    "appendfsync always, or choose durability 'disk'"
                )

    def limit_log(self, max_bytes: int) -> None:
        """Append nothing but erasures while the log takes more; 0: no limit."""
        self._limit = LogLimit(max_bytes, self.log_bytes)

    async def apply(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        """Apply records in order. Lost answers are `StoreUnavailable` too: such a record may or may not be written."""
        return await self._limit.apply(records, self._write)

    async def _write(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        commands = [(self._user_slots[record.partition], self._command(record)) for record in records]
        confirm = self._confirmation if self._durability == "replica" else None
        results = [_applied(reply) for reply in await self._servers.pipeline(commands, confirm=confirm)]
        for result in results:
            if isinstance(result, Applied):
                self._event_clock.observe(result.id.ms)
        return results

    async def read(self, users: Sequence[str], items: Sequence[str]) -> tuple[list[Read], list[Read]]:
        """Packed user states and item rows; an error in place of what a server does not tell."""
        keys = [*map(self.keys.user, users), *map(self.keys.item, items)]
        values = await self._servers.get(keys)
        return values[: len(users)], values[len(users) :]

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """Entries after the positions, a few partitions at a time: the server does nothing else while it reads."""
        if block_s > 0 and not await self._wait_for_entry(positions, block_s):
            return []
        parts, at_once = await self._parts(PARTITIONS_AT_ONCE)
        reads = [("XREAD", "COUNT", count, *self._streams(part, positions)) for part in parts]
        replies = await self._all(self._user_slots, parts, reads, at_once=at_once)
        return [
            _entry(entry_id, fields, self._partition_of_log[log])
            for reply in replies
            for log, rows in reply or ()
            for entry_id, fields in rows
        ]

    async def heads(self) -> Positions:
        """The newest position of every partition that ever had an entry."""
        parts, _ = await self._parts(len(self._partitions))
        asks: list[Command] = [("FCALL_RO", "headrace_4_heads", len(part), *map(self.keys.log, part)) for part in parts]
        ids = [head for heads in await self._all(self._user_slots, parts, asks) for head in heads]
        return {partition: StreamId.parse(head) for partition, head in enumerate(ids) if head}

    async def log_bytes(self) -> int:
        """Memory of the logs, from some blocks of each."""
        parts = [[partition] for partition in self._partitions]
        asks: list[Command] = [("MEMORY", "USAGE", self.keys.log(p), "SAMPLES", N_SAMPLES) for p in self._partitions]
        return sum(n_bytes or 0 for n_bytes in await self._all(self._user_slots, parts, asks))

    async def now_ms(self) -> int:
        """Log time: the clock of the server that is behind the others, or the newest event time plus the time since it
        was first noticed from here."""
        if self.clock == "wall":
            times = await self._servers.each("TIME")
            return min(int(seconds) * 1000 + int(microseconds) // 1000 for seconds, microseconds in times)
        for head in (await self.heads()).values():
            self._event_clock.observe(head.ms)
        return self._event_clock.now_ms()

    async def trim(self, positions: Positions) -> None:
        """Drop the entries up to and including each position."""
        if not positions:
            return
        key, pairs = self.keys.trimming(), [text for pair in positions.items() for text in map(str, pair)]
        await self._servers.call(key_slot(key.encode()), "FCALL", "headrace_4_tell_trimming", 1, key, *pairs)
        trims: list[Command] = [
            ("FCALL", "headrace_4_trim", 2, self.keys.log(p), self.keys.trimmed(p), str(at), f"{at.ms}-{at.seq + 1}")
            for p, at in positions.items()
        ]
        await self._all(self._user_slots, [[partition] for partition in positions], trims)

    async def commit_rows(
        self,
        item_partition: int,
        rows: Mapping[str, bytes],
        *,
        expected: Positions,
        reached: Positions,
        holder: str = "",
    ) -> None:
        """Write item rows and positions in one step; only the partitions in `expected` are compared.

        Raises:
            ProjectionConflict: If a stored position is another, or the rows are held by another; nothing was written.
        """
        keys = [self.keys.positions(item_partition), *map(self.keys.item, rows)]
        pairs = [text for positions in (expected, reached) for pair in positions.items() for text in map(str, pair)]
        call: Command = ("FCALL", "headrace_4_commit_rows", len(keys), *keys)
        slot = self._item_slots[item_partition]
        await self._servers.call(slot, *call, holder, len(expected), len(reached), *pairs, *rows.values())

    async def projected(self) -> list[Positions]:
        """For every item partition, the position of every log partition up to which it is folded.

        Raises:
            RowsHeld: If they are being replaced.
        """
        parts = [[partition] for partition in self._partitions]
        asks = [("HGETALL", self.keys.positions(partition)) for partition in self._partitions]
        replies = await self._all(self._item_slots, parts, asks)
        stored = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in replies]
        for positions in stored:
            if b"held" in positions:
                raise RowsHeld(f"item rows are held by {positions[b'held'].decode()!r}")
        return [{int(p): StreamId.parse(at) for p, at in positions.items()} for positions in stored]

    async def follow_rows(self, listener: RowListener) -> None:
        """Tell which item rows are written; the server names them by itself."""
        async for keys, until_s in self._servers.written(self.keys.items()):
            if keys is None:
                listener.began()
            else:
                listener.changed([item for item in map(self.keys.item_of, keys) if item is not None])
            listener.heard(until_s)

    async def close(self) -> None:
        """Release connections."""
        await self._servers.close()

    async def _parts(self, n: int) -> tuple[list[list[int]], int]:
        """Partitions that one command may take, at most `n`; and how many such commands are to be sent at once."""
        if (await self._servers.find()).is_cluster:
            return [[partition] for partition in self._partitions], n
        return [list(self._partitions[start : start + n]) for start in range(0, len(self._partitions), n)], 1

    async def _wait_for_entry(self, positions: Positions, block_s: float) -> bool:
        """Whether there is an entry after the positions, now or within `block_s`."""
        parts, _ = await self._parts(len(self._partitions))
        if len(parts) == 1:  # a read that waits has a connection of its own, so it holds up nobody
            wait = ("XREAD", "COUNT", 1, "BLOCK", max(1, round(block_s * 1000)), *self._streams(parts[0], positions))
            return bool(await self._servers.call(self._user_slots[0], *wait, wait_s=block_s))
        deadline_s = time.monotonic() + block_s
        looks = [("XREAD", "COUNT", 1, *self._streams(part, positions)) for part in parts]
        while not any(await self._all(self._user_slots, parts, looks)):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(POLL_S, left_s))
        return True

    def _streams(self, partitions: Sequence[int], positions: Positions) -> Command:
        starts = [str(positions.get(partition, START)) for partition in partitions]
        return ("STREAMS", *map(self.keys.log, partitions), *starts)

    async def _all(
        self,
        slots: Sequence[int],
        parts: Sequence[Sequence[int]],
        commands: Sequence[Command],
        *,
        at_once: int = PIPELINE_MAX,
    ) -> list[Any]:
        """The replies to commands for these partitions, whose slots are given; raises the first error."""
        addressed = [(slots[part[0]], command) for part, command in zip(parts, commands, strict=True)]
        return all_of(await self._servers.pipeline(addressed, at_once=at_once))

    def _confirmation(self, slot: int) -> Confirmation:
        mark = ("SET", self.keys.mark(self._partition_of_slot[slot]), "")
        return Confirmation(n_replicas=1, wait_s=self._confirm_s, mark=mark)

    async def _agree_on_settings(self) -> None:
        key, slot = self.keys.settings(), self._settings_slot
        mine = {"n_partitions": str(self.keys.n_partitions), "clock": self.clock}
        claims: list[Addressed] = [(slot, ("HSETNX", key, name, value)) for name, value in mine.items()]
        *_, flat = all_of(await self._servers.pipeline([*claims, (slot, ("HGETALL", key))]))
        stored = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
        for name, value in mine.items():
            if stored[name] != value:
                raise StoreRefused(
                    f"{key}: the store was created with {name} {stored[name]}, expected {value}; "
                    f"start with {name} {stored[name]} or take another prefix"
                )
        await self._servers.call(slot, "HSET", key, "schema", f"{self.schema.fingerprint:016x}")

    def _command(self, record: Record) -> Command:
        name, further = self._change(record)
        user = () if record.user is None else (self.keys.user(record.user),)
        if record.kind == ERASURE:
            user = (*user, self.keys.erasing(record.partition))
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
            return "headrace_4_event", (*layout, adds, update.recent, update.context, self.schema.n_recent)
        if record.attributes is not None:
            return "headrace_4_attributes", (*layout, record.attributes)
        if record.kind == ERASURE:
            return "headrace_4_erasure", (record.erasure, record.user or "", record.state)
        return "headrace_4_plain", (record.state,)


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
