"""Whenever a hub is killed while it writes, what it has acknowledged is there, whole, and nothing is in the way.

The kills are SIGKILL, at moments that follow from a seed and from what the writer tells: into a random file, after a
random part of the time that such a file takes. `pytest -rP` shows what they fell into.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
import redis

from features.embedded import EmbeddedServer
from features.keys import Keys
from features.store_files import StoreFiles
from learners import checkpoints, snapshots
from learners.checkpoints import N_KEPT, Checkpoints, Files
from learners.folder_files import FolderFiles
from learners.snapshots import Delta, Rows, Upkeep
from tests.learners.checkpoint_writer import FULL_EVERY, SCHEMA, delta_of, write_on
from tests.waiting import eventually

N_KILLS: Final = 100
SERVER_TOO: Final = 10  # of so many kills one is of the server as well
SEED: Final = 20_261
ANSWER_S: Final = 30.0
TARGETS: Final = {"delta": 0.5, "full": 0.35, "-": 0.15}
"""Files that a kill is aimed at, and how often; `-` is one that is deleted."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Writers:
    """One writer after the other, each killed while it writes; see the program."""

    def __init__(self, where: str, n_rows: int, seed: int) -> None:
        command = [sys.executable, "-m", "tests.learners.checkpoint_writer", where, str(n_rows)]
        self._warm = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._rng = np.random.default_rng(seed)
        self._said = b""
        self._began_s = 0.0
        self._took_s: dict[str, list[float]] = defaultdict(lambda: [1e-3])
        self.under_way = ""
        """The file that was begun and is not ended."""
        self.begun = self.acknowledged = 0
        """The newest version that ever was."""

    def run_and_kill(self, kill_more: Callable[[], None]) -> str:
        """Have a writer go on where the one before ended, and kill it; the kind of file it was at, or nothing."""
        self._send("write")
        _, pid = self._hear()
        target, n_more = str(self._rng.choice(list(TARGETS), p=list(TARGETS.values()))), int(self._rng.integers(3))
        while n_more >= 0:
            what, file = self._hear()
            n_more -= what == "begin" and kind_of(file) == target
        moment_s = self._began_s + self._rng.random() * self.typical_s(target)
        while self._hear(moment_s)[0]:
            pass
        kill_more()
        os.kill(int(pid), signal.SIGKILL)
        self._send("reap")
        while self._hear()[0] != "reaped":
            pass
        fell_in, self.under_way = kind_of(self.under_way), ""
        return fell_in

    def typical_s(self, kind: str) -> float:
        """What such a file takes."""
        return float(np.median(self._took_s[kind]))

    def close(self) -> None:
        """End them all: who tells what nobody hears dies of it."""
        self._warm.stdout.close()
        self._warm.stdin.close()
        self._warm.wait(ANSWER_S)

    def _send(self, what: str) -> None:
        self._warm.stdin.write(f"{what}\n".encode())

    def _hear(self, until_s: float | None = None) -> tuple[str, str]:
        """What is told next, and of what; nothing if it is not told by then."""
        while b"\n" not in self._said:
            wait_s = ANSWER_S if until_s is None else max(until_s - time.monotonic(), 0.0)
            if not select.select([self._warm.stdout], [], [], wait_s)[0]:
                assert until_s is not None, f"the writer told nothing for {ANSWER_S:g} s"
                return "", ""
            said = self._warm.stdout.read(4096)
            assert said, "the writers' program has ended"
            self._said += said
        line, _, self._said = self._said.partition(b"\n")
        what, _, file = line.decode().partition(" ")
        self._take_note(what, file)
        return what, file

    def _take_note(self, what: str, file: str) -> None:
        if what == "begin":
            self.under_way, self._began_s = file, time.monotonic()
            if kind_of(file) == "delta":
                self.begun = int(file[1:11])
        elif what == "end":
            self.under_way = ""
            self._took_s[kind_of(file)].append(time.monotonic() - self._began_s)
            if kind_of(file) == "delta":
                self.acknowledged = int(file[1:11])


def kind_of(file: str) -> str:
    """`delta`, `full`, `-` for one that is deleted, nothing for none."""
    return "-" if file.startswith("-") else file.rpartition(".")[2]


class Expected:
    """What versions are, in the plainest way: each laid over the one before."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows, self._full = n_rows, delta_of(1, n_rows)

    def at(self, version: int) -> Delta:
        """A version whole; none before one that was asked for."""
        while self._full.version < version:
            self._full = laid_over(self._full, delta_of(self._full.version + 1, self._n_rows))
        assert self._full.version == version
        return self._full


def laid_over(full: Delta, delta: Delta) -> Delta:
    before, after = full.tables["item"], delta.tables["item"]
    n_rows = int(after.rows.max()) + 1

    def rows(get: Callable[[Any], np.ndarray]) -> np.ndarray:
        made = np.zeros((n_rows, *get(after).shape[1:]), get(after).dtype)
        made[before.rows], made[after.rows] = get(before), get(after)
        return made

    counts = before.upkeep.counts.copy()
    counts[after.upkeep.places] = after.upkeep.counts
    upkeep: Upkeep = msgspec.structs.replace(
        after.upkeep,
        accumulators=rows(lambda table: table.upkeep.accumulators),
        uses=rows(lambda table: table.upkeep.uses),
        met_s=rows(lambda table: table.upkeep.met_s),
        places=before.upkeep.places,
        counts=counts,
    )
    values = rows(lambda table: table.values)
    table = Rows(rows(lambda table: table.rows), rows(lambda table: table.keys), values, after.max_rows, upkeep)
    private = msgspec.structs.replace(delta.private, items={**full.private.items, **delta.private.items})
    return msgspec.structs.replace(delta, base=None, tables={"item": table}, private=private)


class Folder:
    """A place where versions are kept: `opened` anew by each who looks."""

    n_rows: Final = 160_000  # of a version: a file takes milliseconds

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Files]:
        """What a hub has that begins now."""
        yield FolderFiles(self.where)

    def left_over(self) -> list[str]:
        """What there is beside whole files."""
        return sorted(path.name for path in Path(self.where).glob(".*"))

    def kill(self, n: int) -> None:
        """As the writer is killed the n-th time; a folder can't be."""


class Store:
    """The same in a store, which is killed as well now and then."""

    n_rows: Final = 6000

    def __init__(self, server: EmbeddedServer) -> None:
        self.where, self._server = server.url, server

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Files]:
        """When the store runs, and has done all that the writer before had sent."""
        self._server.start()
        with redis.Redis.from_url(self.where) as client:
            eventually(lambda: len(client.client_list()) == 1, "the store has noticed that the writer is gone")
        files = StoreFiles(self.where)
        try:
            yield files
        finally:
            await files.close()

    def left_over(self) -> list[str]:
        """Chunks that no name leads to, and notes of such."""
        with redis.Redis.from_url(self.where, decode_responses=True) as client:
            files = client.hgetall(Keys().files())
            chunks = set(client.scan_iter("*:file:*", count=1000))
        whole = {name: entry.split() for name, entry in files.items() if not name.startswith(".")}
        named = {Keys().chunk(token, n) for token, n_chunks in whole.values() for n in range(int(n_chunks))}
        assert named <= chunks
        return sorted(chunks - named) + sorted(files.keys() - whole)

    def kill(self, n: int) -> None:
        """Every so many times."""
        if n % SERVER_TOO == 0:
            self._server.kill()


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder | Store]:
    """Every kind of place, empty; the store syncs what it acknowledges."""
    if request.param == "folder":
        yield Folder(tmp_path)
        return
    with EmbeddedServer(settings=("--appendfsync", "always")) as server:
        yield Store(server)


@pytest.fixture
def writers(place: Folder | Store) -> Iterator[Writers]:
    """Who writes there."""
    made = Writers(place.where, place.n_rows, SEED)
    yield made
    made.close()


async def test_after_a_kill_at_any_moment_all_that_was_acknowledged_is_there_and_nothing_is_in_the_way(
    place: Folder | Store, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that is loaded, as the next hub would, is what it was to the last byte."""
    began_s, version, expected, fell_in = time.monotonic(), 0, Expected(place.n_rows), Counter[str]()
    for n in range(1, N_KILLS + 1):
        fell_in[writers.run_and_kill(partial(place.kill, n))] += 1
        async with place.opened() as files:
            loaded = await Checkpoints(files, SCHEMA).load()
        assert max(version, writers.acknowledged) <= (loaded.version if loaded else 0) <= writers.begun
        assert not place.left_over(), f"after kill {n}"
        if loaded is not None:
            version = loaded.version
            assert snapshots.pack(loaded) == snapshots.pack(expected.at(version)), f"version {version} is another"
    took_s, moments = time.monotonic() - began_s, {kind or "between files": n for kind, n in fell_in.most_common()}
    print(f"{N_KILLS} kills (seed {SEED}) over {version} versions in {took_s:.1f} s; fell into: {moments}")
    print("a file takes, ms:", {kind: round(1e3 * writers.typical_s(kind), 1) for kind in TARGETS})
    assert fell_in["delta"] + fell_in["full"] > N_KILLS / 3 and min(fell_in["delta"], fell_in["full"]) > 5

    monkeypatch.setattr(checkpoints, "FULL_EVERY", FULL_EVERY)
    async with place.opened() as files:  # who is left alone has no more files than if nobody had been killed
        writing = write_on(files, place.n_rows)
        for _ in range(FULL_EVERY):
            version = await anext(writing)
        assert len(await files.names()) <= N_KEPT + 2 * FULL_EVERY
        again = await Checkpoints(files, SCHEMA).load()
    assert again is not None and snapshots.pack(again) == snapshots.pack(expected.at(version))
