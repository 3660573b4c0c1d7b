"""Item rows against naive recounts of the same events."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import kernels
from features.errors import CorruptState, SchemaMismatch
from features.events import EVENT, ITEM, Entry, LoggedAttributes, LoggedEvent, StreamId, encode_body
from features.history import NOTHING, History, Recent, history_of
from features.item_table import UNKNOWN, ItemTable, attribute_inputs
from features.schema import Attribute, Counter, Schema, Voice, bucket, hash64
from tests.features.examples import T0_MS

SCHEMA = Schema(
    event_types=("view", "click"),
    context=("device",),
    n_successors=4,
    successor_span=3,
    successor_window_s=600.0,
    successor_half_lives_s=(60.0, 3600.0),
    voice=Voice(per_item=3, burst=12.0, per_hour=60.0),  # so little that streams of a hundred events go beyond it
    counters=(
        Counter(name="click", entity="item", types=("click",), half_lives_s=(60.0, 3600.0)),
        Counter(name="value", entity="item", types=("view", "click"), half_lives_s=(600.0,), use_value=True),
        Counter(name="by", entity="item", types=("view",), half_lives_s=(60.0, 600.0), split="device", n_buckets=3),
        Counter(name="click", entity="user", types=("click",), half_lives_s=(60.0,)),
    ),
    attributes=(
        Attribute(name="tags", entity="item", kind="tags", max_tags=2),
        Attribute(name="price", entity="item", kind="number"),
    ),
)

events = st.builds(
    LoggedEvent,
    type=st.sampled_from(SCHEMA.event_types),
    user=st.just("u"),
    item=st.sampled_from("abcd"),
    ts_ms=st.integers(T0_MS, T0_MS + 900_000),
    value=st.floats(0, 100),
    context=st.sampled_from([{}, {"device": "tv"}, {"device": "phone"}]),
    id=st.none(),
    decision=st.none(),
)


def event(item: str, ts_ms: int = T0_MS, kind: str = "click", value: float = 1.0, **context: str) -> LoggedEvent:
    return LoggedEvent(kind, "u", item, ts_ms, value, dict(context), None, None)


def recent(*items: str, ts_ms: int = T0_MS) -> History:
    return history_of([(item, 0, ts_ms) for item in items])


def table_of(*folded: LoggedEvent) -> ItemTable:
    table = ItemTable(SCHEMA, capacity=2)
    for each in folded:
        table.fold_events([(each, NOTHING)])
    return table


def decayed(table: ItemTable, item: str, now_ms: int) -> np.ndarray:
    """Every counter value of an item at an instant."""
    (row,) = table.find([item])
    age_ms = now_ms - table.ms[row, table.group_of_value]
    return np.where(table.value[row] == 0, 0.0, table.value[row] * np.exp2(-age_ms / table.half_life_ms))


@given(st.lists(events, max_size=25))
@settings(max_examples=60)
def test_counters_equal_the_closed_form_in_any_order(folded: list[LoggedEvent]) -> None:
    """value = sum over events of amount * 2 ** (-age / half-life); late events too."""
    table = table_of(*folded)
    now_ms = T0_MS + 900_000
    for item in {each.item for each in folded}:
        expected = np.zeros(len(table.half_life_ms))
        for each in (e for e in folded if e.item == item):
            for group in SCHEMA.item_groups:
                chosen = bucket(group, each.context)
                if each.type in group.counter.types and chosen is not None:
                    n = len(group.half_lives_ms)
                    at = slice(group.start + chosen * n, group.start + chosen * n + n)
                    amount = each.value if group.counter.use_value else 1.0
                    expected[at] += amount * np.exp2((each.ts_ms - now_ms) / np.array(group.half_lives_ms))
        np.testing.assert_allclose(decayed(table, item, now_ms), expected, rtol=1e-4, atol=1e-9)


def test_first_and_last_seen_are_the_extremes_whatever_the_order() -> None:
    table = table_of(*(event("a", T0_MS + ms) for ms in (50, 10, 90, 30)))
    (row,) = table.find(["a"])
    assert (table.first_ms[row], table.last_ms[row]) == (T0_MS + 10, T0_MS + 90)


def test_unknown_items_are_row_0_and_all_zeros() -> None:
    table = table_of(event("a"))
    assert table.find(["a", "b", ""]).tolist() == [1, UNKNOWN, UNKNOWN]
    assert not table.value[UNKNOWN].any() and not table.key[UNKNOWN] and not table.last_ms[UNKNOWN]
    assert np.isnan(table.number[UNKNOWN]).all()


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 90_000)), min_size=1, max_size=32))
@settings(max_examples=60)
def test_successors_equal_a_naive_recount(steps: list[tuple[str, int]]) -> None:
    """While no set overflows: weight 1/k to the k-th latest distinct item within the window."""
    schema = Schema(counters=(), attributes=(), successor_span=3, successor_window_s=300.0, n_successors=8)
    table = ItemTable(schema, capacity=2)
    now_ms, history = T0_MS, list[Recent]()
    naive: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for item, gap_ms in steps:
        now_ms += gap_ms
        table.fold_events([(LoggedEvent("click", "u", item, now_ms, 1.0, {}, None, None), history_of(history))])
        before = dict.fromkeys(i for i, _, ms in history if ms >= now_ms - 300_000 and i != item)
        for place, other in enumerate(list(before)[:3], 1):
            naive[other, item].append((now_ms, 1 / place))
        history.insert(0, (item, 0, now_ms))
    half_lives_ms = np.array(schema.successor_half_lives_s) * 1000
    for (before_item, after), added in naive.items():
        (row,) = table.find([before_item])
        (slot,) = np.flatnonzero(table.successor_key[row] == hash64(after))
        weight = table.successor_value[row, slot] * np.exp2(-(now_ms - table.successor_ms[row, slot]) / half_lives_ms)
        expected = sum(w * np.exp2(-(now_ms - ms) / half_lives_ms) for ms, w in added)
        np.testing.assert_allclose(weight, expected, rtol=1e-4)
    assert int((table.successor_key != 0).sum()) == len(naive)


def test_a_full_successor_set_gives_up_what_followed_least_lately() -> None:
    table = ItemTable(SCHEMA)
    for item in "bbbcde":
        later_ms = T0_MS + (0 if item == "b" else 400_000)
        table.fold_events([(event(item, later_ms), recent("a"))])
    table.fold_events([(event("f", T0_MS + 401_000), recent("a"))])
    (row,) = table.find(["a"])
    assert set(table.successor_key[row].tolist()) == {hash64(item) for item in "cdef"}


@given(st.lists(st.tuples(st.floats(0.0, 8.0, width=32), st.integers(-50, 2_000_000_000)), min_size=4, max_size=4))
def test_the_weakest_successor_is_the_one_with_least_left(successors: list[tuple[float, int]]) -> None:
    """The loop leaves out powers that can't matter."""
    table = ItemTable(SCHEMA, capacity=2)
    table.successor_key[1] = range(1, 5)
    table.successor_ms[1] = [T0_MS - age_ms for _, age_ms in successors]
    table.successor_value[1] = [[value] * len(SCHEMA.successor_half_lives_s) for value, _ in successors]
    half_lives_ms = 1000.0 * np.array(SCHEMA.successor_half_lives_s)
    left = [value * 0.5 ** (max(age_ms, 0) / half_lives_ms.min()) for value, age_ms in successors]
    found = kernels.place_among(1, np.uint64(9), T0_MS, table.columns, half_lives_ms)
    assert left[found] <= min(left) * (1 + 1e-12)


def test_a_full_successor_set_gives_up_its_weakest() -> None:
    table = ItemTable(SCHEMA)
    for item in "bbccdde":
        table.fold_events([(event(item), recent("a"))])
    table.fold_events([(event("f", T0_MS + 1000), recent("a"))])
    (row,) = table.find(["a"])
    assert set(table.successor_key[row].tolist()) == {hash64(item) for item in "bcdf"}


def test_predecessors_are_distinct_recent_and_not_the_item_itself() -> None:
    table = ItemTable(SCHEMA)
    items = [*recent("a", "b", "b", "x", "c", "d").items(), *recent("e", ts_ms=T0_MS - 601_000).items()]
    assert table.predecessors(history_of(items), T0_MS, "x") == ["a", "b", "c"]
    assert table.predecessors(history_of(items[5:]), T0_MS, "x") == ["d"]


def test_only_the_items_that_lack_an_event_take_it() -> None:
    table = ItemTable(SCHEMA)
    table.fold_events([(event("x"), recent("a", "b"))], takes=lambda item: item == "b")
    rows = dict(zip("xab", table.find("xab"), strict=True))
    assert not table.value[rows["x"]].any()
    assert rows["a"] == UNKNOWN
    assert table.successor_value[rows["b"], 0].tolist() == [0.5, 0.5]
    assert table.take_touched().tolist() == [rows["b"]]
    assert not len(table.take_touched())


def full_table() -> ItemTable:
    table = ItemTable(SCHEMA, capacity=2)
    table.set_attributes("a", {"tags": ["x", "y", "z"], "price": 4.5, "title": "shown only"})
    for number, item in enumerate("bcdefa"):
        table.fold_events([(event(item, T0_MS + number, "view", 2.0, device="tv"), recent("a", "b"))])
    return table


def test_packed_rows_come_back_bit_for_bit_and_replace_what_was_there() -> None:
    source, target = full_table(), table_of(*(event(item) for item in "abcz"))
    target.fold_events([(event("z"), recent("b"))])
    ids = source.ids[1:]
    target.load(ids, [source.pack(row) for row in range(1, len(source) + 1)])
    for row, item in enumerate(ids, 1):
        assert target.pack(target.rows[item]) == source.pack(row)
    assert target.attributes[target.rows["a"]]["title"] == "shown only"


def test_rows_packed_together_are_those_packed_alone() -> None:
    table = full_table()
    rows = [row for row in range(len(table) + 1) for _ in range(200)]  # more than one slice
    assert list(table.pack_all(rows)) == [table.pack(row) for row in rows]


@pytest.mark.parametrize("values", [(True, 1), (2, 2.0)], ids=repr)
def test_context_values_are_counted_by_how_they_are_written(values: tuple[object, object]) -> None:
    """Python takes 1 for True, and 2 for 2.0."""
    events = [LoggedEvent("view", "u", "x", T0_MS, 1.0, {"device": value}, None, None) for value in values]  # type: ignore[dict-item]
    together, apart = ItemTable(SCHEMA), ItemTable(SCHEMA)
    together.fold_events([(each, NOTHING) for each in events])
    for each in events:
        apart.fold_events([(each, NOTHING)])
    group = SCHEMA.item_groups[2]
    expected = np.bincount([bucket(group, each.context) for each in events], minlength=3)
    for table in (together, apart):
        assert table.value[1, group.start : group.start + group.n_values].tolist() == expected.repeat(2).tolist()


def test_a_loaded_table_folds_on_bit_for_bit() -> None:
    source, target = full_table(), ItemTable(SCHEMA)
    target.load(source.ids[1:], [source.pack(row) for row in range(1, len(source) + 1)])
    for table in (source, target):
        table.fold_events([(event("g", T0_MS + 5000), recent("a", "c", "b"))])
    assert [source.pack(row) for row in range(len(source) + 1)] == [target.pack(row) for row in range(len(target) + 1)]


def test_loading_nothing_leaves_an_item_as_it_is() -> None:
    table = full_table()
    before = table.pack(1)
    assert table.load(["a", "nobody"], [b"", b""]).tolist() == [1, UNKNOWN]
    assert table.pack(1) == before and "nobody" not in table.rows


def test_another_schema_and_cut_rows_are_refused_by_name() -> None:
    packed = full_table().pack(1)
    with pytest.raises(SchemaMismatch, match="under schema"):
        ItemTable(Schema()).load(["a"], [packed])
    for size in (3, 20, len(packed) // 2):
        with pytest.raises(CorruptState):
            ItemTable(SCHEMA).load(["a"], [packed[:size]])
    for tail in (b"\x81", b"\xc1", b"\x81\xa1a\xa1\xff", b"\x81\xa1a" + b"\x91" * 100_000):
        with pytest.raises(CorruptState, match="attributes"):
            ItemTable(SCHEMA).load(["a"], [packed + tail])


def test_attributes_become_keys_and_numbers_and_wrong_kinds_are_absent() -> None:
    keys, numbers = attribute_inputs(SCHEMA.item_attributes, {"tags": ["x"], "price": "dear"})
    assert keys.tolist() == [hash64("tags=x"), 0] and np.isnan(numbers).all()
    keys, numbers = attribute_inputs(SCHEMA.item_attributes, {"tags": ["x", "y", "z"], "price": 3})
    assert keys.tolist() == [hash64("tags=x"), hash64("tags=y")] and numbers.tolist() == [3.0]


def test_entries_are_folded_by_their_kind() -> None:
    table = ItemTable(SCHEMA)
    table.fold([Entry(StreamId(1, 0), 0, ITEM, encode_body(LoggedAttributes("a", {"price": 2.0}, T0_MS)), b"")])
    table.fold([Entry(StreamId(2, 0), 0, EVENT, encode_body(event("a")), b"")])
    (row,) = table.find(["a"])
    assert table.number[row].tolist() == [2.0] and table.value[row, 0] == 1.0
    assert table.describe(row, T0_MS)["attributes"] == {"price": 2.0}


def test_rows_keep_their_numbers_when_the_table_grows() -> None:
    table = ItemTable(SCHEMA, capacity=2)
    for number in range(100):
        table.fold_events([(event(f"i{number}"), recent(f"i{number - 1}") if number else NOTHING)])
    assert len(table) == 100
    assert table.key[table.find([f"i{n}" for n in range(100)])].tolist() == [hash64(f"i{n}") for n in range(100)]
    assert (table.successor_key[1:100, 0] == table.key[2:101]).all()
