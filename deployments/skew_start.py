"""Where a check of skew can begin: where rows and states are known.

That is the beginning of the log, if nothing of it is gone. Else it is the last version but one that the hub wrote
whole, one to two minutes old while something is learned: it has the learner's item rows at its log positions, so what
comes after it is exact, and decisions before it are not judged. Rows of now would be newer than every decision. Where
somebody was erased, what is folded from before that lacks what rows have that were served.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from features.connect import StoreConfig, files_of
from features.events import START, Positions, StreamId
from features.item_table import ItemTable
from features.schema import Schema
from learners.checkpoints import Checkpoints, Files
from learners.folder_files import FolderFiles


@dataclass(frozen=True, slots=True)
class Start:
    """From where the log is folded."""

    positions: Positions
    table: ItemTable | None = None
    """Rows at these positions; None: there is nothing before."""
    what: str = "the beginning of the log"

    @property
    def ms(self) -> int:
        """Log time of the positions."""
        return max((at.ms for at in self.positions.values()), default=0)


async def whole_version(store: StoreConfig, schema: Schema, folder: str, erased: Positions) -> Start | None:
    """The last version but one that was written whole, or the last; None if there is none, or it is too old.

    Args:
        folder: Of durable versions; empty: in the store.
        erased: Up to where entries were erased: it has to stand there, or later.
    """
    async with _files(store, folder) as files:
        version = await Checkpoints(files, schema).before_last()
    if version is None or version.private is None:
        return None
    positions = {partition: StreamId(*at) for partition, at in version.progress.positions.items()}
    if any(positions.get(partition, START) < at for partition, at in erased.items()):
        return None
    items = version.private.items
    table = ItemTable(schema, len(items) + 2)
    table.load(list(items), list(items.values()))
    return Start(positions, table, f"version {version.version}")


@asynccontextmanager
async def _files(store: StoreConfig, folder: str) -> AsyncIterator[Files]:
    if folder:
        yield FolderFiles(folder)
        return
    files = files_of(store)
    try:
        yield files
    finally:
        await files.close()
