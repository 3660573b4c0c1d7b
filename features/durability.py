"""Whether a server can keep what is promised: asked when a store is opened, and refused by name.

Whether a master's replicas confirm what it writes is another matter: they come and go. See `RedisStore.try_replicas`.

process    written to an append-only file before the reply: survives the death of the server, not of the machine
disk       that file synced before the reply: survives the machine, not its loss
replica    in the synced append-only file of a replica before the reply: survives the loss of the machine
"""

from typing import Final, Literal

from features.errors import StoreRefused
from features.redis_node import RedisNode

Durability = Literal["process", "disk", "replica"]
MIN_VERSION: Final = (7, 0)
MIN_VERSION_REPLICA: Final = (7, 2)  # the first with WAITAOF


async def check(node: RedisNode, durability: Durability, *, is_ephemeral: bool) -> None:
    """Make sure that a server can keep the promises.

    Raises:
        StoreRefused: Naming what it is that it cannot, and how to mend it.
    """
    info = _fields(await node.call("INFO"))
    version = info.get("redis_version", "0.0")
    if _number(version) < MIN_VERSION:
        raise StoreRefused(
            f"{node.address}: version {version} has no functions; upgrade to Redis 7.2 or Valkey 8 or newer"
        )
    policy = info.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        raise StoreRefused(
            f"{node.address}: maxmemory-policy is {policy}, so people would be forgotten silently; "
            "CONFIG SET maxmemory-policy noeviction"
        )
    if is_ephemeral:
        return
    if info.get("aof_enabled") != "1":
        raise StoreRefused(
            f"{node.address}: appendonly is off, so acknowledged events would die with the server; "
            "CONFIG SET appendonly yes, or say --ephemeral"
        )
    if durability == "disk":
        await _check_sync(node, durability)
    if durability == "replica" and _number(version) < MIN_VERSION_REPLICA:
        raise StoreRefused(
            f"{node.address}: durability 'replica' needs WAITAOF, which version {version} has not; "
            "upgrade to Redis 7.2 or Valkey 8 or newer, or choose durability 'disk'"
        )


async def _check_sync(node: RedisNode, durability: Durability) -> None:
    _, sync = await node.call("CONFIG", "GET", "appendfsync")
    if sync != b"always":
        raise StoreRefused(
            f"{node.address}: durability '{durability}' needs appendfsync always, it is {sync.decode()}; "
            "CONFIG SET appendfsync always, or choose durability 'process'"
        )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _fields(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
