"""A cluster that wants TLS and a user with no more rights than needed."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from features.embedded_cluster import EmbeddedCluster
from features.errors import StoreRefused, StoreUnavailable
from features.keys import digest
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.store import erasure_record
from tests.features.examples import KEYS, SCHEMA, applied, click, erasure, log_of
from tests.features.test_store_contract import Listening, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of its for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=server -addext subjectAltName=IP:127.0.0.1 "
        "-keyout server.key -out server.csr",
        "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy "
        "-out server.crt",
    ):
        subprocess.run([openssl, *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster that listens with TLS too, and knows a user `headrace` with the rights that README names."""
    cluster = EmbeddedCluster(tls=certificates, binary=_server_with_tls(tmp_path_factory.mktemp("server")))
    with cluster:
        for server in cluster.servers:
            cluster.say(server, "ACL", "SETUSER", *_rights())
        yield cluster


def _server_with_tls(folder: Path) -> Path:
    """Debian's server; its tool for dumps is the same program under another name, and begins no service."""
    found = shutil.which("redis-check-rdb")
    if found is None:
        pytest.skip("no server with TLS: install redis-tools")
    (folder / "redis-server").symlink_to(Path(found).resolve())
    return folder / "redis-server"


def _rights() -> list[str]:
    """The line of README that gives a user what it needs, with a password."""
    (line,) = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("ACL SETUSER headrace")
    ]
    return [word.replace("PASSWORD", "secret") for word in line.split()[2:]]


def _url(cluster: EmbeddedCluster, account: str = "headrace:secret@") -> str:
    return cluster.url.replace("://", f"://{account}")


@asynccontextmanager
async def _following(store: RedisStore, listening: Listening) -> AsyncIterator[None]:
    """Within, a listener is told of rows."""
    following = asyncio.create_task(store.follow_rows(listening))
    try:
        await until(lambda: listening.heard_s > 0)
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])


async def test_a_user_with_the_rights_that_readme_names_can_do_everything_over_tls(guarded: EmbeddedCluster) -> None:
    store = RedisStore(_url(guarded), SCHEMA, keys=KEYS)
    await store.open()
    results = await applied(store, *(click(f"u{n}", f"i{n}", id=f"e{n}") for n in range(40)))
    assert len(await log_of(store)) == len(results) == 40
    assert len(await store.heads()) == KEYS.n_partitions
    listening = Listening()
    async with _following(store, listening):
        await store.commit_rows(KEYS.item_partition("a"), {"a": b"row"}, expected={}, reached={})
        await until(lambda: listening.items == ["a"])
    assert (await store.read(["nobody"], ["a"])) == ([b""], [b"row"])
    assert await store.projected() == [{}] * KEYS.n_partitions
    assert await store.log_bytes() > 0
    await _erase(store, RedisBulk(_url(guarded), keys=KEYS))
    await store.trim(await store.heads())
    assert await store.now_ms() > 0 and await log_of(store) == []
    await store.close()


async def _erase(store: RedisStore, bulk: RedisBulk) -> None:
    """Whoever is in the log, so that a partition has some entries, and one none."""
    (made,) = await applied(store, erasure_record(erasure("u1"), KEYS, "e1"))
    noted = (await bulk.erasing())["e1"]
    entries = await log_of(store)
    for partition in range(KEYS.n_partitions):
        ids = [entry.id for entry in entries if entry.partition == partition]
        await bulk.drop_entries(partition, ids[partition > 0 :], [digest("u1", "e1")])
    await bulk.end_erasing("e1", noted, made.id.ms)
    assert len(await log_of(store)) == KEYS.n_partitions - 1 and await bulk.erasing() == {}
    await bulk.close()


async def test_the_same_rights_let_replicas_confirm() -> None:
    with EmbeddedCluster(("--appendfsync", "always")) as cluster:
        for server in cluster.servers:
            cluster.say(server, "ACL", "SETUSER", *_rights())
        store = RedisStore(_url(cluster), SCHEMA, keys=KEYS, durability="replica")
        await store.open()
        await applied(store, *(click(f"u{n}", id=f"e{n}") for n in range(40)))
        await store.close()


async def test_over_tls_a_lost_master_is_replaced_too(guarded: EmbeddedCluster) -> None:
    store = RedisStore(_url(guarded), SCHEMA, keys=KEYS, timeout_s=1.0)
    await applied(store, click())
    lost = guarded.masters()[2]
    lost.kill()
    guarded.wait_until_replaced(lost)
    async with asyncio.timeout(10):
        while any(
            isinstance(result, StoreUnavailable) for result in await store.apply([click(f"u{n}") for n in range(9)])
        ):
            await asyncio.sleep(0.01)
    lost.start()
    await store.close()


async def test_who_is_not_let_in_is_told_so(guarded: EmbeddedCluster) -> None:
    wrong = RedisStore(_url(guarded, "headrace:wrong@"), SCHEMA, keys=KEYS)
    with pytest.raises(StoreRefused, match="give user and password"):
        await wrong.open()
    stranger = RedisStore(guarded.url.partition("?")[0], SCHEMA, keys=KEYS)
    with pytest.raises(StoreUnavailable, match="certificate"):
        await stranger.open()
    await wrong.close()
    await stranger.close()
