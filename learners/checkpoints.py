"""Durable commits: one file a version, and now and then one that holds everything.

    v0000000041.delta   what version 41 changed on top of 40
    v0000000060.full    version 60 whole; what lies before it is dropped when the next one is written

Files appear under a temporary name and are moved into place, so a reader never meets half of one; each carries its own
checksum (`snapshots.pack`). A file that is corrupt all the same is skipped by name, and with it whatever stands on it.

The folder is a path or a bucket URL, through `pyarrow.fs`.
"""

import logging
from pathlib import PurePosixPath
from typing import Final

from pyarrow import fs

from features.schema import Schema
from learners import snapshots
from learners.errors import LearnerError
from learners.snapshots import Delta

FULL_EVERY: Final = 60  # versions; bounds both the files to read at start and the bytes written again

logger = logging.getLogger(__name__)


class Checkpoints:
    """The durable versions of one lineage."""

    def __init__(self, folder: str, schema: Schema) -> None:
        self._schema = schema
        self._fs: fs.FileSystem = fs.LocalFileSystem()
        self._folder = folder
        if "://" in folder:
            self._fs, self._folder = fs.FileSystem.from_uri(folder)
        self._fs.create_dir(self._folder, recursive=True)
        self._last_full = max(self._numbers("full"), default=0)

    def write(self, packed: bytes, version: int) -> None:
        """Make one packed delta (or first snapshot) durable."""
        self._put(f"v{version:010d}.delta", packed)

    def compact(self, full: Delta) -> None:
        """Write the whole state if it is time to, and drop what the one before it no longer needs."""
        if full.version - self._last_full < FULL_EVERY:
            return
        self._put(f"v{full.version:010d}.full", snapshots.pack(full))
        kept, self._last_full = self._last_full, full.version
        for kind in ("delta", "full"):
            for number in self._numbers(kind):
                if number < kept or (kind == "delta" and number == kept):
                    self._fs.delete_file(self._path(f"v{number:010d}.{kind}"))

    def load(self) -> Delta | None:
        """The newest version that can be put together from sound files; None if there is none.

        Deltas beyond it stand on something unreadable: they are dropped, lest a later version be built on them.
        """
        loaded: Delta | None = None
        for number in sorted(self._numbers("full"), reverse=True):
            loaded = self._read(f"v{number:010d}.full")
            if loaded is not None:
                break
        loaded = self._roll_forward(loaded)
        for number in self._numbers("delta"):
            if number > (loaded.version if loaded else 0):
                logger.warning("checkpoint v%010d.delta is dropped: the version before it can't be read", number)
                self._fs.delete_file(self._path(f"v{number:010d}.delta"))
        return loaded

    def _roll_forward(self, full: Delta | None) -> Delta | None:
        version = full.version if full else 0
        for number in sorted(n for n in self._numbers("delta") if n > version):
            delta = self._read(f"v{number:010d}.delta") if number == version + 1 else None
            if delta is None:
                break
            full = delta if full is None else snapshots.merge(full, delta)
            version = number
        return full

    def _read(self, name: str) -> Delta | None:
        try:
            with self._fs.open_input_file(self._path(name)) as file:
                delta = snapshots.unpack(file.read())
            snapshots.check_schema(delta, self._schema)
        except (LearnerError, FileNotFoundError) as error:
            logger.warning("checkpoint %s is skipped: %s", name, error)
            return None
        return delta

    def _put(self, name: str, data: bytes) -> None:
        temporary = self._path(f".{name}.tmp")
        with self._fs.open_output_stream(temporary) as file:
            file.write(data)
        self._fs.move(temporary, self._path(name))

    def _numbers(self, kind: str) -> list[int]:
        found = self._fs.get_file_info(fs.FileSelector(self._folder))
        names = [PurePosixPath(info.path).name for info in found]
        return [int(name[1:11]) for name in names if name.startswith("v") and name.endswith(f".{kind}")]

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
