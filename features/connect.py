"""Where the store is and what it promises: the one description that every process of a deployment opens it from."""

from dataclasses import dataclass, field
from typing import Literal

from features.durability import Durability
from features.errors import SchemaError
from features.keys import Keys
from features.redis_access import RedisAccessStore
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.schema import Schema
from features.store_files import StoreFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """How to reach the store. Partitions and clock are fixed when a store is created."""

    url: str = field(repr=False)
    """`redis://[user:password@]host:port/db`, `rediss://` for TLS; of a cluster some servers, with commas between."""
    n_partitions: int = 64
    """Log partitions, and item partitions; bounds how far a store can be spread over a Redis Cluster."""
    clock: Literal["wall", "event"] = "wall"
    """`event`: log time is event time, so that history can be lived through."""
    dedupe_window_s: float = 3600.0
    """How long an event id is remembered; costs 80 bytes an event."""
    durability: Durability = "process"
    """What an acknowledged event survives; see `features.durability`."""
    ephemeral: bool = False
    """Accept a server that keeps nothing on disk."""
    timeout_s: float = 2.0
    """After this an answer of the store counts as lost."""
    archive: str = ""
    """Folder or bucket URL that the log is archived to all the time; empty: it is not."""
    archive_keep_days: float = 0.0
    """How long entries stay in that archive, in log time, and until everybody has read them; 0: for ever."""
    forget_idle_days: float = 0.0
    """People who have done nothing for so long are erased, as if they had asked for it; 0: nobody is."""
    log_max_bytes: int = 0
    """Memory that the log may take: then entries that are archived go, whoever has still to read them, and if that does
    not help events are refused. 0: as much as the server has."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_partitions <= 4096:
            raise SchemaError(f"store.n_partitions: expected 1 to 4096, got {self.n_partitions}")
        for name in ("archive_keep_days", "forget_idle_days"):
            if not 0 <= getattr(self, name) <= 1e5:
                raise SchemaError(f"store.{name}: expected 0 to 100000, got {getattr(self, name)}")
        if self.archive_keep_days and not self.archive:
            raise SchemaError("store.archive_keep_days: expected [store] archive, which it is about, or 0")
        if self.log_max_bytes < 0:
            raise SchemaError(f"store.log_max_bytes: expected 0 or more, got {self.log_max_bytes}")
        if self.dedupe_window_s <= 0:
            raise SchemaError(f"store.dedupe_window_s: expected positive seconds, got {self.dedupe_window_s}")


def connect(config: StoreConfig, schema: Schema, *, timeout_s: float | None = None) -> RedisStore:
    """A store that is not opened yet; `await open()` it, or let the first command find the server."""
    store = RedisStore(
        config.url,
        schema,
        keys=Keys(n_partitions=config.n_partitions),
        clock=config.clock,
        dedupe_window_s=config.dedupe_window_s,
        timeout_s=config.timeout_s if timeout_s is None else timeout_s,
        durability=config.durability,
        ephemeral=config.ephemeral,
    )
    store.limit_log(config.log_max_bytes)
    return store


def bulk_of(config: StoreConfig) -> RedisBulk:
    """What concerns all of the store."""
    keys = Keys(n_partitions=config.n_partitions)
    return RedisBulk(config.url, keys=keys, dedupe_window_s=config.dedupe_window_s)


def access_of(config: StoreConfig) -> RedisAccessStore:
    """API keys, and what was done with them."""
    return RedisAccessStore(config.url, keys=Keys(n_partitions=config.n_partitions), timeout_s=config.timeout_s)


def files_of(config: StoreConfig) -> StoreFiles:
    """Files kept in the store."""
    return StoreFiles(config.url, keys=Keys(n_partitions=config.n_partitions), timeout_s=config.timeout_s)
