"""The log from its archive and from the store, as one: a log that was never trimmed (`features.ticks.Log`).

    position ──── segments ────►│◄──── both ────►│◄──── the store ──── head
                            trimmed         archived

Entries come from the store as long as it has all of them after a position, else from segments, and in the same read
from the store again where these end. Whether it has all of them is asked after each read, since entries may go between
two reads: `trimming`, one small answer, tells up to where they may be gone, and only who is behind that has to ask
`trimmed` what is. Trims are told before they happen, so no answer comes too late.

Who has no position begins with the archive: what went before it began is nobody's loss now.
"""

import asyncio

from features.connect import StoreConfig, bulk_of
from features.errors import LogGap
from features.events import BEYOND, START, Entry, Positions, StreamId
from features.log_files import LogFiles
from features.store import BulkStore, FeatureStore
from features.ticks import Gapless, Log, WholeLog


class DeepLog:
    """A log that goes back to where its archive begins.

    Args:
        store: Where entries are written and trimmed.
        bulk: The same one; it knows what is gone.
        files: The archive, behind which the log is trimmed.
    """

    def __init__(self, store: FeatureStore, bulk: BulkStore, files: LogFiles) -> None:
        self._store = store
        self._bulk = bulk
        self._files = files
        self._gone: Positions | None = None

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """Entries after the positions, as of a store that keeps all of them.

        Raises:
            LogGap: If entries are neither in the store nor in the archive.
            BadFile: If a segment of the archive is damaged.
        """
        if self._gone is None:
            self._gone = await self._bulk.trimmed()
        at = {partition: positions.get(partition, START) for partition in range(self._store.keys.n_partitions)}
        found: dict[int, list[Entry]] = {}
        pending = set(at)
        while pending:
            await self._read_files(pending, at, found, count)
            asked = {p for p in pending if len(found.get(p, ())) < count}
            starts = {partition: position if partition in asked else BEYOND for partition, position in at.items()}
            wait_s = 0.0 if any(found.values()) else block_s
            entries = await self._store.read_log(starts, count=count, block_s=wait_s) if asked else []
            pending = await self._behind(asked, at)
            for entry in entries:
                if entry.partition not in pending:
                    found.setdefault(entry.partition, []).append(entry)
        if not any(self._gone.get(partition, START) > positions.get(partition, START) for partition in at):
            self._files.close()  # nobody is behind: what was read there is not held any longer
        return [entry for lot in found.values() for entry in lot[:count]]

    async def _read_files(self, partitions: set[int], at: Positions, found: dict[int, list[Entry]], count: int) -> None:
        """Read from segments what is gone from the store, and move the positions behind it."""
        assert self._gone is not None
        for partition in partitions:
            gone = self._gone.get(partition, START)
            if gone > at[partition] == START:
                at[partition] = await self._begin(partition, gone)
            if gone > at[partition]:
                lot = await self._read_segments(partition, at[partition], gone, count - len(found.get(partition, ())))
                found.setdefault(partition, []).extend(lot)
                at[partition] = lot[-1].id if lot else max(gone, self._files.reached_of(partition))

    async def _begin(self, partition: int, gone: StreamId) -> StreamId:
        """Where the log begins: with the archive, or without one behind what is gone."""
        if self._files.reached_of(partition) < gone:
            await asyncio.to_thread(self._files.look)
        return self._files.begin_of(partition) or gone

    async def _read_segments(self, partition: int, after: StreamId, gone: StreamId, count: int) -> list[Entry]:
        """Entries of an archive that reaches to what is gone; none if all that come after were erased."""
        if self._files.reached_of(partition) < gone:
            await asyncio.to_thread(self._files.look)
        reached = self._files.reached_of(partition)
        if reached < gone:
            raise LogGap(partition, max(after, reached), gone, f"are gone from the store, and not in {self._files.url}")
        return await asyncio.to_thread(self._files.read, partition, after, count)

    async def _behind(self, partitions: set[int], at: Positions) -> set[int]:
        """Those of which entries after their positions may have gone before they were read."""
        trimming = await self._bulk.trimming()
        if all(trimming.get(partition, START) <= at[partition] for partition in partitions):
            return set()
        self._gone = gone = await self._bulk.trimmed()
        return {partition for partition in partitions if gone.get(partition, START) > at[partition]}

    async def begins(self) -> Positions:
        """Where the log begins; partitions that begin with their first entry are not there."""
        begins = {p: await self._begin(p, gone) for p, gone in (await self._bulk.trimmed()).items()}
        return {partition: at for partition, at in begins.items() if at > START}

    async def now_ms(self) -> int:
        """Log time."""
        return await self._store.now_ms()

    def close(self) -> None:
        """Release the files."""
        self._files.close()


def log_of(config: StoreConfig, store: FeatureStore) -> Log:
    """The log of a deployment: with its archive, if it has one."""
    return DeepLog(store, bulk_of(config), LogFiles(config.archive)) if config.archive else store


def whole_log_of(config: StoreConfig, store: FeatureStore, bulk: BulkStore) -> WholeLog:
    """The same for those who would rather have an error than miss an entry."""
    return DeepLog(store, bulk, LogFiles(config.archive)) if config.archive else Gapless(store, bulk.trimmed)
