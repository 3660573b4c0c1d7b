"""What lies between two passes: files of rows that belong to different shards, from which each shard is read by itself.

    piece   shard 0 | shard 0 | shard 1 | shard 3 …      Arrow IPC, batches of bounded size, rows of a shard in order

A file appears whole or not at all, under a name that says what it was made of; so what is there is right, whoever made
it, and is not made again. Works in a folder as in a bucket; who spreads over several machines needs one they share.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from features.event_files import folder_of
from features.whole_files import whole_file

INDEX: Final = b"batches"
TIME: Final = "at_ms"  # of what has an order
OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


class Part(NamedTuple):
    """A batch of a piece, on its way to being read."""

    first_ms: int
    """Time of its first row; 0 for what has no time."""
    n_rows: int
    read: Callable[[], pa.RecordBatch]


class Folder:
    """Files of a run, by name; a folder, or the URL of a bucket's folder, which is made if it is not there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = folder_of(url)
        self._fs.create_dir(self._path, recursive=True)

    def names(self) -> set[str]:
        """Every file that is whole."""
        found = self._fs.get_file_info(fs.FileSelector(self._path))
        return {info.base_name for info in found if not info.base_name.startswith(".")}

    @contextmanager
    def whole(self, name: str) -> Iterator[pa.NativeFile]:
        """A file to write, which gets its name when the block has gone well."""
        with whole_file(self._fs, self._at(name)) as file:
            yield file

    def write(self, name: str, data: bytes) -> None:
        """Make a file of this content."""
        with self.whole(name) as file:
            file.write(data)

    def read(self, name: str) -> bytes:
        """A file's content."""
        with self._fs.open_input_file(self._at(name)) as file:
            return bytes(file.read())

    def write_piece(self, name: str, table: pa.Table, shard_E: NDArray[np.integer[Any]], n_rows: int) -> None:
        """Make a file of rows in batches of one shard each.

        Args:
            shard_E: Of each row; the rows of a shard keep their order.
            n_rows: In a batch, at most.
        """
        order = np.argsort(shard_E, kind="stable")
        table, shard_E = table.take(pa.array(order)).combine_chunks(), shard_E[order]
        shards, first = np.unique(shard_E, return_index=True)
        cuts = zip(shards.tolist(), first.tolist(), [*first.tolist(), len(order)][1:], strict=True)
        parts = [(shard, at, min(n_rows, end - at)) for shard, begin, end in cuts for at in range(begin, end, n_rows)]
        ms = table[TIME] if TIME in table.column_names else np.zeros(len(order), dtype=np.int64)
        index = msgspec.json.encode([(shard, int(ms[at]), n) for shard, at, n in parts])
        table = table.replace_schema_metadata({INDEX: index})
        with self.whole(name) as file, pa.ipc.new_file(file, table.schema, options=OPTIONS) as writer:
            for _, at, n in parts:
                writer.write_table(table.slice(at, n))

    def read_piece(self, name: str, shard: int) -> Iterator[pa.RecordBatch]:
        """The rows of a shard, batch by batch."""
        return (part.read() for part in self.parts(name, shard))

    def parts(self, name: str, shard: int) -> list[Part]:
        """The batches of a shard."""
        with self._fs.open_input_file(self._at(name)) as file, pa.ipc.open_file(file) as reader:
            index = msgspec.json.decode(reader.schema.metadata[INDEX], type=list[tuple[int, int, int]])
        return [
            Part(first_ms, n_rows, partial(self._read_batch, name, number))
            for number, (other, first_ms, n_rows) in enumerate(index)
            if other == shard
        ]

    def read_column(self, name: str, column: str) -> Iterator[pa.Array]:
        """One column of all rows, without the others."""
        with self._fs.open_input_file(self._at(name)) as file:
            with pa.ipc.open_file(file) as reader:
                only = pa.ipc.IpcReadOptions(included_fields=[reader.schema.get_field_index(column)])
            with pa.ipc.open_file(file, options=only) as reader:
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number).column(0)

    def _read_batch(self, name: str, number: int) -> pa.RecordBatch:
        with self._fs.open_input_file(self._at(name)) as file, pa.ipc.open_file(file) as reader:
            return reader.get_batch(number)

    def forget(self, prefix: str) -> None:
        """Remove the files whose names begin so."""
        for name in self.names():
            if name.startswith(prefix):
                self._fs.delete_file(self._at(name))

    def delete(self) -> None:
        """Remove all of it."""
        self._fs.delete_dir(self._path)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"
