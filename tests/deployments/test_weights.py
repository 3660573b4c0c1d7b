"""Laws of following the hub: every answer is of one edition, and a new replica begins where the others are."""

import asyncio
import itertools
import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from deployments.weights import WeightFollower
from learners.editions import Place, heads, parts
from learners.online import OnlineLearner
from learners.publisher import Draft, Publisher
from tests.learners.examples import SCHEMA, inputs_of, learned, log, stream
from tests.learners.test_publisher import UNLIMITED

ENTRIES = log(stream(600))


class Given:
    """Bytes as a reference of Ray's: to be awaited."""

    def __init__(self, packed: bytes) -> None:
        self._packed = np.frombuffer(packed, dtype=np.uint8)

    def __await__(self) -> Generator[None, None, Any]:
        yield
        return self._packed


class Hub:
    """Hands out editions as the hub does, as often as they are asked for; `remote` makes a method of Ray's of any."""

    def __init__(self) -> None:
        self.publisher = Publisher("hub", UNLIMITED)
        self.learner: OnlineLearner = learned(ENTRIES[:100])
        self.editions: dict[int, list[bytes]] = {}
        self.settings = b""
        self.n_asked, self.n_cut = 0, 0
        self.publish()

    @property
    def follow(self) -> Any:
        return type("Method", (), {"remote": self._follow})

    def publish(self) -> Draft:
        full = self.learner.snapshot(self.publisher.version + 1)
        self.publisher.note_all(full)
        draft = self.publisher.draft(full)
        self.publisher.settle(draft)
        self.editions[draft.head.place.number] = [heads.pack(draft.head), *map(parts.pack, draft.parts)]
        return draft

    async def _follow(self, place: Place, _trained_through_ms: int, _wait_s: float) -> dict[str, Any]:
        self.n_asked += 1
        damage = self.n_asked <= self.n_cut
        newest = self.publisher.place
        missing = range(place.number + 1, newest.number + 1)
        if place.origin == newest.origin and set(missing) <= set(self.editions):
            editions = [self.editions[number] for number in missing]
        else:
            head, rows = self.publisher.whole()
            editions = [[heads.pack(head), *map(parts.pack, rows)]]
        return {
            "place": newest,
            "trained_through_ms": 99,
            "settings": self.settings,
            "editions": [[Given(part[:-1] if damage else part) for part in edition] for edition in editions],
        }


def later(hub: Hub, n: int) -> None:
    """Publish a version more."""
    learned(ENTRIES[n : n + 100], hub.learner)
    hub.publish()


async def test_a_replica_that_missed_some_and_one_that_missed_too_many_score_as_one_that_followed() -> None:
    hub = Hub()
    steady, some, many = (WeightFollower(SCHEMA) for _ in range(3))
    for follower in (steady, some, many):
        await follower.follow_once(hub, 0.0)
    for n in (100, 200, 300, 400):
        later(hub, n)
        await steady.follow_once(hub, 0.0)
    await some.follow_once(hub, 0.0)
    hub.editions.clear()
    await many.follow_once(hub, 0.0)
    inputs = inputs_of(hub.learner)
    for follower in (some, many):
        np.testing.assert_array_equal(follower.live.score(inputs), steady.live.score(inputs))
        assert (follower.version, follower.trained_through_ms) == (5, 99)
    assert (steady.n_swaps, some.n_swaps, many.n_swaps) == (5, 5, 2)
    assert steady.n_bytes == some.n_bytes > 0


async def test_while_it_is_prepared_the_edition_before_answers() -> None:
    hub = Hub()
    follower = WeightFollower(SCHEMA)
    await follower.follow_once(hub, 0.0)
    inputs = inputs_of(hub.learner)
    before, seen = follower.live.score(inputs), set[tuple[int, bool]]()
    later(hub, 100)
    task = asyncio.create_task(follower.follow_once(hub, 0.0))
    while not task.done():
        seen.add((follower.version, bool((follower.live.score(inputs) == before).all())))
        await asyncio.sleep(0)
    assert (1, True) in seen and seen <= {(1, True), (2, False)}


async def test_settings_are_told_once() -> None:
    hub, told = Hub(), list[bytes]()
    follower = WeightFollower(SCHEMA, told.append)
    hub.settings = b"other"
    for _ in range(2):
        await follower.follow_once(hub, 0.0)
    assert told == [b"other"]


def _found_after(n_failures: float, hub: Hub) -> Callable[[], Any]:
    asked = itertools.count()

    def find() -> Any:
        if next(asked) < n_failures:
            raise ValueError("no actor of this name")
        return hub

    return find


async def test_a_new_replica_begins_with_what_the_others_answer_with() -> None:
    follower = WeightFollower(SCHEMA, find_hub=_found_after(2, Hub()))
    await follower.catch_up()
    assert follower.version == 1


async def test_without_a_hub_it_begins_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    follower = WeightFollower(SCHEMA, find_hub=_found_after(math.inf, Hub()))
    await follower.catch_up(0.05)
    assert follower.version == 0 and "answering without its weights" in caplog.text


async def test_what_was_altered_on_the_way_is_fetched_again() -> None:
    hub = Hub()
    hub.n_cut = 2
    follower = WeightFollower(SCHEMA, find_hub=lambda: hub)
    await follower.catch_up()
    assert (follower.version, hub.n_asked) == (1, 3)
