"""What replicas get: whoever follows comes to what is published, from wherever; a pin outlives who keeps it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from features.clock import FakeClock
from learners import publishing, snapshots
from learners.editions import Place, heads, parts
from learners.folder_files import FolderFiles
from learners.pinning import PINNED
from learners.publisher import Publisher
from learners.publishing import Publishing
from learners.scorer import Scorer
from learners.snapshots import Delta
from tests.learners.examples import SCHEMA, inputs_of
from tests.learners.test_publisher import CONFIG, UNLIMITED, versions


class World:
    """Versions that are committed, and who publishes them; bytes lie where they are."""

    def __init__(self, folder: Path, origin: str = "here") -> None:
        self.files = FolderFiles(str(folder))
        self.full: Delta | None = None
        self.publishing: Publishing[bytes] = Publishing(
            Publisher(origin, UNLIMITED), bytes, lambda: self.full, FakeClock()
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """As long as it is used."""
        await self.publishing.load(self.files, SCHEMA)
        task = asyncio.create_task(self.publishing.run())
        yield self
        task.cancel()

    def commit(self, delta: Delta) -> None:
        """As the hub does."""
        self.full = delta if self.full is None else snapshots.merge(self.full, delta)
        self.publishing.note(delta)

    async def published(self, version: int) -> None:
        """Wait until replicas get this version."""
        async with asyncio.timeout(10.0):
            while self.publishing.version != version:
                await asyncio.sleep(0)


class Replica:
    """Follows."""

    def __init__(self) -> None:
        self.scorer = Scorer(SCHEMA)
        self.n_editions = 0

    async def follow(self, world: World, through_ms: int = 0) -> dict[str, Any]:
        """One look, and what it brings."""
        news = await world.publishing.follow(self.scorer.place, through_ms, 0.0)
        for head, *rest in news["editions"]:
            for _ in self.scorer.apply(heads.unpack(head), map(parts.unpack, rest)):
                pass
        self.n_editions += len(news["editions"])
        return news


MADE = [(learner, snapshots.pack(delta)) for learner, delta, _ in versions(CONFIG)]
DELTAS = [packed for _, packed in MADE]


async def test_who_follows_each_version_and_who_comes_late_score_the_same(tmp_path: Path) -> None:
    early, late = Replica(), Replica()
    async with World(tmp_path).running() as world:
        for packed in DELTAS[:6]:
            world.commit(snapshots.unpack(packed))
            await world.published(world.full.version if world.full else 0)
            await early.follow(world)
        await late.follow(world)
    assert (early.n_editions, late.n_editions) == (6, 1)
    assert early.scorer.version == late.scorer.version == 6
    inputs = inputs_of(MADE[-1][0])
    assert (early.scorer.score(inputs) == late.scorer.score(inputs)).all()


async def test_who_is_too_far_behind_or_of_another_origin_gets_everything_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "N_EDITIONS", 4)
    behind, foreign = Replica(), Replica()
    async with World(tmp_path / "other", "elsewhere").running() as other:
        other.commit(snapshots.unpack(DELTAS[0]))
        await other.published(1)
        await foreign.follow(other)
    async with World(tmp_path / "this").running() as world:
        for number, packed in enumerate(DELTAS[:7], 1):
            world.commit(snapshots.unpack(packed))
            await world.published(number)
            if number == 1:
                await behind.follow(world)
        for replica in (behind, foreign):
            replica.n_editions = 0
            await replica.follow(world)
    assert behind.n_editions == foreign.n_editions == 1
    assert behind.scorer.place == foreign.scorer.place == Place("here", 7)


async def test_a_pinned_version_stays_whatever_is_committed_and_after_a_restart_until_it_is_resumed(
    tmp_path: Path,
) -> None:
    replica = Replica()
    async with World(tmp_path).running() as world:
        for number, packed in enumerate(DELTAS[:3], 1):
            world.commit(snapshots.unpack(packed))
            await world.published(number)
        first = snapshots.unpack(DELTAS[0])
        await world.publishing.keep_at(first, "ada", "clicks are odd")
        world.commit(snapshots.unpack(DELTAS[3]))
        await replica.follow(world)
        assert replica.scorer.version == world.publishing.version == 1
    again = World(tmp_path, "again")
    again.full = world.full
    async with again.running():
        await replica.follow(again)
        assert (replica.scorer.version, replica.scorer.place.origin) == (1, "again")
        assert again.publishing.described["pinned"]["who"] == "ada"
        await again.publishing.resume("bob", "they were not")
        await again.published(4)
        await replica.follow(again)
    assert replica.scorer.version == 4 and PINNED not in await again.files.names()
    told = [(line["what"], line["first"], line["who"]) for line in again.publishing.history]
    assert told[-3:] == [("rolled back", 1, "ada"), ("resumed", 4, "bob"), ("published", 4, "learner")]


async def test_who_has_the_newest_waits_and_is_woken_by_what_comes(tmp_path: Path) -> None:
    replica = Replica()
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        through_ms = (await replica.follow(world))["trained_through_ms"]
        waiting = asyncio.create_task(world.publishing.follow(replica.scorer.place, through_ms, 60.0))
        await asyncio.sleep(0)
        world.publishing.advance(1, through_ms + 200)
        news = await asyncio.wait_for(waiting, 10.0)
        assert (news["trained_through_ms"], news["editions"]) == (through_ms + 200, [])


async def test_a_pin_that_cannot_be_read_is_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await FolderFiles(str(tmp_path)).write(PINNED, b"HRPINS\x00\x01 torn")
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
    assert PINNED in caplog.text and world.publishing.described["state"] == "live"
