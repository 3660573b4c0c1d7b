"""Files in a folder or a bucket, through `pyarrow.fs`; a reader never meets half of one."""

from pathlib import PurePosixPath

from pyarrow import fs

from features.whole_files import whole_file


class FolderFiles:
    """Files of a folder, which is made if it is not there.

    Args:
        folder: A path, or the URL of a bucket's folder.
    """

    def __init__(self, folder: str) -> None:
        self._fs: fs.FileSystem = fs.LocalFileSystem()
        self._folder = folder
        if "://" in folder:
            self._fs, self._folder = fs.FileSystem.from_uri(folder)
        self._fs.create_dir(self._folder, recursive=True)

    async def names(self) -> list[str]:
        """Every file that is whole.

        Raises:
            OSError: As every method does, if the folder can't be reached.
        """
        return [name for name in self._found() if not name.startswith(".")]

    async def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: If there is none of this name.
        """
        with self._fs.open_input_file(self._path(name)) as file:
            return bytes(file.read())

    async def write(self, name: str, data: bytes) -> None:
        """Make a file of this content, in place of any other of its name."""
        with whole_file(self._fs, self._path(name)) as file:
            file.write(data)

    async def delete(self, name: str) -> None:
        """Have no file of this name."""
        self._fs.delete_file(self._path(name))

    async def sweep(self, prefix: str) -> None:
        """Have nothing left of what somebody died over: files whose names begin so. Nobody may be writing one."""
        for name in self._found():
            if name.startswith(f".{prefix}"):  # as `whole_file` names what is not whole yet
                self._fs.delete_file(self._path(name))

    def _found(self) -> list[str]:
        return [PurePosixPath(info.path).name for info in self._fs.get_file_info(fs.FileSelector(self._folder))]

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
