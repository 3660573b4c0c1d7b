"""The store that a command works on: the one that is configured, or that of a run here; as it was created."""

import asyncio

from deployments import processes
from deployments.config import Config, with_store
from deployments.errors import ConfigError
from features.connect import bulk_of, connect


def with_store_of_run(config: Config, port: int) -> Config:
    """The configuration with the store that is named or has a run on this port; opened, and as it was created.

    Raises:
        ConfigError: If there is none, or it is used under another schema.
    """
    return asyncio.run(_opened(named_store(config, port)))


def named_store(config: Config, port: int) -> Config:
    """The configuration, with the store that the run on this port has if none is given.

    Raises:
        ConfigError: If nothing runs there.
    """
    if config.store.url:
        return config
    record = processes.read_record(port)
    if record is None or processes.is_stale(record):
        message = f"nothing runs on port {port}, and neither HEADRACE_REDIS_URL nor [store] names a store"
        raise ConfigError(message)
    return with_store(config, url=record.redis_url)


async def as_created(config: Config) -> Config:
    """The configuration with what was fixed when the store was created; that of a fresh one stays as it is.

    Raises:
        ConfigError: If the store is used under another schema.
    """
    bulk = bulk_of(config.store)
    try:
        settings = await bulk.settings()
    finally:
        await bulk.close()
    mine = f"{config.schema.fingerprint:016x}"
    if settings.get("schema", mine) != mine:
        raise ConfigError(f"the store is used under schema {settings['schema']}, not {mine}: give its --config")
    if not settings:
        return config
    return with_store(config, clock=settings["clock"], n_partitions=int(settings["n_partitions"]))


async def _opened(config: Config) -> Config:
    """The configuration as the store was created; a fresh store is, by this."""
    config = with_store(await as_created(config), ephemeral=True)  # whether it keeps things is for who acknowledges
    store = connect(config.store, config.schema)
    try:
        await store.open()
    finally:
        await store.close()
    return config
