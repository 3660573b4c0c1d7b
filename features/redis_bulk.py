"""A `BulkStore` in Redis: what replaces states and rows as a whole, who reads the log, whose events do not count, and
who is erased.

Beside `RedisStore`, on connections of its own: nobody waits for what is done here.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from redis.crc import key_slot

from features.decoding import decoder
from features.erasures import ERASED_S, Erased, Erasing, end, pack, unpack
from features.events import START, Positions, StreamId
from features.keys import Keys
from features.log_drafting import rewrite_log
from features.redis_servers import Addressed, RedisServers
from features.sources import Quarantine
from features.store import all_of

SCAN_COUNT: Final = 1000  # keys looked at by one SCAN, half a millisecond of the server
SEEN_AT_ONCE: Final = 1000  # as long
_decode = decoder(msgspec.json, dict[int, StreamId])
_decode_quarantine = decoder(msgspec.json, Quarantine)
_decode_erased = decoder(msgspec.json, Erased)


class RedisBulk:
    """A `BulkStore` on one server or a cluster.

    Args:
        url: As of `RedisServers`.
        timeout_s: After this an answer counts as lost.
        dedupe_window_s: As of `RedisStore`.
    """

    def __init__(
        self, url: str, *, keys: Keys | None = None, timeout_s: float = 10.0, dedupe_window_s: float = 3600.0
    ) -> None:
        self.keys = keys or Keys()
        self._window_ms = round(dedupe_window_s * 1000)
        self._servers = RedisServers(url, timeout_s)
        self._partitions = range(self.keys.n_partitions)

    async def trimmed(self) -> Positions:
        """The last entry that is gone from each log partition."""
        found = await self._pipeline([("GET", self.keys.trimmed(partition)) for partition in self._partitions])
        return {partition: StreamId.parse(at) for partition, at in enumerate(found) if at}

    async def trimming(self) -> Positions:
        """Up to where entries of each log partition may be gone."""
        told = await self._call("GET", self.keys.trimming())
        return _decode(told) if told else {}

    async def put_users(self, partition: int, states: Mapping[str, bytes], head: StreamId) -> None:
        """Replace states of users of a partition.

        Raises:
            LogMoved: If its newest entry is another.
        """
        keys = [self.keys.log(partition), *map(self.keys.user, states)]
        await self._call("FCALL", "headrace_4_put_users", len(keys), *keys, str(head), *states.values())

    async def hold_rows(self, holder: str) -> None:
        """Keep everybody else from writing item rows."""
        await self._pipeline([("HSET", self.keys.positions(p), "held", holder) for p in self._partitions])

    async def holder(self) -> str:
        """By whom all item rows are held."""
        held = set(await self._pipeline([("HGET", self.keys.positions(p), "held") for p in self._partitions]))
        return (held.pop() or b"").decode() if len(held) == 1 else ""

    async def put_rows(self, item_partition: int, rows: Mapping[str, bytes], holder: str) -> None:
        """Replace rows.

        Raises:
            ProjectionConflict: If they are held by another.
        """
        keys = [self.keys.positions(item_partition), *map(self.keys.item, rows)]
        await self._call("FCALL", "headrace_4_commit_rows", len(keys), *keys, holder, 0, 0, *rows.values())

    def items(self) -> AsyncIterator[list[str]]:
        """Every item that has a row, some at a time; perhaps twice."""
        return self._scan(self.keys.items(), self.keys.item_of)

    def users(self) -> AsyncIterator[list[str]]:
        """Every user who has a state, some at a time; perhaps twice."""
        return self._scan(self.keys.users(), self.keys.user_of)

    async def release_rows(self, reached: Positions, holder: str) -> None:
        """Let others write rows again, from here on.

        Raises:
            ProjectionConflict: If one is held by another.
        """
        pairs = [text for pair in reached.items() for text in map(str, pair)]
        await self._pipeline(
            [("FCALL", "headrace_4_release_rows", 1, self.keys.positions(p), holder, *pairs) for p in self._partitions]
        )

    async def note_reader(self, name: str, positions: Positions) -> None:
        """Note how far somebody has read."""
        await self._call("HSET", self.keys.readers(), name, msgspec.json.encode(positions))

    async def advance_reader(self, name: str, expected: Positions, reached: Positions) -> None:
        """Note how far somebody has read, if that was at `expected` before.

        Raises:
            ReaderMoved: If it was elsewhere, or there is no such reader; nothing was noted.
        """
        pairs = [text for positions in (expected, reached) for pair in positions.items() for text in map(str, pair)]
        await self._call(
            "FCALL", "headrace_4_advance_reader", 1, self.keys.readers(), name, len(expected), len(reached), *pairs
        )

    async def forget_reader(self, name: str) -> None:
        """Trim without regard to this reader."""
        await self._call("HDEL", self.keys.readers(), name)

    async def readers(self) -> dict[str, Positions]:
        """How far everybody who was noted has read."""
        flat = await self._call("HGETALL", self.keys.readers())
        return {name.decode(): _decode(at) for name, at in zip(flat[::2], flat[1::2], strict=True)}

    async def quarantine(self, source: str, quarantine: Quarantine) -> bool:
        """Have what a source sends kept, and nothing else; False if that is so already."""
        return bool(await self._call("HSETNX", self.keys.quarantine(), source, msgspec.json.encode(quarantine)))

    async def release(self, source: str) -> bool:
        """Have what a source sends count again; False if it does."""
        return bool(await self._call("HDEL", self.keys.quarantine(), source))

    async def quarantined(self) -> dict[str, Quarantine]:
        """The sources in quarantine."""
        flat = await self._call("HGETALL", self.keys.quarantine())
        return {name.decode(): _decode_quarantine(told) for name, told in zip(flat[::2], flat[1::2], strict=True)}

    async def erasing(self) -> dict[str, Erasing]:
        """The erasures that are under way, by name."""
        found = await self._pipeline([("HGETALL", self.keys.erasing(partition)) for partition in self._partitions])
        return {
            name.decode(): unpack(told, partition)
            for partition, flat in enumerate(found)
            for name, told in zip(flat[::2], flat[1::2], strict=True)
        }

    async def note_erasing(self, erasure: str, erasing: Erasing) -> None:
        """Note how far an erasure is."""
        await self._call("HSET", self.keys.erasing(erasing.partition), erasure, pack(erasing))

    async def end_erasing(self, erasure: str, erasing: Erasing, done_ms: int) -> None:
        """Note that an erasure is done; first that, then that it is not under way any more."""
        done = msgspec.json.encode(end(erasing, done_ms))
        await self._call("SET", self.keys.erased(erasure), done, "EX", ERASED_S)
        await self._call("HDEL", self.keys.erasing(erasing.partition), erasure)

    async def erasure(self, erasure: str) -> Erasing | Erased | None:
        """An erasure that is under way or done; its name does not tell in which partition."""
        found = await self._pipeline([("HGET", self.keys.erasing(p), erasure) for p in self._partitions])
        for partition, told in enumerate(found):
            if told is not None:
                return unpack(told, partition)
        done = await self._call("GET", self.keys.erased(erasure))
        return None if done is None else _decode_erased(done)

    async def note_erased(self, partition: int, at: StreamId) -> None:
        """Note that of a log partition not all entries up to here are there any more."""
        if at > (await self.erased_to()).get(partition, START):
            await self._call("HSET", self.keys.erased_to(), partition, str(at))

    async def erased_to(self) -> Positions:
        """Up to where entries were erased."""
        flat = await self._call("HGETALL", self.keys.erased_to())
        return {int(partition): StreamId.parse(at) for partition, at in zip(flat[::2], flat[1::2], strict=True)}

    async def drop_entries(self, partition: int, entries: Collection[StreamId], digests: Collection[bytes]) -> None:
        """Have entries of a log partition no more, and events of these digests not known as seen.

        Raises:
            LogMoved: If somebody else does the same.
        """
        known, seen = list(digests), self.keys.seen(partition)
        for start in range(0, len(known), SEEN_AT_ONCE):
            some = known[start : start + SEEN_AT_ONCE]
            await self._call("FCALL", "headrace_4_forget_seen", 1, seen, self._window_ms, *some)
        await rewrite_log(self._call, self.keys, partition, entries)

    async def settings(self) -> dict[str, str]:
        """What was fixed when the store was created, and its latest schema; empty for one that nobody has opened."""
        flat = await self._call("HGETALL", self.keys.settings())
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}

    async def close(self) -> None:
        """Release connections."""
        await self._servers.close()

    async def _scan(self, prefix: str, id_of: Callable[[bytes], str | None]) -> AsyncIterator[list[str]]:
        for node in await self._servers.masters():
            cursor = b"0"
            while True:
                cursor, keys = await node.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCAN_COUNT)
                found = [id for id in map(id_of, keys) if id is not None]
                if found:
                    yield found
                if cursor == b"0":
                    break

    async def _call(self, *command: Any) -> Any:
        (reply,) = await self._pipeline([command])
        return reply

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Run commands, each at the slot of its first key."""
        addressed: list[Addressed] = []
        for command in commands:
            key = command[3] if command[0] == "FCALL" else command[1]
            addressed.append((key_slot(key.encode()), command))
        return all_of(await self._servers.pipeline(addressed))
