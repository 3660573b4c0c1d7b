"""What replicas get: whoever follows comes to what is published, from wherever; a pin outlives who keeps it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.clock import FakeClock
from features.schema import hash64
from learners import publishing, shelf, snapshots
from learners.editions import Place, heads, parts
from learners.errors import JudgeAway, StaleSnapshot
from learners.folder_files import FolderFiles
from learners.patience import Patience
from learners.pinning import PINNED
from learners.publisher import Publisher
from learners.publishing import Publishing
from learners.scorer import Scorer
from learners.shelf import Shelf
from learners.snapshots import Delta
from learners.verdicts import PASSED, Verdict
from tests.learners.erased import PARTITION, PERSON, SMALL, TRACES, at_erasure, lived
from tests.learners.erased import versions as versions_of
from tests.learners.examples import SCHEMA, inputs_of
from tests.learners.test_publisher import CONFIG, UNLIMITED, versions
from tests.people import in_bytes, in_files, in_value


class FakeJudge:
    """Knows where it is, as a judge does; says what it is told to."""

    def __init__(self) -> None:
        self.place = Place()
        self.is_away = False
        self.verdicts: dict[int, Verdict] = {}
        """By version; those not named pass."""
        self.asked: list[int] = []
        self.followed: list[int] = []
        self.erased: list[tuple[list[int], Place]] = []

    async def weigh(self, edition: Sequence[bytes]) -> Verdict:
        """As a judge."""
        await asyncio.sleep(0)
        if self.is_away:
            raise JudgeAway("gone fishing")
        head = heads.unpack(edition[0])
        if head.base is not None and head.base != self.place:
            raise StaleSnapshot(str(self.place))
        self.asked.append(head.version)
        verdict = self.verdicts.get(head.version, PASSED)
        if not verdict.reasons and not verdict.decline:
            self.place = head.place
        return verdict

    async def follow(self, edition: Sequence[bytes]) -> None:
        """As a judge."""
        head = heads.unpack(edition[0])
        if head.base is not None and head.base != self.place:
            raise StaleSnapshot(str(self.place))
        self.followed.append(head.version)
        self.place = head.place

    async def erase(self, people: Sequence[int], positions: Any, edition: Sequence[bytes]) -> bool:
        """As a judge."""
        if self.is_away:
            raise JudgeAway("gone fishing")
        if edition:
            self.place = heads.unpack(edition[0]).place
        self.erased.append((list(people), self.place))
        return len(self.erased) > 1


class World:
    """Versions that are committed, and who publishes them; bytes lie where they are."""

    def __init__(self, folder: Path, origin: str = "here", max_held: int = 3) -> None:
        self.files = FolderFiles(str(folder))
        self.full: Delta | None = None
        self.judge = FakeJudge()
        self.shelf: Shelf[bytes] = Shelf(Publisher(origin, UNLIMITED), bytes)
        self.publishing = Publishing(self.shelf, self, self.judge, FakeClock(), Patience(max_held))
        self._kept: dict[int, bytes] = {}

    @property
    def version(self) -> int:
        """As a lineage."""
        return self.full.version if self.full else 0

    async def go_back(self, version: int) -> int:
        """As a lineage."""
        full = snapshots.unpack(self._kept[version])
        full.version = self.version + 1
        self.full = full
        self._keep()
        return version

    def _keep(self) -> None:
        assert self.full is not None
        self._kept[self.version] = snapshots.pack(self.full)

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
        self._keep()
        self.publishing.note(delta)

    async def published(self, version: int) -> None:
        """Wait until replicas get this version."""
        await until(lambda: self.shelf.version == version)

    async def judged(self, version: int) -> None:
        """Wait until there is a verdict on this version."""
        await until(lambda: self.judge.asked[-1:] == [version])
        await asyncio.sleep(0)

    def told(self) -> list[tuple[str, int, int, str]]:
        """What became of versions."""
        return [(line["what"], line["first"], line["last"], line["who"]) for line in self.publishing.history]


async def until(check: Callable[[], bool]) -> None:
    """Wait for something that others do on this loop."""
    async with asyncio.timeout(10.0):
        while not check():
            await asyncio.sleep(0)


class Replica:
    """Follows."""

    def __init__(self) -> None:
        self.scorer = Scorer(SCHEMA)
        self.n_editions = 0

    async def follow(self, world: World, through_ms: int = 0) -> dict[str, Any]:
        """One look, and what it brings."""
        news = await world.shelf.follow(self.scorer.place, through_ms, 0.0)
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
    monkeypatch.setattr(shelf, "N_EDITIONS", 4)
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
        assert replica.scorer.version == world.shelf.version == 1
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
    assert again.told()[-3:] == [
        ("rolled back", 1, 1, "ada"),
        ("resumed", 4, 4, "bob"),
        ("published", 4, 4, "learner"),
    ]


async def test_who_has_the_newest_waits_and_is_woken_by_what_comes(tmp_path: Path) -> None:
    replica = Replica()
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        through_ms = (await replica.follow(world))["trained_through_ms"]
        waiting = asyncio.create_task(world.shelf.follow(replica.scorer.place, through_ms, 60.0))
        await asyncio.sleep(0)
        world.shelf.advance(1, through_ms + 200)
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


async def test_what_is_held_is_told_and_comes_with_the_next_that_passes(tmp_path: Path) -> None:
    replica, other = Replica(), Replica()
    async with World(tmp_path).running() as world:
        world.judge.verdicts = {version: Verdict(("it is worse",)) for version in (2, 3)}
        for number, packed in enumerate(DELTAS[:4], 1):
            world.commit(snapshots.unpack(packed))
            await world.judged(number)
            if number == 3:
                held = world.publishing.described
                assert (held["state"], held["live"], held["held"]["version"]) == ("held", 1, 3)
                assert held["held"]["why"] == "it is worse"
            await replica.follow(world)
        assert world.publishing.described["state"] == "live"
        await other.follow(world)
    assert (replica.n_editions, replica.scorer.version) == (2, 4)
    inputs = inputs_of(MADE[-1][0])
    assert (replica.scorer.score(inputs) == other.scorer.score(inputs)).all()
    assert world.told() == [("published", 1, 1, "learner"), ("held", 2, 3, "gate"), ("published", 4, 4, "learner")]


async def test_who_is_held_again_and_again_begins_anew_from_what_answers_and_then_more_patiently(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, max_held=2).running() as world:
        world.judge.verdicts = {version: Verdict(("it is worse",)) for version in (2, 3, *range(5, 9))}
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        first = snapshots.pack(world.full) if world.full else b""
        for packed in DELTAS[1:3]:
            world.commit(snapshots.unpack(packed))
            await world.judged(world.version)
        await world.published(4)  # which is the first one again
        assert world.full is not None
        np.testing.assert_array_equal(world.full.weights, snapshots.unpack(first).weights)
        for packed in DELTAS[1:5]:
            delta = snapshots.unpack(packed)
            delta.base, delta.version = world.version, world.version + 1
            world.commit(delta)
            await world.judged(delta.version)
        await world.published(9)
    assert [line[:3] for line in world.told()] == [
        ("published", 1, 1),
        ("held", 2, 3),
        ("went back", 4, 4),
        ("published", 4, 4),
        ("held", 5, 8),
        ("went back", 9, 9),
        ("published", 9, 9),
    ]


async def test_what_has_declined_goes_back_to_the_anchor_and_stays_there_if_it_happens_again_and_again(
    tmp_path: Path,
) -> None:
    async with World(tmp_path).running() as world:
        worse = Verdict(decline="worse than the anchor by much", anchor=1)
        for packed in DELTAS[:3]:
            world.commit(snapshots.unpack(packed))
            await world.published(world.version)
        for _ in range(3):
            version = world.version + 1
            world.judge.verdicts[version] = worse
            delta = snapshots.unpack(DELTAS[3])
            delta.base, delta.version = version - 1, version
            world.commit(delta)
            await world.published(version + 1)
        assert world.full is not None and world.publishing.pin is not None
        assert world.publishing.pin.who == "anchor" and world.publishing.described["state"] == "pinned"
        np.testing.assert_array_equal(world.full.weights, snapshots.unpack(DELTAS[0]).weights)
        await world.publishing.resume("ada", "it was the learner")
    assert [line[0] for line in world.told()].count("went back") == 3


async def test_nothing_is_published_while_the_judge_is_away_and_one_that_comes_back_is_told_what_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RETRY_S", 0.0)
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        world.judge.is_away = True
        world.commit(snapshots.unpack(DELTAS[1]))
        await until(lambda: world.publishing.described["state"] == "held")
        assert "gone fishing" in world.publishing.described["held"]["why"] and world.shelf.version == 1
        world.judge.is_away, world.judge.place = False, Place()
        await world.published(2)
    assert world.judge.followed == [1] and world.judge.place == world.shelf.publisher.place


async def test_a_pin_does_not_wait_for_the_judge_and_what_was_being_judged_is_dropped(tmp_path: Path) -> None:
    async with World(tmp_path).running() as world:
        for packed in DELTAS[:2]:
            world.commit(snapshots.unpack(packed))
            await world.published(world.version)
        asking = asyncio.Event()
        answer = asyncio.Event()

        async def slow(edition: Sequence[bytes]) -> Verdict:
            asking.set()
            await answer.wait()
            return PASSED

        world.judge.weigh = slow  # type: ignore[method-assign]
        world.commit(snapshots.unpack(DELTAS[2]))
        await asking.wait()
        await world.publishing.keep_at(snapshots.unpack(DELTAS[0]), "ada", "")
        assert world.shelf.version == 1
        answer.set()
        await until(lambda: "judge_ms" in world.publishing.stages)
        for _ in range(5):
            await asyncio.sleep(0)
        assert world.shelf.version == 1 and world.publishing.described["state"] == "pinned"


async def test_what_is_ordered_is_published_whatever_is_thought_of_it(tmp_path: Path) -> None:
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        world.judge.verdicts = {2: Verdict(("it is worse",))}
        adopted = snapshots.unpack(DELTAS[0])
        adopted.version = 2
        world.judge.place = Place("of another life", 7)
        world.full = adopted
        world.publishing.note_all(adopted, is_ordered=True)
        await world.published(2)
    assert world.judge.followed == [1, 2] and world.judge.asked == [1]


async def test_what_was_ordered_while_the_judge_was_away_is_published_though_more_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RETRY_S", 0.0)
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        world.judge.verdicts = {3: Verdict(("it is worse",))}
        adopted = snapshots.unpack(DELTAS[0])
        adopted.version = 2
        world.full = adopted
        world.publishing.note_all(adopted, is_ordered=True)
        delta = snapshots.unpack(DELTAS[1])
        delta.base, delta.version = 2, 3
        world.commit(delta)
        await world.published(3)
    assert world.judge.followed == [3]


async def test_a_weight_that_is_not_finite_is_held_and_nobody_is_asked(tmp_path: Path) -> None:
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(DELTAS[0]))
        await world.published(1)
        for part in ("weights", "row"):
            broken = snapshots.unpack(DELTAS[world.version])
            broken.base, broken.version = world.version, world.version + 1
            broken.weights = broken.weights.copy()
            rows = broken.tables["items"] if "items" in broken.tables else next(iter(broken.tables.values()))
            rows.values = rows.values.copy()
            if part == "weights":
                broken.weights[3] = np.nan
            else:
                rows.values[-1, 0] = np.inf
            world.commit(broken)
            await until(
                lambda version=broken.version: (
                    world.publishing.described["held"] is not None
                    and world.publishing.described["held"]["version"] == version
                )
            )
            assert "not finite" in world.publishing.described["held"]["why"]
    assert world.judge.asked == [1]


LIVED = lived()
ERASED_AT = {PARTITION: tuple(LIVED[at_erasure(LIVED)].id)}
PEOPLE = np.array([hash64(PERSON)], dtype=np.uint64)
OF_PERSON = [snapshots.pack(delta) for _, delta in versions_of(LIVED)]


@pytest.mark.parametrize("state", ["live", "held", "pinned"])
async def test_who_is_erased_is_in_nothing_that_replicas_have_or_get_whatever_keeps_them_where_they_are(
    tmp_path: Path, state: str
) -> None:
    """And not in what they are kept at; they stay at their version, and go on from it."""
    early, late = Replica(), Replica()
    async with World(tmp_path).running() as world:
        for packed in OF_PERSON[:6]:
            world.commit(snapshots.unpack(packed))
            await world.published(world.version)
            await early.follow(world)
        if state == "pinned":
            await world.publishing.keep_at(snapshots.unpack(world._kept[5]), "ada", "clicks are odd")
        elif state == "held":
            world.judge.verdicts = {version: Verdict(("it is worse",)) for version in (len(OF_PERSON),)}
        for packed in OF_PERSON[6:]:
            world.commit(snapshots.unpack(packed))
        if state == "live":
            await world.published(len(OF_PERSON))
        elif state == "held":
            await world.judged(len(OF_PERSON))
        before = world.shelf.version
        assert in_value(early.scorer, TRACES) and bool(in_files(tmp_path, TRACES)) == (state == "pinned")
        await world.publishing.erase_pin(PEOPLE, ERASED_AT)
        assert not await world.publishing.erase(PEOPLE, ERASED_AT)  # the judge has not read as far
        assert await world.publishing.erase(PEOPLE, ERASED_AT)
        assert world.judge.erased[-1] == (PEOPLE.tolist(), world.shelf.publisher.place)
        assert world.shelf.version == before == {"live": len(OF_PERSON), "held": 6, "pinned": 5}[state]
        for replica in (early, late):
            await replica.follow(world)
            assert replica.scorer.version == before and in_value(replica.scorer, TRACES) == {}
        assert in_files(tmp_path, TRACES) == {}
        assert not any(in_bytes(one, TRACES) for one in world.shelf.everything()) and not world.shelf._editions
        assert in_value((world.publishing.pin, world.shelf), TRACES) == {}
        world.judge.verdicts = {}
        await world.publishing.resume("bob", "they were not")
        world.publishing.note_all(world.full)
        await world.published(len(OF_PERSON))
        for replica in (early, late):
            await replica.follow(world)
        inputs = inputs_of(MADE[-1][0])
        assert (early.scorer.score(inputs) == late.scorer.score(inputs)).all()
    assert SMALL.model == CONFIG.model


async def test_an_erasure_while_an_edition_is_judged_is_not_lost_and_what_was_judged_is_judged_anew(
    tmp_path: Path,
) -> None:
    replica = Replica()
    async with World(tmp_path).running() as world:
        for packed in OF_PERSON[:6]:
            world.commit(snapshots.unpack(packed))
        await world.published(6)
        await replica.follow(world)
        for packed in OF_PERSON[6:]:
            world.commit(snapshots.unpack(packed))
        await asyncio.sleep(0)  # it is drafted, and on its way to the judge
        await world.publishing.erase(PEOPLE, ERASED_AT)
        await world.published(len(OF_PERSON))
        await replica.follow(world)
    assert in_value((replica.scorer, world.shelf), TRACES) == {}


async def test_without_a_judge_an_erasure_is_not_done_and_a_pin_that_cannot_be_read_goes(tmp_path: Path) -> None:
    async with World(tmp_path).running() as world:
        world.commit(snapshots.unpack(OF_PERSON[0]))
        await world.published(1)
        await FolderFiles(str(tmp_path)).write(PINNED, b"HRPINS\x00\x01 torn")
        world.judge.is_away = True
        await world.publishing.erase_pin(PEOPLE, ERASED_AT)
        with pytest.raises(JudgeAway):
            await world.publishing.erase(PEOPLE, ERASED_AT)
    assert PINNED not in await world.files.names()
