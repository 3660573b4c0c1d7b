"""The one law of the cache: what it calls fresh is not older than was asked for, whatever is told and when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.row_cache import RowCache
from features.events import LoggedEvent
from features.history import NOTHING
from features.item_table import ItemTable
from tests.features.examples import SCHEMA, T0_MS

ITEMS = ("a", "b")
AGE_S = 1.0
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(ITEMS)),
        st.tuples(st.sampled_from(["ask", "reply", "tell", "hear", "begin", "lose"]), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([0.2, 0.5, 1.5])),
    ),
    max_size=40,
)


class World:
    """A store whose tidings and replies are slow, a cache, and a clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.cache = RowCache(SCHEMA, lambda: self.now_s)
        self.truth = ItemTable(SCHEMA)
        self.written: dict[str, list[tuple[float, int]]] = {item: [(0.0, 0)] for item in ITEMS}
        self.untold: list[str] = []
        self.reply: list[bytes] | None = None
        self.is_followed = False

    def write(self, item: str) -> None:
        """One more event on the item: its newest instant says which write it was."""
        number = len(self.written[item])
        self.truth.fold_events([(LoggedEvent("click", "u", item, T0_MS + number, 1.0, {}, None, None), NOTHING)])
        self.written[item].append((self.now_s, number))
        if self.is_followed:
            self.untold.append(item)

    def ask(self, _: None) -> None:
        """The store answers with what it holds now; the answer is still under way."""
        self.cache.asking()
        self.reply = [self.truth.pack(self.truth.rows[i]) if i in self.truth.rows else b"" for i in ITEMS]

    def reply_(self, _: None) -> None:
        """The answer arrives."""
        if self.reply is not None:
            self.cache.load(ITEMS, self.reply)
        self.reply = None

    def tell(self, _: None) -> None:
        """What was written is told, and nothing about until when."""
        self.cache.changed(self.untold)
        self.untold = []

    def hear(self, _: None) -> None:
        """Everything is told, and that it is everything."""
        if self.is_followed:
            self.tell(None)
            self.cache.heard(self.now_s)

    def begin(self, _: None) -> None:
        """A new connection: what was not told will never be."""
        self.untold, self.is_followed = [], True
        self.cache.began()

    def lose(self, _: None) -> None:
        """The connection is gone, with what it had not told."""
        self.untold, self.is_followed = [], False

    def wait(self, for_s: float) -> None:
        """Time goes by."""
        self.now_s += for_s

    def newest(self, item: str, before_s: float) -> int:
        """Number of the item's last write before an instant."""
        return max(number for at_s, number in self.written[item] if at_s < before_s)


@given(steps)
def test_what_is_fresh_is_not_older_than_asked_for(done: list[tuple[str, object]]) -> None:
    world = World()
    for name, argument in done:
        getattr(world, "reply_" if name == "reply" else name)(argument)
        rows = world.cache.table.find(ITEMS)
        for item, row, is_stale in zip(ITEMS, rows, world.cache.is_stale(rows, AGE_S), strict=True):
            if not is_stale:
                last_ms = int(world.cache.table.last_ms[row])
                held = last_ms - T0_MS if last_ms else 0
                assert held >= world.newest(item, world.now_s - AGE_S)


@pytest.mark.parametrize(
    "story",
    [
        ["begin", "ask", "write", "hear", "reply_"],  # told before the reply that lacks it
        ["ask", "write", "begin", "reply_"],  # never told, and lacking in the reply
        ["begin", "ask", "reply_", "lose", "write", "begin"],  # written while nobody listened
    ],
)
def test_what_a_reply_lacks_is_asked_for_again(story: list[str]) -> None:
    world = World()
    for name in story:
        getattr(world, name)("a" if name == "write" else None)
        world.wait(0.1)
    world.wait(1.5)
    world.hear(None)
    assert world.cache.is_stale(world.cache.table.find(["a"]), AGE_S).all()


def test_what_is_told_is_read_once() -> None:
    world = World()
    world.write("a")
    world.begin(None)
    world.wait(0.1)
    for _ in range(3):
        world.ask(None)
        world.reply_(None)
        for _ in range(10):
            world.wait(1.0)
            world.hear(None)
        assert not world.cache.is_stale(world.cache.table.find(ITEMS), AGE_S).any()
        world.write("a")
        world.hear(None)
        np.testing.assert_array_equal(world.cache.is_stale(world.cache.table.find(ITEMS), AGE_S), [True, False])


def test_an_item_that_nobody_knows_is_remembered() -> None:
    world = World()
    world.ask(None)
    world.reply_(None)
    assert not world.cache.is_stale(world.cache.table.find(ITEMS), AGE_S).any()


def test_room_is_made_by_starting_afresh() -> None:
    cache = RowCache(SCHEMA)
    cache.asking()
    cache.load(["a"], [b""])
    cache.reset()
    assert len(cache) == 0 and cache.is_stale(cache.table.find(["a"]), 1e9).all()
