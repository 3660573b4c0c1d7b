"""When a learner's work becomes a version, and when it has lost the thread."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from features.events import ERASURE, Entry, LoggedErasure, StreamId, encode_body
from features.ticks import Tick
from learners import snapshots
from learners.errors import StaleSnapshot
from learners.offers import Alone
from learners.online import OnlineLearner
from tests.learners.examples import CONFIG, KEYS, SCHEMA, T0_MS, item_entry, log, stream


class Remote:
    """A method of an actor."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.remote = method


class Hub:
    """Commits what stands on its version, as the hub does."""

    def __init__(self) -> None:
        self.version = 0
        self.trained_through_ms = 0
        self.offer, self.advance = Remote(self._offer), Remote(self._advance)
        self.note_read = Remote(self._note_read)
        self.read_in_vain: list[dict[int, tuple[int, int]]] = []

    async def _offer(self, packed: bytes) -> int:
        delta = snapshots.unpack(packed)
        if (delta.base or 0) != self.version:
            raise StaleSnapshot(f"on {delta.base}, expected {self.version}")
        self.version = delta.version
        return self.version

    async def _note_read(self, positions: dict[int, tuple[int, int]]) -> None:
        self.read_in_vain.append(positions)

    async def _advance(self, version: int, trained_through_ms: int) -> bool:
        if version != self.version:
            return False
        self.trained_through_ms = trained_through_ms
        return True


async def learned(hub: Hub) -> Alone:
    """A learner that has offered what there was, and will offer whatever else it learns at once."""
    learner = OnlineLearner(SCHEMA, CONFIG)
    offers = Alone(hub, learner, 0, 0.0)
    entries = log(stream(100))
    for entry in entries:
        await offers.before(entry.id.ms)
        learner.read(entry)
        await offers.after(entry.id.ms)
    await offers.close(Tick(entries, entries[-1].id.ms + 60_000))
    return offers


async def test_a_learner_alone_offers_what_it_learns_and_says_how_far_it_is() -> None:
    hub = Hub()
    offers = await learned(hub)
    assert hub.version == offers.version > 0
    end_ms = stream(100)[-1].ts_ms + 120_000
    await offers.close(Tick([], end_ms))
    assert hub.trained_through_ms == end_ms


async def test_a_learner_with_nothing_to_learn_notices_that_its_version_is_not_the_current_one() -> None:
    hub = Hub()
    offers = await learned(hub)
    hub.version += 1  # one that was made elsewhere
    with pytest.raises(StaleSnapshot, match="not the current one"):
        await offers.close(Tick([], stream(100)[-1].ts_ms + 120_000))


async def test_a_learner_that_never_had_anything_to_learn_says_how_far_it_has_read() -> None:
    """Who asks whether something may still become of what was read there is answered."""
    hub, learner = Hub(), OnlineLearner(SCHEMA, CONFIG)
    offers, entry = Alone(hub, learner, 0, 0.0), item_entry("i1", T0_MS, price=3.0)
    await offers.close(Tick([], T0_MS - 200))
    await offers.before(entry.id.ms)
    learner.read(entry)
    await offers.after(entry.id.ms)
    await offers.close(Tick([entry], T0_MS + 200))
    await offers.close(Tick([], T0_MS + 400))
    assert hub.read_in_vain == [{}, {entry.partition: (T0_MS, 0)}] and hub.version == 0
    hub = Hub()
    assert (await learned(hub)).version == hub.version > 0 and hub.read_in_vain == []


async def test_an_erasure_is_offered_though_nothing_is_learned_any_more() -> None:
    """Whoever waits for it must not have to wait until somebody does something."""
    hub = Hub()
    offers = await learned(hub)
    before, now_ms = hub.version, stream(100)[-1].ts_ms + 120_000
    body = encode_body(LoggedErasure("u1", now_ms))
    erasure = Entry(StreamId(now_ms, 0), KEYS.user_partition("u1"), ERASURE, body, b"")
    await offers.before(now_ms)
    offers._learner.read(erasure)
    await offers.after(now_ms)
    assert hub.version == before + 1
    await offers.close(Tick([erasure], now_ms + 200))
    assert hub.version == before + 1
