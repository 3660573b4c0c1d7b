"""After an erasure a person is nowhere, everybody else is everywhere as before, and whoever dies goes on."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import erasing, log_segments, people
from features.archiving import READER
from features.clock import FakeClock
from features.deep_log import DeepLog
from features.erasing import Eraser
from features.erasures import ARCHIVE, LOG, STATE, VERSIONS, Erased, Erasing
from features.errors import BadFile
from features.events import DECISION, ERASURE, START, Entry, LoggedDecision, LoggedErasure, Positions, StreamId
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.people import LATE_MS
from features.store import Record, decision_record, erasure_record, item_record, quarantined_record, user_record
from tests.features.examples import KEYS, SCHEMA, T0_MS, Both, applied, archived, attributes, click, event, log_of
from tests.scanning import traces_in_files, traces_in_store

PERSON = "the-person-who-asked"
HOME = KEYS.user_partition(PERSON)
NEIGHBOUR = next(user for user in (f"n{n}" for n in range(99)) if KEYS.user_partition(user) == HOME)
ASKED_MS = T0_MS + 1000


class FakeVersions:
    """Versions that are clean as soon as they are asked, but for some of the first times."""

    def __init__(self, n_refusals: int = 0) -> None:
        self.asked: list[tuple[list[str], Positions]] = []
        self._n_refusals = n_refusals

    async def erase(self, people: Sequence[str], positions: Positions) -> bool:
        """As `Versions`."""
        self.asked.append((list(people), dict(positions)))
        return len(self.asked) > self._n_refusals


class Mortal:
    """Whatever is around it dies before or after the n-th of its writes."""

    def __init__(self, n: int, *, has_written: bool) -> None:
        self.left = n
        self._has_written = has_written

    def around(self, thing: Any, *writes: str) -> Any:
        """The thing, whose methods of these names count."""
        return _Counted(thing, writes, self)

    def before(self) -> None:
        self.left -= 1
        if self.left == 0 and not self._has_written:
            raise ConnectionError("died before it")

    def after(self) -> None:
        if self.left == 0 and self._has_written:
            self.left = -1
            raise ConnectionError("died after it")


class _Counted:
    def __init__(self, thing: Any, writes: Sequence[str], mortal: Mortal) -> None:
        self._thing, self._writes, self._mortal = thing, writes, mortal

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._thing, name)
        if name not in self._writes:
            return method

        async def write(*arguments: Any) -> Any:
            self._mortal.before()
            answer = await method(*arguments)
            self._mortal.after()
            return answer

        def write_here(*arguments: Any) -> Any:
            self._mortal.before()
            answer = method(*arguments)
            self._mortal.after()
            return answer

        return write if asyncio.iscoroutinefunction(method) else write_here


def asked(user: str = PERSON, name: str = "e1", ts_ms: int = ASKED_MS) -> Record:
    return erasure_record(LoggedErasure(user, ts_ms), KEYS, name)


def decided(user: str, ts_ms: int, logged_ms: int | None = None) -> Record:
    body = LoggedDecision(f"d{ts_ms}", user, ts_ms, 3, {}, ["a"], [1.0], b"\0\0")
    record = decision_record(body, b"state", KEYS)
    return record if logged_ms is None else Record(**{**_fields(record), "ts_ms": logged_ms})


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


def life(user: str, first_ms: int = T0_MS) -> list[Record]:
    """Everything that the log can say of somebody."""
    return [
        click(user, "a", ts_ms=first_ms, id=f"{user}-1", context={"device": "tv"}),
        user_record(attributes(user, segment="x"), KEYS),
        decided(user, first_ms + 1),
        click(user, "b", ts_ms=first_ms + 2, decision="d"),
        quarantined_record(event(user, "c", ts_ms=first_ms + 3, source="kiosk"), KEYS),
    ]


async def settle(both: Both) -> None:
    """Everybody has read, and nobody is late."""
    await applied(both.store, click("later", "z", ts_ms=ASKED_MS + LATE_MS + 1))
    heads = await both.store.heads()
    for partition, stored in enumerate(await both.store.projected()):
        await both.store.commit_rows(partition, {}, expected=stored, reached=heads)


def eraser(both: Both, files: LogFiles | None = None, versions: Any = None) -> Eraser:
    mine = None if files is None else LogFiles(files.url)
    return Eraser(both.store, both.bulk, versions or FakeVersions(), mine, FakeClock(T0_MS))


async def everything(both: Both, files: LogFiles) -> list[Entry]:
    """What a reader from the beginning gets, in order."""
    log, found, positions = DeepLog(both.store, both.bulk, LogFiles(files.url)), [], dict.fromkeys(range(4), START)
    while some := await log.read_log(positions, count=3):
        found += some
        positions |= {entry.partition: entry.id for entry in some}
    return sorted(found, key=lambda entry: (entry.partition, entry.id))


def of_others(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if PERSON.encode() not in entry.body]


@pytest.fixture
def memory() -> Both:
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    return Both(store, store)


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(str(tmp_path / "archive"))


@pytest.mark.parametrize("is_archived", [False, True])
async def test_after_an_erasure_a_person_is_nowhere_and_others_are_as_they_were(
    both: Both, files: LogFiles, is_archived: bool, tmp_path: Path
) -> None:
    await applied(both.store, *life(PERSON), *life(NEIGHBOUR), *life("u1"), item_record(attributes("a", price=3), KEYS))
    done_at = (await applied(both.store, asked()))[0].id
    await settle(both)
    if is_archived:
        await archived(both.store, both.bulk, files)
        await both.store.trim({HOME: StreamId(T0_MS, 1)})
    before = await everything(both, files)
    assert traces_in_store(both.store, [PERSON]) and bool(traces_in_files(tmp_path, [PERSON])) == is_archived
    made = eraser(both, files if is_archived else None)
    assert await made.advance() == 1 and made.waits == ""
    assert traces_in_store(both.store, [PERSON]) == [] and traces_in_files(tmp_path, [PERSON]) == []
    assert await everything(both, files) == of_others(before)
    done = await both.bulk.erasure("e1")
    assert isinstance(done, Erased) and done.asked_ms == ASKED_MS
    assert await both.bulk.erased_to() == {HOME: done_at}
    assert set(done.steps) == {STATE, LOG, ARCHIVE, VERSIONS} and done.done_ms >= max(done.steps.values())
    assert await made.advance() == 0


async def test_versions_are_asked_before_the_log_forgets_and_at_the_end(memory: Both) -> None:
    (first,) = await applied(memory.store, asked())
    (second,) = await applied(memory.store, asked(NEIGHBOUR, "e2"))
    await settle(memory)
    versions = FakeVersions()
    assert await eraser(memory, versions=versions).advance() == 2
    assert versions.asked == [(sorted([PERSON, NEIGHBOUR]), {HOME: max(first.id, second.id)})] * 2


async def test_what_comes_after_it_is_a_new_life(both: Both, files: LogFiles) -> None:
    await applied(both.store, *life(PERSON), asked())
    again = await applied(
        both.store, click(PERSON, "new", ts_ms=ASKED_MS + 5, id="n"), decided(PERSON, ASKED_MS + 5000)
    )
    (state,), _ = await both.store.read([PERSON], [])
    await settle(both)
    await archived(both.store, both.bulk, files)
    assert await eraser(both, files).advance() == 1
    kept = [entry.id for entry in await everything(both, files) if PERSON.encode() in entry.body]
    assert kept == [one.id for one in again]
    assert (await both.store.read([PERSON], []))[0] == [state]
    assert (await applied(both.store, click(PERSON, "new", ts_ms=ASKED_MS + 6, id="n")))[0].is_duplicate


async def test_a_decision_that_was_made_before_goes_though_it_is_logged_after(memory: Both) -> None:
    (erased,) = await applied(memory.store, asked())
    late, new = await applied(
        memory.store, decided(PERSON, ASKED_MS - 50, ASKED_MS + 100), decided(PERSON, ASKED_MS + 2000)
    )
    await settle(memory)
    versions = FakeVersions()
    assert await eraser(memory, versions=versions).advance() == 1
    assert [entry.id for entry in await log_of(memory.store) if entry.kind == DECISION] == [new.id]
    assert [positions[HOME] for _, positions in versions.asked] == [erased.id, late.id, erased.id]


async def test_it_waits_until_no_decision_can_be_late(memory: Both) -> None:
    await applied(memory.store, asked())
    await applied(memory.store, click("later", ts_ms=ASKED_MS + LATE_MS - 5000))
    heads = await memory.store.heads()
    for partition in range(KEYS.n_partitions):
        await memory.store.commit_rows(partition, {}, expected={}, reached=heads)
    made = eraser(memory)
    assert await made.advance() == 0 and made.waits == ""
    await settle(memory)
    assert await made.advance() == 1


async def test_it_waits_for_everybody_who_reads(memory: Both) -> None:
    (one,) = await applied(memory.store, asked())
    made = eraser(memory)
    assert await made.advance() == 0 and "the projector" in made.waits
    await settle(memory)
    await memory.bulk.note_reader("backfill x", {HOME: StreamId(one.id.ms - 1, 0)})
    assert await made.advance() == 0 and "backfill x" in made.waits and PERSON not in made.waits
    await memory.bulk.forget_reader("backfill x")
    assert await made.advance() == 1


async def test_it_waits_for_who_archives_and_says_how_far_that_has_to_be(memory: Both, files: LogFiles) -> None:
    (first, late) = await applied(memory.store, asked(), decided(PERSON, ASKED_MS - 5, ASKED_MS + 900))
    await settle(memory)
    await memory.bulk.note_reader(READER, {HOME: first.id})
    made = eraser(memory, files)
    assert await made.advance() == 0 and made.wanted == {HOME: late.id} and "archive" in made.waits
    await memory.bulk.forget_reader(READER)
    assert await made.advance() == 1 and made.wanted == {}


async def test_an_archive_that_is_elsewhere_is_waited_for(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, *life(PERSON), asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    here = eraser(memory)
    assert await here.advance() == 0 and "headrace archive" in here.waits
    noted = (await memory.bulk.erasing())["e1"]
    assert set(noted.steps) == {LOG}
    await erasing.erase_from_archive(memory.store, memory.bulk, LogFiles(files.url), FakeClock(T0_MS))
    assert await here.advance() == 1


async def test_versions_that_are_not_clean_yet_are_asked_again(memory: Both) -> None:
    await applied(memory.store, *life(PERSON), asked())
    await settle(memory)
    made = eraser(memory, versions=FakeVersions(n_refusals=2))
    for _ in range(2):
        assert await made.advance() == 0 and "version" in made.waits
        assert [entry.kind for entry in await log_of(memory.store)].count(ERASURE) == 1 == made.n_pending
    assert await made.advance() == 1 and made.n_pending == 0


@pytest.mark.parametrize("has_written", [False, True])
async def test_whoever_dies_at_any_write_goes_on(tmp_path: Path, has_written: bool) -> None:
    n_writes = 0
    for n in range(1, 40):
        store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
        both, files = Both(store, store), LogFiles(str(tmp_path / f"{has_written}{n}"))
        await applied(store, *life(PERSON), *life(NEIGHBOUR), *life("u2"), asked(), asked("u2", "e2"))
        await settle(both)
        await archived(store, store, files)
        before = await everything(both, files)
        mortal = Mortal(n, has_written=has_written)
        dying = Eraser(
            store,
            mortal.around(store, "note_erasing", "note_erased", "end_erasing", "drop_entries"),
            mortal.around(FakeVersions(), "erase"),
            mortal.around(LogFiles(files.url), "rewrite"),
            FakeClock(T0_MS),
        )
        try:
            await dying.advance()
        except ConnectionError:
            n_writes = n
        await eraser(both, files).advance()
        kept = [entry for entry in before if PERSON.encode() not in entry.body and b"u2" not in entry.body]
        assert await everything(both, files) == kept
        assert traces_in_store(store, [PERSON]) == [] == traces_in_files(Path(files.url), [PERSON])
        assert await both.bulk.erasing() == {}
        if n > n_writes:
            break
    assert n_writes >= 10


async def test_what_somebody_died_over_while_writing_it_goes_too(memory: Both, files: LogFiles, tmp_path: Path) -> None:
    await applied(memory.store, *life(PERSON), asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    begun = next(tmp_path.rglob("*.parquet")).parent / ".0-0_1-1.parquet.0000abcd"
    begun.write_bytes(PERSON.encode())
    os.utime(begun, (T0_MS / 1000 - 30, T0_MS / 1000 - 30))
    made = eraser(memory, files)
    assert await made.advance() == 0 and "writing" in made.waits
    os.utime(begun, (T0_MS / 1000 - 3600, T0_MS / 1000 - 3600))
    assert await made.advance() == 1 and traces_in_files(tmp_path, [PERSON]) == []


async def test_a_damaged_segment_is_named_and_the_erasure_stays_under_way(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, *life(PERSON), asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    segment = LogFiles(files.url).segments_of(HOME)[0]
    raw = Path(segment.path).read_bytes()
    Path(segment.path).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadFile, match="partition="):
        await eraser(memory, files).advance()
    assert isinstance(await memory.bulk.erasure("e1"), Erasing)


async def test_an_entry_that_cannot_be_read_goes_if_it_names_the_person(memory: Both, files: LogFiles) -> None:
    unread = [Record(kind=b"?", partition=HOME, body=b"\xa3foo" + body, ts_ms=T0_MS) for body in (b"bar", _packed())]
    kept, gone = await applied(memory.store, *unread)
    await applied(memory.store, asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    assert await eraser(memory, files).advance() == 1
    ids = [entry.id for entry in await everything(memory, files) if entry.partition == HOME]
    assert kept.id in ids and gone.id not in ids


def _packed() -> bytes:
    return people.encode_body(PERSON)


async def test_who_archives_goes_on_behind_files_that_were_emptied(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, *life(PERSON), asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    assert await eraser(memory, files).advance() == 1
    assert [entry for entry in await everything(memory, files) if entry.partition == HOME] == []
    await memory.store.trim(await memory.store.heads())
    (after,) = await applied(memory.store, click(NEIGHBOUR, ts_ms=ASKED_MS + 2 * LATE_MS))
    assert [entry.id for entry in await everything(memory, files) if entry.partition == HOME] == [after.id]
    await archived(memory.store, memory.bulk, files)
    await memory.store.trim(await memory.store.heads())
    assert [entry.id for entry in await everything(memory, files) if entry.partition == HOME] == [after.id]
    assert len(LogFiles(files.url).segments_of(HOME)) == 2


async def test_a_reader_with_a_file_open_goes_on_while_it_is_rewritten(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, *life(PERSON), *life(NEIGHBOUR), asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    reader = LogFiles(files.url)
    first = reader.read(HOME, START, 2)
    assert await eraser(memory, files).advance() == 1
    rest = reader.read(HOME, first[-1].id, 99)
    assert of_others(rest) == [entry for entry in await everything(memory, files) if entry.partition == HOME]


async def test_a_reader_of_a_bucket_whose_file_is_another_under_its_hands_opens_it_anew(
    memory: Both, files: LogFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_segments, "GROUP_ENTRIES", 2)
    await applied(memory.store, *life(NEIGHBOUR), *life(PERSON), *life(NEIGHBOUR, T0_MS + 9), asked())
    await settle(memory)
    await archived(memory.store, memory.bulk, files)
    reader = LogFiles(files.url)
    path = Path(reader.segments_of(HOME)[0].path)
    first = reader.read(HOME, START, 2)
    held = os.open(path, os.O_RDWR)  # of the file that the reader has open
    assert await eraser(memory, files).advance() == 1
    after = path.read_bytes()
    os.pwrite(held, after, 0)
    os.ftruncate(held, len(after))
    os.close(held)
    rest = reader.read(HOME, first[-1].id, 99)
    assert first + rest == [entry for entry in await everything(memory, files) if entry.partition == HOME]


USERS = [PERSON, NEIGHBOUR, "u1", "u2"]


@given(
    told=st.lists(st.tuples(st.sampled_from(USERS), st.integers(0, 400), st.booleans()), max_size=40),
    reached=st.integers(0, 40),
    trimmed=st.floats(0, 1),
    start=st.integers(0, 40),
)
def test_wherever_archive_trimming_and_readers_are_only_the_person_is_missing(
    tmp_path_factory: pytest.TempPathFactory,
    told: list[tuple[str, int, bool]],
    reached: int,
    trimmed: float,
    start: int,
) -> None:
    folder = tmp_path_factory.mktemp("law")

    async def run() -> None:
        store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
        both, files = Both(store, store), LogFiles(str(folder / "archive"))
        records: list[Record] = []
        for n, (user, ms, is_click) in enumerate(told):
            one = click(user, f"i{n}", ts_ms=T0_MS + ms, id=f"{user}{n}") if is_click else decided(user, T0_MS + ms)
            records.append(one)
        await applied(store, *records[:reached])
        await archived(store, store, files)
        await applied(store, *records[reached:], asked())
        heads = (await store.readers())[READER]
        await store.trim({p: StreamId(T0_MS + int((at.ms - T0_MS) * trimmed), 0) for p, at in heads.items()})
        await settle(both)
        await archived(store, store, files)
        before = await everything(both, files)
        assert await eraser(both, files).advance() == 1
        after = await everything(both, files)
        assert after == of_others(before)
        assert traces_in_store(store, [PERSON]) == [] == traces_in_files(folder, [PERSON])
        if before:
            at = before[min(start, len(before) - 1)]
            log = DeepLog(store, store, LogFiles(files.url))
            rest = [e for e in await log.read_log({at.partition: at.id}, count=99) if e.partition == at.partition]
            assert rest == [e for e in after if e.partition == at.partition and e.id > at.id]

    asyncio.run(run())


async def test_erasures_without_a_name_are_no_work(memory: Both) -> None:
    await applied(memory.store, erasure_record(LoggedErasure(PERSON, ASKED_MS), KEYS))
    await settle(memory)
    assert await eraser(memory).advance() == 0
    assert [entry.kind for entry in await log_of(memory.store) if PERSON.encode() in entry.body] == [ERASURE]
