"""Versions follow one another; who goes back gets a new number, and nothing but what was kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners import checkpoints, snapshots
from learners.checkpoints import Checkpoints
from learners.errors import StaleSnapshot, UnknownVersion
from learners.folder_files import FolderFiles
from learners.lineage import Lineage
from learners.meetings import Meetings
from learners.online import OnlineLearner
from learners.snapshots import Delta
from tests.learners.examples import CONFIG, SCHEMA, learned, log, stream

ENTRIES = log(stream(900))
EVERY = 3


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole version every few ones."""
    monkeypatch.setattr(checkpoints, "FULL_EVERY", EVERY)


def opened(folder: Path) -> Lineage:
    """What a hub has that begins here."""
    meetings: Meetings[Any] = Meetings()
    return Lineage(Checkpoints(FolderFiles(str(folder)), SCHEMA), SCHEMA, meetings)


class Learning:
    """A learner that offers to a lineage, and goes on from what is committed."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self.learner = OnlineLearner(SCHEMA, CONFIG)

    async def go_on(self) -> None:
        """From what is committed."""
        assert self.lineage.full is not None
        self.learner.restore(snapshots.unpack(snapshots.pack(self.lineage.full)))

    async def offer(self, n_versions: int, n_events: int = 50) -> list[Delta]:
        """Learn from what comes next; returns every version, whole."""
        made = []
        for _ in range(n_versions):
            at = max(self.learner.positions.values(), default=None)
            rest = [entry for entry in ENTRIES if at is None or entry.id > at]
            learned(rest[:n_events], self.learner)
            delta = self.learner.take_delta(self.lineage.version + 1, self.lineage.version or None)
            await self.lineage.commit(snapshots.unpack(snapshots.pack(delta)), snapshots.pack(delta))
            await self.lineage.compact()
            made.append(snapshots.unpack(snapshots.pack(self.lineage.full)))
        return made


def same(left: Delta | None, right: Delta) -> bool:
    """Equal but for the number."""
    assert left is not None
    left, right = (snapshots.unpack(snapshots.pack(one)) for one in (left, right))
    left.version = right.version
    return snapshots.pack(left) == snapshots.pack(right)


async def test_what_is_gone_back_to_is_the_newest_also_after_a_restart_and_learning_leads_to_the_same(
    tmp_path: Path,
) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    learning = Learning(lineage)
    made = await learning.offer(8)
    assert await lineage.go_back(5) == 5
    assert lineage.version == 9 and same(lineage.full, made[4])
    again = opened(tmp_path)
    await again.load()
    assert again.version == 9 and same(again.full, made[4])
    learning = Learning(again)
    await learning.go_on()
    relearned = await learning.offer(3)
    assert [one.version for one in relearned] == [10, 11, 12]
    for one, before in zip(relearned, made[5:], strict=True):
        np.testing.assert_array_equal(one.weights, before.weights)
        assert one.progress.n_examples == before.progress.n_examples


async def test_what_is_not_kept_is_gone_back_behind_and_what_was_left_behind_is_dropped(tmp_path: Path) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    made = await Learning(lineage).offer(10)
    numbers = await lineage.checkpoints.numbers()
    missing = next(number for number in range(10, 0, -1) if number not in numbers)
    nearest = max(number for number in numbers if number < missing)
    assert await lineage.go_back(missing) == nearest
    assert same(lineage.full, made[nearest - 1])
    assert [n for n in await lineage.checkpoints.numbers() if nearest < n < lineage.version] == []


async def test_an_offer_on_what_was_left_behind_is_stale(tmp_path: Path) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    learning = Learning(lineage)
    await learning.offer(4)
    delta = learning.learner.take_delta(5, 4)
    await lineage.go_back(2)
    with pytest.raises(StaleSnapshot, match="expected 6 on 5"):
        await lineage.commit(delta, snapshots.pack(delta))


async def test_with_nothing_kept_one_cannot_go_back(tmp_path: Path) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    with pytest.raises(UnknownVersion, match="version 3"):
        await lineage.go_back(3)


async def test_an_anchor_is_as_old_as_asked_for_and_stays_while_others_are_thinned(tmp_path: Path) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    learning = Learning(lineage)
    await learning.offer(7)
    assert await lineage.anchor(10**9, 7) is None
    assert lineage.full is not None
    held = await lineage.anchor(1, 3)
    assert held is not None and held.version <= 3
    anchor = await lineage.anchor(1, 7)
    assert anchor is not None and anchor.version in await lineage.checkpoints.wholes()
    assert anchor.progress.trained_through_ms < lineage.full.progress.trained_through_ms
    assert await lineage.anchor(1, 7, other_than=anchor.version) is None
    lineage.checkpoints._n_kept = 2
    await learning.offer(9, 20)
    assert anchor.version in await lineage.checkpoints.wholes()


async def test_however_few_are_kept_one_grows_old_enough_to_be_the_next_anchor(tmp_path: Path) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    lineage.checkpoints._n_kept = 2
    learning = Learning(lineage)
    anchors, age_ms = [], 12 * 20 * 500
    for _ in range(40):
        await learning.offer(1, 20)
        found = await lineage.anchor(age_ms, lineage.version, anchors[-1] if anchors else 0)
        if found is not None:
            anchors.append(found.version)
    assert len(anchors) >= 2 and anchors == sorted(set(anchors))


async def test_what_is_learned_anew_after_going_back_is_not_old_enough_for_an_anchor(tmp_path: Path) -> None:
    """However long ago what it was learned from: it has not answered for a moment yet."""
    lineage = opened(tmp_path)
    await lineage.load()
    learning = Learning(lineage)
    made = await learning.offer(9)
    age_ms = made[-1].progress.trained_through_ms - made[4].progress.trained_through_ms
    await lineage.go_back(4)
    await learning.go_on()
    await learning.offer(6)
    anchor = await lineage.anchor(age_ms, lineage.version)
    assert anchor is None or anchor.version <= 4


async def test_the_log_is_needed_from_where_the_oldest_version_stands_that_can_be_gone_back_to(tmp_path: Path) -> None:
    lineage = opened(tmp_path)
    await lineage.load()
    assert await lineage.needed() == {}
    made = await Learning(lineage).offer(10)
    oldest = (await lineage.checkpoints.wholes())[0]
    expected = made[oldest - 1].progress.positions
    again = opened(tmp_path)
    await again.load()
    assert await lineage.needed() == await again.needed() == expected
