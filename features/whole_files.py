"""Files that appear whole or not at all, in a folder as in a bucket."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs


@contextmanager
def whole_file(system: fs.FileSystem, path: str, *, is_synced: bool = False) -> Iterator[pa.NativeFile]:
    """A file to write, which gets its name when the block has gone well, in place of any other of that name.

    Args:
        is_synced: When the block has ended the file outlives a loss of power; buckets promise that by themselves.
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
    is_synced = is_synced and isinstance(system, fs.LocalFileSystem)
    try:
        with system.open_output_stream(temporary) as file:
            yield file
        if is_synced:
            _sync(temporary)
        system.move(temporary, path)
    except BaseException:
        with suppress(OSError):
            system.delete_file(temporary)
        raise
    if is_synced:
        _sync(folder)


def make_folder(system: fs.FileSystem, path: str, root: str) -> None:
    """Make a folder; up to `root`, which holds it, its name outlives a loss of power."""
    system.create_dir(path, recursive=True)
    if isinstance(system, fs.LocalFileSystem):
        for above in Path(path).parents:
            _sync(str(above))
            if above == Path(root).parent:
                break


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
