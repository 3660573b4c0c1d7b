"""Laws of files in the store, on one server and on a cluster."""

from collections.abc import AsyncIterator

import pytest
import redis

from features.embedded import EmbeddedServer
from features.errors import StoreRefused
from features.store_files import CHUNK_BYTES, StoreFiles


@pytest.fixture(params=["empty_server", "empty_cluster"])
async def files(request: pytest.FixtureRequest) -> AsyncIterator[StoreFiles]:
    """An empty directory."""
    made = StoreFiles(request.getfixturevalue(request.param).url)
    yield made
    await made.close()


@pytest.mark.parametrize("n_bytes", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
async def test_what_was_written_is_read_whatever_its_size(files: StoreFiles, n_bytes: int) -> None:
    data = bytes(n % 251 for n in range(n_bytes))
    await files.write("a", data)
    assert await files.read("a") == data
    assert await files.names() == ["a"]


async def test_a_file_is_replaced_and_deleted_with_all_its_chunks(files: StoreFiles) -> None:
    await files.write("kept", b"kept")
    before = await _keys(files)
    await files.write("a", bytes(3 * CHUNK_BYTES))
    await files.write("a", b"shorter")
    assert await files.read("a") == b"shorter"
    assert len(await _keys(files)) == len(before) + 1
    await files.delete("a")
    await files.delete("a")
    assert await _keys(files) == before
    assert await files.read("kept") == b"kept"


async def test_what_is_not_there_or_not_whole_is_not_found(files: StoreFiles) -> None:
    with pytest.raises(FileNotFoundError):
        await files.read("a")
    await files.write("a", bytes(3 * CHUNK_BYTES))
    (chunk, *_) = [key for key in await _keys(files) if b":file:" in key]
    await files._call("UNLINK", chunk.decode())
    with pytest.raises(FileNotFoundError):
        await files.read("a")


async def test_half_a_file_has_no_name_and_is_swept_away_by_the_name_it_was_to_have(
    empty_server: EmbeddedServer,
) -> None:
    """Whoever writes may write chunks, and no name."""
    with redis.Redis.from_url(empty_server.url) as client:
        client.acl_setuser("half", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hset"])
        whole, half = StoreFiles(empty_server.url), StoreFiles(empty_server.url.replace("://", "://half:x@"))
        await whole.write("a", b"old")
        before = await _keys(whole)
        with pytest.raises(StoreRefused):
            await half.write("a", b"new")
        assert await half.read("a") == await whole.read("a") == b"old"
        await whole.sweep("b")
        assert len(await _keys(whole)) == len(before) + 1
        await whole.sweep("a")
        assert await _keys(whole) == before and await whole.read("a") == b"old"
        await whole.close()
        await half.close()
        client.acl_deluser("half")


async def _keys(files: StoreFiles) -> set[bytes]:
    return {key for keys in await files._servers.each("KEYS", "*") for key in keys}
