"""Files kept in the store, for what every node must reach and nobody waits for: a name and bytes, cut into chunks.

A file appears whole or not at all: its chunks are written under a token of their own, then its name is entered with
that token; what the name stood for before goes afterwards. Chunks spread over the servers of a cluster.

As long as there may be chunks that no name leads to, the directory has a note of them. Who dies in between leaves that
too, for `sweep`.
"""

import uuid
from typing import Any, Final

from redis.crc import key_slot

from features.keys import Keys
from features.redis_servers import Addressed, RedisServers
from features.store import all_of

CHUNK_BYTES: Final = 65_536  # a tenth of a millisecond of the server, which answers nobody else meanwhile
NOTE: Final = b"."  # begins a field that is no file's name


class StoreFiles:
    """Files under the keys of a store.

    Args:
        url: As of `RedisServers`.
        timeout_s: After this an answer counts as lost.
    """

    def __init__(self, url: str, *, keys: Keys | None = None, timeout_s: float = 5.0) -> None:
        self._servers = RedisServers(url, timeout_s)
        self._keys = keys or Keys()
        self._directory = self._keys.files()

    async def names(self) -> list[str]:
        """Every file there is.

        Raises:
            FeatureError: As every method does, if the store does not answer.
        """
        fields = await self._call("HKEYS", self._directory)
        return [field.decode() for field in fields if not field.startswith(NOTE)]

    async def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: If there is none of this name, or a chunk of it is missing.
        """
        entry = await self._call("HGET", self._directory, name)
        keys = self._chunks(entry)
        chunks = [await self._call("GET", key) for key in keys]
        if not keys or None in chunks:
            raise FileNotFoundError(f"{self._directory}: {name}")
        return b"".join(chunks)

    async def write(self, name: str, data: bytes) -> None:
        """Make a file of this content, in place of any other of its name."""
        before = await self._call("HGET", self._directory, name)
        entry = f"{uuid.uuid4().hex} {max(1, -(-len(data) // CHUNK_BYTES))}".encode()
        await self._call("HSETNX", self._directory, _note(name, entry), entry)
        for n, key in enumerate(self._chunks(entry)):
            await self._call("SET", key, data[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES])
        replaced = (_note(name, before), before) if before else ()
        await self._call("HSET", self._directory, name, entry, *replaced)
        await self._call("HDEL", self._directory, _note(name, entry))
        await self._drop(name, before)

    async def delete(self, name: str) -> None:
        """Have no file of this name."""
        before = await self._call("HGET", self._directory, name)
        if before:
            await self._call("HSETNX", self._directory, _note(name, before), before)
            await self._call("HDEL", self._directory, name)
            await self._drop(name, before)

    async def sweep(self, prefix: str) -> None:
        """Have nothing left of what somebody died over: files whose names begin so. Nobody may be writing one."""
        found = await self._call("HGETALL", self._directory)
        fields = dict(zip(found[::2], found[1::2], strict=True))
        named = {entry for field, entry in fields.items() if not field.startswith(NOTE)}
        for note, entry in fields.items():
            if note.startswith(NOTE + prefix.encode()):
                if entry not in named:
                    await self._unlink(entry)
                await self._call("HDEL", self._directory, note)

    async def close(self) -> None:
        """Release connections."""
        await self._servers.close()

    async def _drop(self, name: str, entry: bytes | None) -> None:
        """Have the chunks no more that a name led to before, nor the note of them."""
        if entry:
            await self._unlink(entry)
            await self._call("HDEL", self._directory, _note(name, entry))

    async def _unlink(self, entry: bytes) -> None:
        gone: list[Addressed] = [(key_slot(key.encode()), ("UNLINK", key)) for key in self._chunks(entry)]
        all_of(await self._servers.pipeline(gone))

    async def _call(self, name: str, key: str, *arguments: bytes | str | int) -> Any:
        return await self._servers.call(key_slot(key.encode()), name, key, *arguments)

    def _chunks(self, entry: bytes | None) -> list[str]:
        """Keys of the chunks that a directory's entry names."""
        if entry is None:
            return []
        token, n_chunks = entry.decode().split()
        return [self._keys.chunk(token, n) for n in range(int(n_chunks))]


def _note(name: str, entry: bytes) -> bytes:
    """The field that tells of chunks which the name does not lead to: not yet, or not any more."""
    return NOTE + name.encode() + b"." + entry.split()[0]
