"""How far a catalogue has been loaded, kept so that the same command goes on where an interrupted one stopped.

After every batch, in this order: the rows that were rejected go to their file, then the count of settled rows to the
state file. Whoever goes on cuts the file of rejected rows to the length that the state names: nothing stands there
twice. The state holds for one file as it was, one server and one way to read; anything else begins anew. A whole load
leaves no state behind.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec
import xxhash

from deployments import processes
from deployments.errors import ConfigError
from features.catalogue import Rejected, encode


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is loaded where: a state holds for no other."""

    path: str
    size_bytes: int
    mtime_ns: int
    url: str
    rejected_path: str
    reading: str
    """Schema, format and separator of tags: what else decides what a row means."""

    @classmethod
    def of(cls, path: Path, url: str, rejected_path: Path, reading: str) -> Self:
        """Describe a load by the file as it is now."""
        status = path.stat()
        return cls(
            path=str(path.resolve()),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            url=url,
            rejected_path=str(rejected_path.resolve()),
            reading=reading,
        )


class Tally(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What became of the rows so far."""

    n_rows: int = 0
    """Settled, from the first on: loaded, rejected, or said again by a later row of the same request."""
    n_rejected: int = 0
    n_repeated: int = 0
    rejected_bytes: int = 0
    """Length of the file of rejected rows."""
    first_rejection: str = ""

    @property
    def n_loaded(self) -> int:
        """Rows whose item is durable as they say."""
        return self.n_rows - self.n_rejected - self.n_repeated


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    load: Load
    tally: Tally


class StateFile:
    """Where the tally of an unfinished load is kept, one for each file and server."""

    def __init__(self, load: Load) -> None:
        self._load = load
        name = xxhash.xxh3_64_hexdigest(f"{load.path} {load.url}".encode())
        self._path = processes.home() / "items" / f"{name}.json"

    def read(self) -> Tally:
        """The tally to go on from; an empty one if there is none for this load."""
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except (FileNotFoundError, msgspec.DecodeError):
            return Tally()
        return state.tally if state.load == self._load else Tally()

    def write(self, tally: Tally) -> None:
        """Keep the tally, in one step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        half = self._path.with_suffix(f".{os.getpid()}.tmp")
        half.write_bytes(msgspec.json.encode(_State(self._load, tally)))
        half.replace(self._path)

    def remove(self) -> None:
        """Forget the load: it is whole."""
        self._path.unlink(missing_ok=True)


class RejectedFile:
    """Rejected rows with reasons, an object a line; without any there is no file.

    Args:
        kept_bytes: How much of it stays; 0: none.
    Raises:
        ConfigError: If it cannot be written.
    """

    def __init__(self, path: Path, kept_bytes: int) -> None:
        self._path = path
        try:
            self._file = path.open("ab")
            self.n_bytes = min(kept_bytes, self._file.tell())  # somebody may have taken it away
            self._file.truncate(self.n_bytes)
        except OSError as error:
            raise ConfigError(f"--rejected {path}: {error}") from None

    def write(self, rows: Iterable[Rejected]) -> None:
        """Append rows."""
        for row in rows:
            shown = {"row": row.number, "reason": row.reason, "column": row.column or None, "data": row.values}
            self.n_bytes += self._file.write(encode(shown) + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.n_bytes == 0:
            self._path.unlink(missing_ok=True)
