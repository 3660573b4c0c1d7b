"""Looks for ids in everything that is kept: every byte of a store, of files, and of what is packed in them.

For tests of erasures, also against a running cluster: `traces_in_servers` needs addresses alone.
"""

import gzip
import lzma
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from tests.features.examples import masters_of


def traces_in_store(store: MemoryStore | RedisStore, ids: Sequence[str]) -> list[str]:
    """Where these ids are, in words; empty if they are nowhere."""
    if isinstance(store, RedisStore):
        return traces_in_servers(masters_of(store), ids)
    kept = {name: value for name, value in vars(store).items() if name not in {"schema", "keys"}}
    return [f"{name}: {id}" for name, value in kept.items() for id in ids if id in _told(value)]


def traces_in_servers(addresses: Iterable[str], ids: Sequence[str]) -> list[str]:
    """The same for Redis servers: names of keys, values as they are packed, and streams as they are read."""
    found = []
    for address in addresses:
        with redis.Redis.from_url(address if "://" in address else f"redis://{address}", protocol=2) as client:
            compressed = client.config_get("rdbcompression")["rdbcompression"]
            client.config_set("rdbcompression", "no")  # else DUMP would hide what it holds
            for key in client.scan_iter(count=1000):
                found += [f"{key!r}: {id}" for id in ids if _is_in(id, _bytes_of(client, key))]
            client.config_set("rdbcompression", compressed)
    return found


def traces_in_files(root: Path, ids: Sequence[str]) -> list[str]:
    """Every file below a folder, hidden ones too: its bytes, its name, and of Parquet what it says."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return [f"{path}: {id}" for path in files for id in ids if _is_in(id, _contents(path))]


def _bytes_of(client: redis.Redis, key: bytes) -> Iterator[bytes]:
    yield key
    yield client.dump(key) or b""
    kind = client.type(key)
    if kind == b"string":
        yield client.get(key) or b""
    elif kind == b"hash":
        yield from (part for pair in client.hgetall(key).items() for part in pair)
    elif kind == b"set":
        yield from client.smembers(key)
    elif kind == b"stream":
        yield from (part for _, fields in client.xrange(key) for pair in fields.items() for part in pair)
    elif kind == b"list":
        yield from client.lrange(key, 0, -1)
    elif kind == b"zset":
        yield from client.zrange(key, 0, -1)
    elif kind != b"none":  # which has gone since it was listed
        raise AssertionError(f"{key!r} is a {kind!r}, which nobody here can read")


def _contents(path: Path) -> Iterator[bytes]:
    raw = path.read_bytes()
    yield str(path).encode()
    yield raw
    if path.suffix == ".parquet" or raw[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(raw))
        for column in table.columns:
            yield from (_told(value).encode(errors="replace") for value in column.to_pylist())
            yield from (value for value in column.to_pylist() if isinstance(value, bytes))
        yield repr(pq.ParquetFile(pa.BufferReader(raw)).metadata.metadata).encode()
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif raw[:6] == b"\xfd7zXZ\0":
        yield lzma.decompress(raw)


def _is_in(id: str, parts: Iterable[bytes]) -> bool:
    return any(id.encode() in part for part in parts)


def _told(value: Any) -> str:
    """All of a value of Python as text, ids in bytes too."""
    return repr(value)
