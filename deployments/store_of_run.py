"""Which store a command works on that neither serves nor learns: that of the run here, or a named one."""

import asyncio

from deployments import processes
from deployments.config import Config, with_store
from deployments.errors import ConfigError
from features.connect import bulk_of, connect


def with_store_of_run(config: Config, port: int) -> Config:
    """The configuration, with the store that the run on this port has if none is given; and as that was created.

    Raises:
        ConfigError: If there is none, or it is used under another schema.
    """
    if not config.store.url:
        record = processes.read_record(port)
        if record is None or processes.is_stale(record):
            message = f"nothing runs on port {port}, and neither HEADRACE_REDIS_URL nor [store] names a store"
            raise ConfigError(message)
        config = with_store(config, url=record.redis_url)
    return asyncio.run(_opened(config))


async def _opened(config: Config) -> Config:
    """The configuration as the store was created; a fresh store is, by this."""
    bulk = bulk_of(config.store)
    try:
        settings = await bulk.settings()
    finally:
        await bulk.close()
    mine = f"{config.schema.fingerprint:016x}"
    if settings.get("schema", mine) != mine:
        raise ConfigError(f"the store is used under schema {settings['schema']}, not {mine}: give its --config")
    if settings:
        config = with_store(config, clock=settings["clock"], n_partitions=int(settings["n_partitions"]))
    config = with_store(config, ephemeral=True)  # whether it keeps what it has is for who acknowledges events
    store = connect(config.store, config.schema)
    try:
        await store.open()
    finally:
        await store.close()
    return config
