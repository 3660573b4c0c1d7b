"""An `AccessStore` in Redis, on connections of its own.

What cannot be read, as another release may have written it, is passed over: such a key opens nothing.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from redis.crc import key_slot

from features.access import Action, ApiKey
from features.access_store import N_ACTIONS, Demand, fresh
from features.keys import Keys
from features.redis_servers import RedisServers
from features.store import all_of

T = TypeVar("T")

logger = logging.getLogger(__name__)


class RedisAccessStore:
    """Keys on one server or a cluster.

    Args:
        url: As of `RedisServers`.
        timeout_s: After this an answer counts as lost.
    """

    def __init__(self, url: str, *, keys: Keys | None = None, timeout_s: float = 2.0) -> None:
        self._keys = keys or Keys()
        self._servers = RedisServers(url, timeout_s)

    async def put_key(self, key: ApiKey) -> None:
        """Keep a key, in the place of one with the same id."""
        await self._call(("HSET", self._keys.api_keys(), key.id, msgspec.json.encode(key)))

    async def drop_key(self, key_id: str) -> bool:
        """Forget a key; False if there is none."""
        (gone,) = await self._call(("HDEL", self._keys.api_keys(), key_id))
        return bool(gone)

    async def api_keys(self) -> dict[str, ApiKey]:
        """All keys, by id."""
        (flat,) = await self._call(("HGETALL", self._keys.api_keys()))
        return {key.id: key for _, key in _readable(zip(flat[::2], flat[1::2], strict=True), ApiKey)}

    async def tell_demand(self, door: str, demand: Demand) -> dict[str, Demand]:
        """Say what a door was asked for; returns what all doors have said lately, and forgets older ones."""
        name = self._keys.demands()
        _, flat = await self._call(("HSET", name, door, msgspec.json.encode(demand)), ("HGETALL", name))
        told = {door.decode(): said for door, said in _readable(zip(flat[::2], flat[1::2], strict=True), Demand)}
        left = fresh(told, demand.told_ms)
        if stale := told.keys() - left.keys():
            await self._call(("HDEL", name, *stale))
        return left

    async def note_action(self, action: Action) -> None:
        """Keep an action."""
        name = self._keys.actions()
        await self._call(("LPUSH", name, msgspec.json.encode(action)), ("LTRIM", name, 0, N_ACTIONS - 1))

    async def actions(self, count: int) -> list[Action]:
        """The newest actions, newest first."""
        (told,) = await self._call(("LRANGE", self._keys.actions(), 0, count - 1))
        return [action for _, action in _readable(((b"", row) for row in told), Action)]

    async def close(self) -> None:
        """Release connections."""
        await self._servers.close()

    async def _call(self, *commands: tuple[Any, ...]) -> list[Any]:
        return all_of(await self._servers.pipeline([(key_slot(command[1].encode()), command) for command in commands]))


def _readable(rows: Iterable[tuple[bytes, bytes]], kind: type[T]) -> Iterator[tuple[bytes, T]]:
    for name, row in rows:
        try:
            yield name, msgspec.json.decode(row, type=kind)
        except msgspec.MsgspecError as error:
            logger.error("%s %r cannot be read: %s", kind.__name__, name, error)
