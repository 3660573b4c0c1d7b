"""Whoever is erased is in nothing that was learned: not in memory, not in a version, not in what replicas get."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
import redis

from features.embedded import EmbeddedServer
from features.schema import hash64
from features.store_files import StoreFiles
from learners import checkpoints, snapshots
from learners.checkpoints import Checkpoints
from learners.editions import heads, parts
from learners.embeddings import EmbeddingTable
from learners.erasing import holds, nobodys_keys, without
from learners.folder_files import FolderFiles
from learners.lineage import Lineage
from learners.meetings import Meetings
from learners.online import OnlineLearner
from learners.owners import EVERYBODY, owned
from learners.publisher import Publisher
from learners.rounds import RoundConfig
from learners.scorer import Scorer
from learners.snapshots import Delta, Rows
from learners.team import Team
from tests.learners.comparing import same
from tests.learners.erased import (
    OWN_AGE,
    OWN_DEVICE,
    PARTITION,
    PERSON,
    SMALL,
    STRANGE,
    TRACES,
    at_erasure,
    lived,
    merged,
    read,
    scores,
    settled,
    versions,
)
from tests.learners.examples import SCHEMA
from tests.people import in_bytes, in_files, in_value

PEOPLE: Final = np.array([hash64(PERSON)], dtype=np.uint64)
ENTRIES: Final = lived()
AT: Final = at_erasure(ENTRIES)
NOW_MS: Final = ENTRIES[-1].id.ms + 1000
OWN: Final = {name for name in TRACES if name.startswith("key")}


DELTAS: Final = [delta for _, delta in versions(ENTRIES)]


def reaches(delta: Delta) -> bool:
    """Whether the erasure is in this version."""
    return delta.progress.positions.get(PARTITION, (0, 0)) >= tuple(ENTRIES[AT].id)


def test_nothing_of_a_person_is_in_a_learner_once_the_erasure_is_read() -> None:
    """Until then all of it is: decisions that wait for feedback, slates that wait for their batch, and rows."""
    learner = read(ENTRIES[:AT])
    assert set(in_value(learner, TRACES)) == set(TRACES)
    learner.read(ENTRIES[AT])
    assert in_value(learner, TRACES) == {}
    assert in_bytes(snapshots.pack(learner.snapshot()), TRACES) == set()


def test_ranking_for_the_person_is_that_for_a_stranger_to_the_bit() -> None:
    learner = settled(read(ENTRIES[:AT]))
    of_stranger = scores(learner.model, learner.table, "unheard-of", STRANGE, NOW_MS)
    assert scores(learner.model, learner.table, OWN_AGE, OWN_DEVICE, NOW_MS) != of_stranger
    learner.read(ENTRIES[AT])
    of_stranger = scores(learner.model, learner.table, "unheard-of", STRANGE, NOW_MS)
    assert scores(learner.model, learner.table, OWN_AGE, OWN_DEVICE, NOW_MS) == of_stranger


def test_with_the_entry_itself_nothing_else_changes() -> None:
    """What was learned from the person's events stays in what is everybody's."""
    learner = settled(read(ENTRIES[:AT]))
    before = snapshots.unpack(snapshots.pack(learner.snapshot()))
    learner.read(ENTRIES[AT])
    after = snapshots.unpack(snapshots.pack(learner.snapshot()))
    was, now = before.tables["context"], after.tables["context"]
    gone = np.flatnonzero(was.keys != now.keys)
    assert sorted(was.keys[gone].tolist()) == sorted(hash64(v) for v in (f"device={OWN_DEVICE}", f"age={OWN_AGE}"))
    is_other = np.ones(len(was.rows), dtype=bool)
    is_other[gone] = False
    for get in (lambda t: t.keys, lambda t: t.values, lambda t: t.owners, lambda t: t.upkeep.accumulators):
        np.testing.assert_array_equal(get(was)[is_other], get(now)[is_other])
        assert not get(now)[gone].any()
    after.tables["context"], after.progress.positions = was, before.progress.positions
    assert same(before, after)


def test_a_value_that_another_person_has_too_is_everybodys_and_stays() -> None:
    table = EmbeddingTable(4, knows_people=True)
    keys, people = np.array([7, 7, 8, 9, 0], np.uint64), np.array([1, 2, 1, 2, 1], np.uint64)
    table.meet(keys, 1000, people)
    table.erase(np.array([1], np.uint64))
    assert (table.lookup(np.array([7, 8, 9], np.uint64)) > 0).tolist() == [True, False, True]
    table.meet(keys[3:4], 1001, people[:1])
    table.erase(np.array([1, 2], np.uint64))
    assert (table.lookup(np.array([7, 8, 9], np.uint64)) > 0).tolist() == [True, False, True]


def test_of_several_who_met_a_key_none_owns_it_in_whatever_order_they_are_told() -> None:
    keys, people = np.array([3, 0, 3, 2, 3, 5, 5], np.uint64), np.array([4, 4, 9, 9, 4, 6, 6], np.uint64)
    for order in (np.arange(7), np.arange(7)[::-1]):
        found, owners = owned(keys[order], people[order])
        assert found.tolist() == [2, 3, 5] and owners.tolist() == [9, int(EVERYBODY), 6]
    assert len(owned(keys[1:2], people[1:2])[0]) == 0


def test_who_comes_back_begins_anew() -> None:
    """And rows that are met again are that person's again."""
    learner = settled(read(lived(comes_back=True)))
    assert set(in_value(learner, TRACES)) >= OWN | {"hash"}
    again = settled(read(lived(comes_back=True)[AT + 1 :], settled(read(ENTRIES[: AT + 1]))))
    assert same(learner.snapshot(), again.snapshot())


def test_rereading_gives_equal_weights_and_deltas_laid_over_one_another_are_the_whole() -> None:
    again = list[Delta]()
    for learner, delta in versions(ENTRIES):
        again.append(delta)
        whole = snapshots.unpack(snapshots.pack(learner.snapshot(len(again))))
        assert same(merged(again), whole)
    assert same(merged(again), merged(DELTAS))
    assert any(map(reaches, again)) and not all(map(reaches, again))


@pytest.mark.parametrize("cut", [AT - 200, AT - 3, AT, AT + 1, AT + 50])
def test_who_goes_on_from_a_version_at_any_entry_goes_on_bit_for_bit(cut: int) -> None:
    straight, learner = OnlineLearner(SCHEMA, SMALL), OnlineLearner(SCHEMA, SMALL)
    for each in (straight, learner):
        settled(read(ENTRIES[:cut], each))
    again = OnlineLearner(SCHEMA, SMALL)
    again.restore(snapshots.unpack(snapshots.pack(learner.snapshot(1))))
    again.remember(ENTRIES[:cut])
    for each in (straight, again):
        settled(read(ENTRIES[cut:], each))
    assert same(straight.snapshot(), again.snapshot())
    assert in_value(again, TRACES) == {}


def test_what_is_remembered_of_the_log_is_nothing_of_who_was_erased() -> None:
    learner = settled(read(ENTRIES[: AT + 1]))
    again = OnlineLearner(SCHEMA, SMALL)
    again.restore(snapshots.unpack(snapshots.pack(learner.snapshot(1))))
    again.remember(ENTRIES[: AT + 1])
    assert len(again.reader._joiner) == len(learner.reader._joiner) > 0
    assert in_value(again, TRACES) == {}


@pytest.mark.parametrize("comes_back", [False, True])
def test_several_learners_are_equal_to_the_last_bit_after_the_round_and_hold_nothing(comes_back: bool) -> None:
    config = replace(SMALL, rounds=RoundConfig(n_learners=3, span_s=20.0, max_entries=70))
    team = Team(SCHEMA, config)
    entries = lived(comes_back=comes_back)
    for number, entry in enumerate(entries):
        n_rounds = team.n_rounds
        team.close_tick(entry.id.ms)
        if team.n_rounds > n_rounds and number > AT and not comes_back:
            assert [in_value(learner, TRACES) for learner in team.learners] == [{}] * 3
        team.read(entry)
    team.close_tick(NOW_MS + 60_000)
    one, *others = ({name: _table(table) for name, table in learner.tables.items()} for learner in team.learners)
    assert others == [one, one]
    assert len({learner.model.flat.numpy().tobytes() for learner in team.learners}) == 1
    assert (set(in_value(team.learners[1], TRACES)) >= OWN) == comes_back


def _table(table: EmbeddingTable) -> list[bytes]:
    n = len(table)
    return [some[:n].tobytes() for some in (table.key, table.weight, table.accumulator, table.owner, table.met_s)]


def test_a_version_is_without_a_person_the_same_whether_before_or_after_it_was_laid_over_others() -> None:
    before = [delta for delta in DELTAS if not reaches(delta)]
    assert any(holds(delta, PEOPLE) for delta in before)
    whole = without(merged(before), PEOPLE)
    packed = snapshots.pack(whole)
    for some in ([], before, before[::2], before[1::3]):
        mixed = [without(delta, PEOPLE) if any(delta is one for one in some) else delta for delta in before]
        assert snapshots.pack(without(merged(mixed), PEOPLE)) == packed
    assert in_bytes(packed, TRACES) == set() and not holds(whole, PEOPLE)
    learner = OnlineLearner(SCHEMA, SMALL)
    learner.restore(snapshots.unpack(packed))
    of_stranger = scores(learner.model, learner.table, "unheard-of", STRANGE, NOW_MS)
    assert scores(learner.model, learner.table, OWN_AGE, OWN_DEVICE, NOW_MS) == of_stranger


def test_a_row_that_nobody_finds_expires_and_is_used_again() -> None:
    full = without(merged([delta for delta in DELTAS if not reaches(delta)]), PEOPLE)
    learner = OnlineLearner(SCHEMA, SMALL)
    learner.restore(snapshots.unpack(snapshots.pack(full)))
    table = learner.tables["context"]
    rows = np.flatnonzero(np.isin(table.key[: len(table)], nobodys_keys(np.arange(len(table)))))
    assert len(rows) == 2
    table.meet(np.array([5], np.uint64), learner.reader.now_ms // 1000 + 100 * 86_400)
    assert not table.key[rows].any() and table.n_live < len(table)


def test_a_version_of_an_earlier_release_is_nobodys_until_it_is_met() -> None:
    full = merged(DELTAS[:4])
    rows = {name: Rows(*list(msgspec.structs.astuple(one))[:5]) for name, one in full.tables.items()}
    old = msgspec.structs.replace(full, tables=rows)
    packed = snapshots.pack(old)
    learner = OnlineLearner(SCHEMA, SMALL)
    learner.restore(snapshots.unpack(packed))
    assert not learner.tables["context"].owner.any() and not holds(snapshots.unpack(packed), PEOPLE)
    first = next(n for n, entry in enumerate(ENTRIES) if entry.id > max(learner.positions.values()))
    settled(read(ENTRIES[first:AT], learner))
    assert PEOPLE[0] in learner.tables["context"].owner
    laid = snapshots.merge(snapshots.unpack(packed), DELTAS[4])
    assert laid.tables["context"].owners is not None


def opened(folder: Path) -> Lineage:
    """What a hub has that begins here."""
    meetings: Meetings[Any] = Meetings()
    return Lineage(Checkpoints(FolderFiles(str(folder)), SCHEMA), SCHEMA, meetings)


async def committed(folder: Path, deltas: list[Delta]) -> Lineage:
    lineage = opened(folder)
    await lineage.load()
    for delta in deltas:
        packed = snapshots.pack(delta)
        await lineage.commit(snapshots.unpack(packed), packed)
        await lineage.compact()
    return lineage


POSITIONS: Final = {PARTITION: tuple(ENTRIES[AT].id)}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole version every few ones."""
    monkeypatch.setattr(checkpoints, "FULL_EVERY", 3)


async def test_no_kept_version_has_anything_of_a_person_and_each_can_be_gone_back_to(tmp_path: Path) -> None:
    lineage = await committed(tmp_path, DELTAS)
    kept = await lineage.checkpoints.numbers()
    assert {name for some in in_files(tmp_path, TRACES).values() for name in some} == OWN | {"hash"}
    newest = snapshots.pack(lineage.full)
    assert await lineage.erase(PEOPLE, POSITIONS)
    assert in_files(tmp_path, TRACES) == {} and in_value(lineage, TRACES) == {}
    assert await lineage.checkpoints.numbers() == kept and snapshots.pack(lineage.full) == newest
    again = opened(tmp_path)
    await again.load()
    assert snapshots.pack(again.full) == newest
    oldest = min(kept)
    assert await again.go_back(oldest) == oldest
    assert not reaches(again.full) and in_value(again, TRACES) == {} and in_files(tmp_path, TRACES) == {}
    learner = OnlineLearner(SCHEMA, SMALL)
    learner.restore(snapshots.unpack(snapshots.pack(again.full)))
    first = next(n for n, entry in enumerate(ENTRIES) if entry.id > max(learner.positions.values()))
    others = [entry for entry in ENTRIES[first:] if not in_bytes(entry.body, TRACES)]  # the log has been erased, too
    settled(read(others, learner))
    assert in_value(learner, TRACES) == {}


async def test_neither_has_a_store_that_keeps_them(tmp_path: Path) -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:

        def found() -> set[str]:
            return {name for key in client.scan_iter("*:file:*") for name in in_bytes(client.get(key) or b"", TRACES)}

        files = StoreFiles(server.url)
        lineage = Lineage(Checkpoints(files, SCHEMA), SCHEMA, Meetings[Any]())
        await lineage.load()
        for delta in DELTAS:
            await lineage.commit(snapshots.unpack(snapshots.pack(delta)), snapshots.pack(delta))
            await lineage.compact()
        assert found() == OWN | {"hash"}
        assert await lineage.erase(PEOPLE, POSITIONS)
        assert found() == set() and len(await lineage.checkpoints.numbers()) > 6
        await files.close()


async def test_nothing_is_written_while_the_newest_version_has_not_come_to_the_erasure(tmp_path: Path) -> None:
    lineage = await committed(tmp_path, [delta for delta in DELTAS if not reaches(delta)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert not await lineage.erase(PEOPLE, POSITIONS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


async def test_what_came_back_after_the_erasure_is_not_taken_away(tmp_path: Path) -> None:
    deltas = [delta for _, delta in versions(lived(comes_back=True))]
    lineage = await committed(tmp_path, deltas)
    assert await lineage.erase(PEOPLE, POSITIONS)
    left = in_files(tmp_path, TRACES)
    assert left and all(reaches(snapshots.unpack((tmp_path / name).read_bytes())) for name in left)
    assert holds(lineage.full, PEOPLE)


async def test_a_file_that_cannot_be_read_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lineage = await committed(tmp_path, DELTAS)
    damaged = tmp_path / "v0000000003.full"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9])
    assert await lineage.erase(PEOPLE, POSITIONS)
    assert not damaged.exists() and "v0000000003.full is dropped" in caplog.text and in_files(tmp_path, TRACES) == {}


class Dying(FolderFiles):
    """Whoever writes the n-th file dies of it: just before it is there, or just after."""

    def __init__(self, folder: Path, n: int, *, is_written: bool) -> None:
        super().__init__(str(folder))
        self._n, self._is_written = n, is_written
        self.has_died = False

    async def write(self, name: str, data: bytes) -> None:
        """Write it, or half of it, or die."""
        self._n -= 1
        if self._n:
            await super().write(name, data)
            return
        self.has_died = True
        if self._is_written:
            await super().write(name, data)
        else:
            Path(self._path(f".{name}.half")).write_bytes(data[: len(data) // 2])
        raise ConnectionAbortedError("killed")


@pytest.mark.parametrize("is_written", [False, True])
async def test_whoever_is_killed_at_any_write_leaves_every_version_readable_and_doing_it_again_finishes_it(
    tmp_path: Path, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FULL_EVERY", 6)
    deltas = DELTAS[: next(n for n, delta in enumerate(DELTAS) if reaches(delta)) + 1]
    await committed(tmp_path / "straight", deltas)
    numbers = await Checkpoints(FolderFiles(str(tmp_path / "straight")), SCHEMA).numbers()
    done = await committed(tmp_path / "straight", [])
    assert await done.erase(PEOPLE, POSITIONS)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "straight").iterdir()}
    n_writes = 0
    for n in range(1, 100):
        folder = tmp_path / f"{n}"
        await committed(folder, deltas)
        files = Dying(folder, n, is_written=is_written)
        lineage = Lineage(Checkpoints(files, SCHEMA), SCHEMA, Meetings[Any]())
        await lineage.load()
        try:
            await lineage.erase(PEOPLE, POSITIONS)
        except ConnectionAbortedError:
            n_writes += 1
        if not files.has_died:
            break
        again = opened(folder)
        await again.load()
        assert await again.checkpoints.numbers() == numbers
        for number in numbers:
            full = await again.checkpoints.at(number)
            assert snapshots.pack(without(full, PEOPLE)) == snapshots.pack(await done.checkpoints.at(number))
        assert await again.erase(PEOPLE, POSITIONS)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert n_writes >= 5


def received(scorer: Scorer, head: Any, rows: Any) -> None:
    for _ in scorer.apply(heads.unpack(heads.pack(head)), [parts.unpack(parts.pack(part)) for part in rows]):
        pass


def test_replicas_lose_the_rows_though_no_newer_version_is_let_pass() -> None:
    """All else is what it was."""
    publisher, scorer = Publisher("here", 1 << 40), Scorer(SCHEMA)
    before = [delta for delta in DELTAS if not reaches(delta)]
    full = merged(before)
    draft = publisher.draft(full)
    received(scorer, draft.head, draft.parts)
    publisher.settle(draft)
    assert set(in_value(scorer, TRACES)) == OWN
    flat, known = scorer._live.weights.copy(), scorer.tables["item"].n_live
    for delta in DELTAS[len(before) :]:
        full = snapshots.merge(full, delta)
        publisher.note(delta)
    gone = publisher.draft_gone(full)
    assert gone is not None and not gone.parts and gone.head.version == len(before)
    received(scorer, gone.head, gone.parts)
    publisher.settle(gone)
    assert in_value(scorer, TRACES) == {} and in_value(publisher.whole(), TRACES) == {}
    assert (scorer._live.weights == flat).all() and scorer.tables["item"].n_live == known
    table = settled(read(ENTRIES)).table
    of_stranger = scores(scorer, table, "unheard-of", STRANGE, NOW_MS)
    assert scores(scorer, table, OWN_AGE, OWN_DEVICE, NOW_MS) == of_stranger
    assert publisher.draft_gone(full) is None
    draft = publisher.draft(full)
    received(scorer, draft.head, draft.parts)
    publisher.settle(draft)
    straight = Publisher("there", 1 << 40)
    straight.settle(straight.draft(full))
    assert [parts.pack(part) for part in publisher.whole()[1]] == [parts.pack(part) for part in straight.whole()[1]]
