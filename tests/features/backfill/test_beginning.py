"""A log that does not tell everything is not lived through again."""

import pytest

from features.backfill.beginning import check_beginning
from features.errors import StoreRefused
from features.events import START
from features.store import all_of
from tests.features.examples import Both, click

USERS = ["u1", "u2", "u3"]


async def send(both: Both, *users: str) -> None:
    all_of(await both.store.apply([click(user) for user in users]))


async def test_a_log_that_was_always_there_tells_everything(both: Both) -> None:
    await send(both, *USERS, "u1")
    await check_beginning(*both, both.store)


async def test_who_did_something_before_his_first_entry_is_named(both: Both) -> None:
    await send(both, *USERS, "u1")
    first = next(entry for entry in await both.store.read_log({}, count=9) if entry.state == b"")
    await both.store.trim({first.partition: first.id})
    await send(both, *USERS)
    with pytest.raises(StoreRefused, match=r"user 'u\d' had done something before its first entry.*--before EVENTS"):
        await check_beginning(*both, both.store)


async def test_so_is_who_has_no_entry(both: Both) -> None:
    await send(both, "u1")
    partition = both.store.keys.user_partition("u2")
    (state, _), _ = await both.store.read(["u1", "u2"], [])
    heads = await both.store.heads()
    assert isinstance(state, bytes)
    await both.bulk.put_users(partition, {"u2": state}, heads.get(partition, START))
    with pytest.raises(StoreRefused, match="user 'u2'"):
        await check_beginning(*both, both.store)
