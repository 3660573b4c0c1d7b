"""Who is let in at a door."""

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from deployments.errors import ConfigError, ForbiddenError, RateError, UnauthorizedError, UnavailableError
from deployments.gate import KNOWN, LOOK_AGAIN_S, PUBLIC, AccessConfig, Caller, KeyGate
from features.access import ADMIN, EVENTS, RANK, ApiKey, new_key, new_token
from features.access_store import MemoryAccessStore
from features.errors import StoreUnavailable


class Keys(MemoryAccessStore):
    """A store of keys that may be away or slow, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.held: list[asyncio.Event] = []
        """The next questions are answered when these are set, in this order, as of when they were asked."""
        self.n_asked = 0

    async def api_keys(self) -> dict[str, ApiKey]:
        """All keys, if they can be had."""
        self.n_asked += 1
        if self.is_away:
            raise StoreUnavailable("away")
        found = await super().api_keys()
        if self.held:
            await self.held.pop(0).wait()
        return found


class Door:
    """A gate, its store, and the time."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.now_s = 100.0
        self.gate = KeyGate(self.keys, "door", lambda: round(self.now_s * 1000), lambda: self.now_s, pause=self._pass)

    async def _pass(self, duration_s: float) -> None:
        await asyncio.sleep(0)
        self.now_s += duration_s

    async def new(self, name: str = "web", *scopes: str, **options: float) -> str:
        token = new_token()
        await self.keys.put_key(new_key(token, name, scopes or (RANK,), made_ms=0, **options))  # type: ignore[arg-type]
        return token

    async def ask(self, token: str, scope: str = RANK) -> Caller:
        return await self.gate.admit(bearer(token), scope)


async def turns(count: int = 5) -> None:
    """Let others go on as far as they come."""
    for _ in range(count):
        await asyncio.sleep(0)


def bearer(token: str) -> Mapping[bytes, bytes]:
    return {b"authorization": b"Bearer " + token.encode()}


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_key_lets_in_where_its_scope_does(door: Door) -> None:
    token = await door.new("web", RANK, EVENTS)
    for scope in (RANK, EVENTS, KNOWN):
        caller = await door.ask(token, scope)
        assert caller.key is not None and caller.key.name == "web"
    with pytest.raises(ForbiddenError, match="'web' may rank, events; this needs admin"):
        await door.ask(token, ADMIN)
    assert (await door.ask(await door.new("ann", ADMIN), RANK)).key is not None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer \xff"},
        {b"authorization": b"Basic aGVhZHJhY2U6cGFzcw=="},
        bearer("headrace_0123456789ab_" + "0" * 64),
    ],
)
async def test_nobody_comes_in_without_a_key(door: Door, headers: Mapping[bytes, bytes]) -> None:
    await door.new()
    for scope in (RANK, EVENTS, ADMIN, KNOWN):
        with pytest.raises(UnauthorizedError):
            await door.gate.admit(headers, scope)
    assert (await door.gate.admit(headers, PUBLIC)).key is None


async def test_the_id_of_a_key_without_its_secret_opens_nothing(door: Door) -> None:
    token = await door.new()
    with pytest.raises(UnauthorizedError, match="no such key"):
        await door.ask(token[:-64] + "0" * 64)


async def test_a_new_key_opens_at_once_and_one_that_was_taken_away_from_the_next_look_on(door: Door) -> None:
    await door.gate.look()
    token = await door.new()
    await door.ask(token)
    await door.keys.drop_key(token.split("_")[1])
    await door.gate.look()
    with pytest.raises(UnauthorizedError):
        await door.ask(token)


async def test_all_who_come_with_keys_that_nobody_knows_share_one_look(door: Door) -> None:
    await door.gate.look()
    began_s = door.now_s
    refused = await asyncio.gather(*(door.ask(new_token()) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(error, UnauthorizedError) for error in refused)
    assert door.keys.n_asked == 2 and door.now_s == began_s + LOOK_AGAIN_S


async def test_an_answer_that_comes_late_hides_no_new_key(door: Door) -> None:
    await door.new()
    late = asyncio.Event()
    door.keys.held.append(late)
    looking = asyncio.create_task(door.gate.look())
    await turns()
    token = await door.new()  # after the door has asked, before it hears
    asking = asyncio.create_task(door.ask(token))
    await turns()
    late.set()
    await asyncio.gather(looking, asking)
    door.keys.is_away = True
    assert (await door.ask(token)).key is not None  # the door knows it


async def test_a_look_that_has_begun_and_not_ended_decides_nothing(door: Door) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    door.keys.held += [first, second]
    stranger = asyncio.create_task(door.ask(new_token()))
    await turns()
    token = await door.new()  # after the stranger's look
    door.now_s += 0.01
    asking = asyncio.create_task(door.ask(token))
    await turns()
    door.now_s += 0.01
    looking = asyncio.create_task(door.gate.look())
    await turns()
    first.set()
    await turns()
    second.set()
    assert (await asking).key is not None
    await looking
    with pytest.raises(UnauthorizedError):
        await stranger


async def test_a_door_that_cannot_look_does_not_say_that_a_key_opens_nothing(door: Door) -> None:
    await door.gate.look()
    token = await door.new()
    door.keys.is_away = True
    for answer in await asyncio.gather(*(door.ask(token) for _ in range(20)), return_exceptions=True):
        assert isinstance(answer, UnavailableError)
    assert door.keys.n_asked == 2
    door.keys.is_away = False
    await door.ask(token)


async def test_keys_that_were_read_hold_while_the_store_is_away(door: Door) -> None:
    token = await door.new()
    await door.gate.look()
    door.keys.is_away = True
    with pytest.raises(StoreUnavailable):
        await door.gate.look()
    await door.ask(token)


async def test_nobody_is_let_in_before_keys_could_be_read(door: Door) -> None:
    token = await door.new()
    door.keys.is_away = True
    with pytest.raises(UnavailableError):
        await door.ask(token)
    door.keys.is_away = False
    await door.ask(token)


async def test_two_keys_open_while_one_takes_the_place_of_the_other(door: Door) -> None:
    old, new = await door.new(), await door.new()
    await door.ask(old)
    await door.ask(new)
    (kept,) = [key for key in (await door.keys.api_keys()).values() if key.opens(old)]
    await door.keys.put_key(msgspec.structs.replace(kept, until_ms=round(door.now_s * 1000) + 10_000))
    await door.gate.look()
    await door.ask(old)
    door.now_s += 10.0
    with pytest.raises(UnauthorizedError, match="its time is over"):
        await door.ask(old)
    await door.ask(new)


async def test_beyond_its_rate_a_key_is_refused_and_others_are_not(door: Door) -> None:
    token, other = await door.new("web", per_s=10.0), await door.new("kiosk", per_s=10.0)
    for _ in range(10):
        await door.ask(token)
    with pytest.raises(RateError) as refused:
        await door.ask(token)
    assert int(refused.value.headers["headrace-hold-ms"]) > 0 and refused.value.retryable
    await door.ask(other)
    door.now_s += 1.0
    caller = await door.ask(token)
    caller.charge(99)
    with pytest.raises(RateError):
        await door.ask(token)
    assert door.gate.refused == {"rate": 2}


async def test_keys_of_one_name_share_a_rate(door: Door) -> None:
    one, two = await door.new("web", per_s=2.0), await door.new("web", per_s=2.0)
    await door.ask(one)
    await door.ask(two)
    with pytest.raises(RateError):
        await door.ask(one)


async def test_who_did_something_is_the_name_of_the_key_and_what_it_says_beside(door: Door) -> None:
    caller = await door.ask(await door.new("ops", ADMIN), ADMIN)
    assert (caller.named("operator"), caller.named("ann")) == ("ops", "ops (ann)")
    anybody = await door.gate.admit({}, PUBLIC)
    assert anybody.named("ann") == "ann"


def test_keys_are_needed_as_soon_as_others_reach_the_doors() -> None:
    def decided(keys: str, *, is_loopback: bool) -> str:
        return AccessConfig(keys=keys).at(is_loopback=is_loopback).keys  # type: ignore[arg-type]

    assert [decided(keys, is_loopback=True) for keys in ("auto", "on", "off")] == ["off", "on", "off"]
    assert [decided(keys, is_loopback=False) for keys in ("auto", "on")] == ["on", "on"]
    with pytest.raises(ConfigError, match=r"access\.keys: off"):
        decided("off", is_loopback=False)
