"""Keys made, replaced and taken away."""

import pytest

from deployments.errors import ConfigError
from deployments.key_ring import KeyRing
from features.access import EVENTS, RANK
from features.access_store import MemoryAccessStore


class Ring:
    """A ring and its time."""

    def __init__(self) -> None:
        self.store = MemoryAccessStore()
        self.now_ms = 1_000_000
        self.ring = KeyRing(self.store, "ann", lambda: self.now_ms)

    async def opens(self, token: str) -> bool:
        return any(key.opens(token) and not key.is_over(self.now_ms) for key in await self.ring.all())


@pytest.fixture
def it() -> Ring:
    return Ring()


async def test_a_rotated_key_has_the_same_rights_and_the_one_before_opens_for_a_while(it: Ring) -> None:
    old = await it.ring.make("web", (RANK, EVENTS), per_s=5.0, sources=("web", "app"))
    it.now_ms += 1
    new = await it.ring.rotate("web", keep_s=60.0)
    assert old != new and await it.opens(old) and await it.opens(new)
    before, after = await it.ring.all()
    assert (before.scopes, before.per_s, before.sources) == (after.scopes, after.per_s, after.sources)
    it.now_ms += 60_000
    assert not await it.opens(old) and await it.opens(new)


async def test_rotating_again_never_lengthens_what_ends_sooner(it: Ring) -> None:
    old = await it.ring.make("web", (RANK,), lasts_s=10.0)
    await it.ring.rotate("web", keep_s=3600.0)
    it.now_ms += 10_000
    assert not await it.opens(old)


async def test_all_keys_of_a_name_are_taken_away_or_one_by_its_id(it: Ring) -> None:
    one, two, other = [await it.ring.make(name, (RANK,)) for name in ("web", "web", "kiosk")]
    await it.ring.revoke(one.split("_")[1])
    assert [await it.opens(token) for token in (one, two, other)] == [False, True, True]
    await it.ring.revoke("web")
    assert [await it.opens(token) for token in (one, two, other)] == [False, False, True]


async def test_changes_are_in_the_record_and_tokens_are_not(it: Ring) -> None:
    token = await it.ring.make("web", (RANK,))
    token_2 = await it.ring.rotate("web", keep_s=1.0)
    await it.ring.revoke("web")
    done = await it.store.actions(10)
    assert [one.what for one in done[::-1]] == ["key added", "key rotated", "key revoked", "key revoked"]
    assert {one.who for one in done} == {"ann"} and done[-1].about == f"web {token.split('_')[1]}"
    assert not any(secret in str(done) for secret in (token[-64:], token_2[-64:]))


async def test_what_is_not_there_is_said(it: Ring) -> None:
    for change in (it.ring.revoke("web"), it.ring.rotate("web", keep_s=1.0)):
        with pytest.raises(ConfigError, match="'web'"):
            await change
    with pytest.raises(ConfigError, match="name"):
        await it.ring.make("a b", (RANK,))
