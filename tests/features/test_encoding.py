"""The encoder against closed forms, and its laws: padding, batch change nothing."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import kernels
from features.encoding import N_RECENT, Encoder, Inputs, Request
from features.events import LoggedEvent
from features.history import NOTHING, arrays_of, history_of
from features.item_table import UNKNOWN, ItemTable
from features.schema import Schema, hash64
from features.state import UserState, apply_update, unpack, update_for, with_attributes
from tests.features.examples import T0_MS
from tests.features.test_item_table import SCHEMA as BASE

SCHEMA = BASE
NOW_MS = T0_MS + 60_000


def event(user: str, item: str, ts_ms: int, kind: str = "click", value: float = 1.0, **context: str) -> LoggedEvent:
    return LoggedEvent(kind, user, item, ts_ms, value, dict(context), None, None)


def user_of(*items: tuple[str, int], schema: Schema = SCHEMA) -> UserState:
    """Who clicked these, at these instants."""
    state = b""
    for item, ts_ms in items:
        state = apply_update(state, update_for(event("u", item, ts_ms), schema), schema)
    return unpack(state, schema)


def table() -> ItemTable:
    """a, b, c; b and c follow a."""
    items = ItemTable(SCHEMA)
    items.set_attributes("a", {"tags": ["x"], "price": 9.0})
    items.fold_events([(event("v", "a", T0_MS, device="tv"), NOTHING)])
    items.fold_events([(event("v", "b", T0_MS + 1000, "view", 3.0, device="tv"), history_of([("a", 1, T0_MS)]))])
    items.fold_events([(event("v", "c", T0_MS + 2000), history_of([("b", 0, T0_MS + 1000), ("a", 1, T0_MS)]))])
    return items


def request(*candidates: str, user: UserState | None = None, now_ms: int = NOW_MS, **context: str) -> Request:
    return Request(user or user_of(("a", T0_MS + 30_000)), dict(context), now_ms, candidates)


ENCODER = Encoder(SCHEMA)


def dense(inputs: Inputs, name: str) -> np.ndarray:
    found: np.ndarray = inputs.dense[..., ENCODER.dense_names.index(name)]
    return found


def equal(one: Inputs, other: Inputs) -> None:
    for field in fields(Inputs):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_names_and_inputs_have_the_same_width() -> None:
    inputs = ENCODER.encode(table(), [request("a", "b")])
    assert inputs.dense.shape == (1, 2, len(ENCODER.dense_names))
    assert inputs.user_dense.shape == (1, len(ENCODER.user_names))
    assert np.isfinite(inputs.dense).all() and np.isfinite(inputs.user_dense).all()


def test_counts_decay_to_the_instant_of_the_request() -> None:
    inputs = ENCODER.encode(table(), [request("a"), request("a", now_ms=NOW_MS + 60_000)])
    name = next(n for n in ENCODER.dense_names if n.startswith("count:click."))
    np.testing.assert_allclose(dense(inputs, name)[:, 0], np.log1p([0.5, 0.25]), rtol=1e-5)


def test_a_request_before_the_newest_event_does_not_grow_counts() -> None:
    inputs = ENCODER.encode(table(), [request("c", now_ms=T0_MS)])
    name = next(n for n in ENCODER.dense_names if n.startswith("count:click."))
    assert dense(inputs, name)[0, 0] == pytest.approx(np.log(2))


def test_split_counts_are_those_of_the_requests_context() -> None:
    requests = [request("b", device="tv"), request("b", device="phone"), request("b")]
    inputs = ENCODER.encode(table(), requests)
    name = next(n for n in ENCODER.dense_names if n.startswith("split:by."))
    expected = np.log1p(0.5 ** (59 / 60))
    np.testing.assert_allclose(dense(inputs, name)[:, 0], [expected, 0.0, 0.0], rtol=1e-5)


def test_what_followed_the_last_item_is_found_for_each_request_of_a_batch() -> None:
    users = [user_of(("a", T0_MS + 30_000)), user_of(("b", T0_MS + 30_000)), user_of()]
    inputs = ENCODER.encode(table(), [request("c", "b", "nobody", user=user) for user in users])
    name = next(n for n in ENCODER.dense_names if n.startswith("follows_last."))
    c_after_a, b_after_a = 0.5 * 0.5 ** (58 / 60), 0.5 ** (59 / 60)
    expected = [[c_after_a, b_after_a, 0.0], [2 * c_after_a, 0.0, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(dense(inputs, name), np.log1p(10 * np.array(expected)), rtol=1e-4, atol=1e-7)


def test_seen_candidates_are_counted_and_dated() -> None:
    user = user_of(("b", T0_MS), ("a", T0_MS + 10_000), ("b", T0_MS + 50_000))
    inputs = ENCODER.encode(table(), [request("b", "c", user=user)])
    np.testing.assert_allclose(dense(inputs, "n_seen")[0], np.log1p([2, 0]))
    np.testing.assert_allclose(dense(inputs, "seen_idle")[0], [np.log1p(10.0) / 10, 2.0], rtol=1e-6)


keys = st.integers(0, 6)


@given(st.lists(keys, max_size=9), st.lists(keys, max_size=9))
def test_a_key_is_found_where_it_stands_first(own: list[int], asked: list[int]) -> None:
    """Key 0 is absent; of a key that is repeated, the first place counts."""
    own_K = np.array(own, dtype=np.uint64)
    slots = kernels.new_slots(len(own))
    kernels.fill(slots, own_K)
    for key in asked:
        expected = own.index(key) if key and key in own else kernels.EMPTY
        assert kernels.find(slots, own_K, np.uint64(key)) == expected


def test_unknown_items_have_their_key_and_nothing_else() -> None:
    inputs = ENCODER.encode(table(), [request("a", "nobody")])
    assert inputs.item_key[0].tolist() == [hash64("a"), hash64("nobody")]
    assert dense(inputs, "is_known")[0].tolist() == [1.0, 0.0]
    others = [n for n in ENCODER.dense_names if n not in ("idle", "seen_idle")]
    assert not any(dense(inputs, name)[0, 1] for name in others)
    assert not inputs.attribute_key[0, 1].any()


def test_padding_changes_no_input_of_a_real_candidate() -> None:
    alone = ENCODER.encode(table(), [request("b", "nobody", device="tv")])
    padded = ENCODER.encode(table(), [request("a", "b", "c", "d", "e"), request("b", "nobody", device="tv")])
    for field in fields(Inputs):
        mine, other = getattr(alone, field.name)[0], getattr(padded, field.name)[1]
        is_by_candidate = field.name in ("mask", "dense", "item_key", "attribute_key")
        np.testing.assert_array_equal(other[:2] if is_by_candidate else other, mine, err_msg=field.name)
    assert not padded.mask[1, 2:].any() and not padded.dense[1, 2:].any() and not padded.item_key[1, 2:].any()


def test_recent_items_are_newest_first_typed_and_aged_and_cut() -> None:
    schema = Schema(n_recent=32)
    user = user_of(*((f"i{n}", T0_MS + 1000 * n) for n in range(40)), schema=schema)
    inputs = Encoder(schema).encode(ItemTable(schema), [Request(user, {}, T0_MS + 39_000, ["x"])])
    assert inputs.recent_key.shape == (1, N_RECENT)
    assert inputs.recent_key[0, :2].tolist() == [hash64("i39"), hash64("i38")]
    assert set(inputs.recent_type[0].tolist()) == {1 + schema.type_index["click"]}
    np.testing.assert_allclose(inputs.recent_age[0, :3], np.log1p([0, 1, 2]) / 10, rtol=1e-6)


def test_a_stranger_without_context_is_all_absent() -> None:
    inputs = ENCODER.encode(table(), [request("a", user=unpack(b"", SCHEMA))])
    assert not inputs.recent_key.any() and not inputs.recent_type.any() and not inputs.context_key.any()


def test_context_and_user_attributes_become_keys() -> None:
    schema = Schema()
    state = with_attributes(b"", b"\x81\xa7segment\xa4gold", schema)
    asked = Request(unpack(state, schema), {"device": "tv", "other": 1}, NOW_MS, ["a"])
    inputs = Encoder(schema).encode(ItemTable(schema), [asked])
    assert inputs.context_key[0].tolist() == [hash64("device=tv"), 0, 0, 0, 0]
    assert inputs.user_key[0].tolist() == [hash64("segment=gold")]


def test_popularity_ranks_by_decayed_counts() -> None:
    items = table()
    for n in range(5):
        items.fold_events([(event("w", "c", T0_MS + 3000 + n), NOTHING)])
    prior = ENCODER.popularity(ENCODER.encode(items, [request("a", "c", "nobody")]))
    assert prior[0, 1] > prior[0, 0] > prior[0, 2] == 0.0


def test_rows_before_are_padded_with_unknown() -> None:
    items = table()
    seen = arrays_of([history_of([("b", 0, NOW_MS), ("zz", 0, NOW_MS)])], 5)
    rows = items.rows_of(items.keys_before(seen, np.array([NOW_MS])))
    assert rows.tolist() == [[items.rows["b"], UNKNOWN, UNKNOWN]]
