"""One list of laws for every store: an erasure is noted with its entry, and what it names goes without a trace."""

import asyncio
from typing import Any

import pytest
import redis

from features.embedded import EmbeddedServer
from features.erasures import ARCHIVE, LOG, STATE, Erased, Erasing
from features.errors import LogMoved
from features.events import START, Entry, StreamId
from features.keys import digest
from features.log_drafting import rewrite_log
from features.redis_bulk import RedisBulk
from features.redis_store import RedisStore
from features.store import Record, erasure_record
from tests.features.examples import KEYS, T0_MS, Both, applied, click, dump, erasure, log_of
from tests.scanning import traces_in_servers, traces_in_store

HOME = KEYS.user_partition("u1")
NEIGHBOURS = [user for user in (f"n{n}" for n in range(99)) if KEYS.user_partition(user) == HOME][:3]


def record(user: str, name: str = "e1") -> Record:
    return erasure_record(erasure(user), KEYS, name)


async def of_home(both: Both) -> list[Entry]:
    return [entry for entry in await log_of(both.store) if entry.partition == HOME]


async def test_an_erasure_is_under_way_as_soon_as_its_entry_is_there(both: Both) -> None:
    await applied(both.store, click("u1"))
    (made,) = await applied(both.store, record("u1"))
    noted = Erasing("u1", HOME, made.id)
    assert await both.bulk.erasing() == {"e1": noted} and await both.bulk.erasure("e1") == noted
    assert await both.store.read(["u1"], []) == ([b""], [])
    assert await both.bulk.erasure("e2") is None


async def test_without_a_name_nothing_is_noted(both: Both) -> None:
    await applied(both.store, record("u1", ""))
    assert await both.bulk.erasing() == {}


@pytest.mark.parametrize("user", ["u 1", " {} ", "ü\n", '{"a": 1}'])
async def test_whatever_a_person_is_called_it_is_told_and_then_it_is_not(both: Both, user: str) -> None:
    (made,) = await applied(both.store, record(user))
    noted = (await both.bulk.erasing())["e1"]
    assert noted.user == user and noted.at == made.id
    further = noted.after(LOG, 7).after(ARCHIVE, 8)
    await both.bulk.note_erasing("e1", further)
    assert await both.bulk.erasure("e1") == further
    await both.bulk.end_erasing("e1", further, 9)
    steps = {STATE: made.id.ms, LOG: 7, ARCHIVE: 8}
    assert await both.bulk.erasure("e1") == Erased(asked_ms=made.id.ms, done_ms=9, steps=steps)
    assert await both.bulk.erasing() == {}


async def test_up_to_where_entries_were_erased_is_never_taken_back(both: Both) -> None:
    assert await both.bulk.erased_to() == {}
    for partition, seq in ((1, 5), (2, 7), (1, 4), (2, 8)):
        await both.bulk.note_erased(partition, StreamId(3, seq))
    assert await both.bulk.erased_to() == {1: StreamId(3, 5), 2: StreamId(3, 8)}


async def test_an_erasure_may_end_twice(both: Both) -> None:
    await applied(both.store, record("u1"))
    noted = (await both.bulk.erasing())["e1"]
    await both.bulk.end_erasing("e1", noted, 9)
    await both.bulk.end_erasing("e1", noted, 9)
    assert await both.bulk.erasing() == {}


async def test_dropped_entries_are_gone_and_the_others_stay_byte_for_byte(both: Both) -> None:
    users = ["u1", *NEIGHBOURS]
    made = await applied(both.store, *(click(users[n % 4], f"i{n}", ts_ms=T0_MS + n // 3) for n in range(900)))
    before = await of_home(both)
    gone = {one.id for one in made[::4]}
    await both.bulk.drop_entries(HOME, gone, [])
    assert await of_home(both) == [entry for entry in before if entry.id not in gone]
    await both.bulk.drop_entries(HOME, gone, [])
    assert len(await of_home(both)) == 675


async def test_no_byte_of_a_dropped_entry_is_left(both: Both) -> None:
    await applied(both.store, *(click(user, "i") for user in ("u1-and-no-other", *NEIGHBOURS) for _ in range(3)))
    partition = KEYS.user_partition("u1-and-no-other")
    entries = [entry for entry in await log_of(both.store) if entry.partition == partition]
    gone = [entry.id for entry in entries if b"u1-and-no-other" in entry.body]
    await both.bulk.drop_entries(partition, gone, [])
    await both.bulk.put_users(partition, {"u1-and-no-other": b""}, (await both.store.heads())[partition])
    assert traces_in_store(both.store, ["u1-and-no-other"]) == []


async def test_xdel_would_leave_bytes_which_the_scan_sees(empty_server: EmbeddedServer) -> None:
    with redis.Redis.from_url(empty_server.url) as client:
        gone, _ = (client.xadd("hr:{p0}:log", {"b": f"{name}-of-a-person"}) for name in ("first", "second"))
        client.xdel("hr:{p0}:log", gone)
    assert len(traces_in_servers([empty_server.url], ["first-of-a-person"])) == 1
    assert traces_in_servers([empty_server.url], ["third-of-a-person"]) == []


@pytest.mark.parametrize("both", ["redis", "cluster"], indirect=True)
async def test_who_dies_over_a_draft_leaves_the_log_as_it_is_and_the_next_one_finishes(both: Both) -> None:
    assert isinstance(both.store, RedisStore) and isinstance(both.bulk, RedisBulk)
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n) for n in range(250)))
    bulk, before = both.bulk, await of_home(both)
    for n_calls in range(1, 4):
        left = n_calls

        async def dying(*command: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionError
            return await bulk._call(*command)

        with pytest.raises(ConnectionError):
            await rewrite_log(dying, KEYS, HOME, [made[7].id])
        assert await of_home(both) == before
    await bulk.drop_entries(HOME, [made[7].id], [])
    assert await of_home(both) == [entry for entry in before if entry.id != made[7].id]
    assert not [key for key in dump(both.store) if b"draft" in key]


async def test_positions_stay_when_the_newest_entries_are_dropped_or_all(both: Both) -> None:
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n) for n in range(5)))
    await both.bulk.drop_entries(HOME, [made[-1].id], [])
    assert (await both.store.heads())[HOME] == made[-1].id
    await both.bulk.drop_entries(HOME, [one.id for one in made], [])
    assert await of_home(both) == [] and (await both.store.heads())[HOME] == made[-1].id
    assert await both.bulk.trimmed() == {}
    (after,) = await applied(both.store, click("u1", "next", ts_ms=T0_MS))
    assert after.id > made[-1].id and [entry.id for entry in await of_home(both)] == [after.id]


async def test_what_was_trimmed_stays_trimmed(both: Both) -> None:
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n) for n in range(9)))
    await both.store.trim({HOME: made[3].id})
    await both.bulk.drop_entries(HOME, [made[1].id, made[4].id], [])
    assert (await both.bulk.trimmed())[HOME] == made[3].id
    await both.store.trim({HOME: made[5].id})
    assert [entry.id for entry in await of_home(both)] == [one.id for one in made[6:]]


async def test_an_empty_partition_stays_one_that_never_had_an_entry(both: Both) -> None:
    await both.bulk.drop_entries(HOME, [StreamId(5, 0)], [])
    assert await both.store.heads() == {} and await log_of(both.store) == []


async def test_an_event_that_is_forgotten_counts_when_it_comes_again(both: Both) -> None:
    first, again = await applied(both.store, click("u1", id="a"), click("u1", id="a"))
    assert again.is_duplicate
    await both.bulk.drop_entries(HOME, [first.id], [digest("u1", "a")])
    (back, other) = await applied(both.store, click("u1", id="a"), click("u1", id="a"))
    assert not back.is_duplicate and other.is_duplicate


@pytest.mark.parametrize("both", ["redis", "cluster"], indirect=True)
async def test_whoever_appends_and_trims_meanwhile_loses_nothing(both: Both) -> None:
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n // 9) for n in range(1500)))
    gone = {one.id for one in made[::2]}

    async def append() -> None:
        for n in range(60):
            made.extend(await applied(both.store, *(click("u1", f"j{n}", ts_ms=T0_MS + 200 + n) for _ in range(5))))

    async def trim() -> None:
        for n in range(5):
            await both.store.trim({HOME: made[100 * n].id})

    await asyncio.gather(append(), trim(), both.bulk.drop_entries(HOME, gone, []))
    expected = [one.id for one in made if one.id not in gone and one.id > made[400].id]
    assert [entry.id for entry in await of_home(both)] == expected


@pytest.mark.parametrize("both", ["redis", "cluster"], indirect=True)
async def test_of_two_who_drop_entries_the_second_one_does_it(both: Both) -> None:
    assert isinstance(both.store, RedisStore) and isinstance(both.bulk, RedisBulk)
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n) for n in range(700)))
    bulk, n_calls = both.bulk, 0

    async def interrupted(*command: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            await bulk.drop_entries(HOME, [made[0].id, made[1].id], [])
        return await bulk._call(*command)

    with pytest.raises(LogMoved, match="begin again"):
        await rewrite_log(interrupted, KEYS, HOME, [made[0].id])
    assert [entry.id for entry in await of_home(both)] == [one.id for one in made[2:]]


async def test_a_reader_that_waits_goes_on_waiting_for_what_comes(both: Both) -> None:
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n) for n in range(5)))
    reading = asyncio.create_task(both.store.read_log(await both.store.heads(), count=9, block_s=20.0))
    await both.bulk.drop_entries(HOME, [made[1].id, made[4].id], [])
    assert not reading.done()
    (after,) = await applied(both.store, click("u1", "next", ts_ms=T0_MS + 9))
    assert [entry.id for entry in await reading] == [after.id]


async def test_a_reader_anywhere_goes_on(both: Both) -> None:
    made = await applied(both.store, *(click("u1", f"i{n}", ts_ms=T0_MS + n) for n in range(9)))
    await both.bulk.drop_entries(HOME, [one.id for one in made[2:5]], [])
    for n, at in [(0, START), (3, made[3].id), (8, made[8].id)]:
        found = await both.store.read_log({HOME: at}, count=99)
        assert [entry.id for entry in found] == [one.id for one in made[n + (n > 0) :] if one not in made[2:5]]
