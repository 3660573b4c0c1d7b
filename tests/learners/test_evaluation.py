"""Evaluation lives through a stream once: nothing of the future, and nothing of the answers, is in a score."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.errors import InvalidInput
from features.schema import Schema
from learners.evaluation import evaluate
from tests.learners.examples import CONFIG, SCHEMA, stream

N_EVENTS = 900


def events_of(seed: int = 0) -> pa.Table:
    rows = [
        {"ts_ms": e.ts_ms, "type": e.type, "user": int(e.user[1:]), "item": int(e.item[1:]), "session": 7, **e.context}
        for e in stream(N_EVENTS, seed)
    ]
    return pa.Table.from_pylist(rows)


EVENTS = events_of()


def queries_of(events: pa.Table, every: int = 15) -> pa.Table:
    """Each asks for the item of an event just before it happens."""
    rows = [
        {
            "query_id": 1000 + number,
            "ts_ms": row["ts_ms"],
            "user": row["user"],
            "session": row["session"],
            "item": row["item"],
            "candidates": [row["item"], *(n for n in range(40) if n != row["item"])],
        }
        for number, row in enumerate(events.to_pylist())
        if number % every == 10
    ]
    return pa.Table.from_pylist(rows)


QUERIES = queries_of(EVENTS)


def scores(events: pa.Table, queries: pa.Table, schema: Schema = SCHEMA, **stated: pa.Table) -> np.ndarray:
    return np.array(evaluate(events, queries, schema, CONFIG, **stated)["scores"].to_pylist(), dtype=np.float32)


@pytest.fixture(scope="module")
def straight() -> np.ndarray:
    return scores(EVENTS, QUERIES)


def replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))


def test_every_query_has_a_score_for_each_candidate() -> None:
    calls: list[int] = []
    predictions = evaluate(EVENTS, QUERIES, SCHEMA, CONFIG, lambda n, note="": calls.append(n))
    assert predictions["query_id"].to_pylist() == QUERIES["query_id"].to_pylist()
    assert predictions["scores"].type == pa.list_(pa.float32())
    assert {len(row) for row in predictions["scores"].to_pylist()} == {40}
    assert calls and calls[-1] <= N_EVENTS


def test_the_pattern_is_learned(straight: np.ndarray) -> None:
    """The positive is candidate 0 of 40; in every third query it follows from the click before."""
    late = straight[len(straight) // 2 :]
    rank = (late[:, 1:] > late[:, :1]).sum(axis=1)
    assert (rank == 0).mean() > 0.15


@pytest.mark.parametrize("cut", [1, 30, 59])
def test_shuffling_the_future_changes_nothing(straight: np.ndarray, cut: int) -> None:
    """Also not the events at the very instant of the query."""
    now_ms = QUERIES["ts_ms"][cut].as_py()
    is_past = np.array([ms < now_ms for ms in EVENTS["ts_ms"].to_pylist()])
    rng = np.random.default_rng(cut)
    items = np.array(EVENTS["item"].to_pylist())
    items[~is_past] = rng.permutation(items[~is_past])
    users = np.array(EVENTS["user"].to_pylist())
    users[~is_past] = rng.permutation(users[~is_past])
    other = replaced(replaced(EVENTS, "item", items.tolist()), "user", users.tolist())
    np.testing.assert_array_equal(scores(other, QUERIES.slice(0, cut + 1)), straight[: cut + 1])


def test_events_of_the_past_do_change_scores(straight: np.ndarray) -> None:
    items = EVENTS["item"].to_pylist()
    items[:200] = items[200:0:-1]
    assert not np.array_equal(scores(replaced(EVENTS, "item", items), QUERIES)[-1], straight[-1])


def test_answers_beside_the_queries_are_never_read(straight: np.ndarray) -> None:
    lies = replaced(QUERIES, "item", [0] * QUERIES.num_rows)
    np.testing.assert_array_equal(scores(EVENTS, lies), straight)
    np.testing.assert_array_equal(scores(EVENTS, QUERIES.drop(["item"])), straight)


def test_the_number_and_order_of_queries_change_no_score(straight: np.ndarray) -> None:
    some = QUERIES.take(pa.array([36, 3, 17]))
    predictions = evaluate(EVENTS, some, SCHEMA, CONFIG)
    assert predictions["query_id"].to_pylist() == [QUERIES["query_id"][n].as_py() for n in (3, 17, 36)]
    found = np.array(predictions["scores"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(found, straight[[3, 17, 36]])


def test_rows_of_files_may_stand_in_any_order(straight: np.ndarray) -> None:
    """Instants are distinct here; among equal ones the order of the file counts."""
    order = pa.array(np.random.default_rng(1).permutation(N_EVENTS))
    assert len(set(EVENTS["ts_ms"].to_pylist())) == N_EVENTS
    np.testing.assert_array_equal(scores(EVENTS.take(order), QUERIES), straight)


def test_the_context_is_that_of_the_session_else_of_the_user() -> None:
    def rows(device: str, user: int, session: int, ts_ms: int) -> dict[str, Any]:
        return {"ts_ms": ts_ms, "type": "click", "user": user, "item": 1, "session": session, "device": device}

    base = 1_764_000_000_000
    events = EVENTS.select(["ts_ms", "type", "user", "item", "session", "device"])
    start = pa.Table.from_pylist([rows("tv", 77, 500, base - 9), rows("phone", 77, 501, base - 5)], events.schema)
    events = pa.concat_tables([start, events])
    ask = {"query_id": 1, "ts_ms": base + 300_000, "user": 77, "candidates": list(range(40))}

    def asked(**session: Any) -> np.ndarray:
        return scores(events, pa.Table.from_pylist([{**ask, **session}]))

    assert (asked() == asked(session=501)).all()
    assert (asked() == asked(session=99_999)).all()
    assert (asked() != asked(session=500)).any()


def test_an_event_outside_the_schema_stops_with_its_path() -> None:
    with pytest.raises(InvalidInput, match="Unknown event type"):
        scores(replaced(EVENTS, "type", ["dance"] * N_EVENTS), QUERIES)


def stated(name: str, number: int, ts_ms: int | None, **attributes: Any) -> pa.Table:
    return pa.Table.from_pylist([{name: number, "ts_ms": ts_ms, **attributes}])


def test_attributes_stated_later_change_no_score_before(straight: np.ndarray) -> None:
    """Nor at their very instant: a query sees what was known strictly before it."""
    now_ms = QUERIES["ts_ms"][20].as_py()
    found = scores(EVENTS, QUERIES, items=stated("item", 3, now_ms, price=9.0, genre=["a", "b"]))
    np.testing.assert_array_equal(found[:21], straight[:21])
    place = QUERIES["candidates"][21].as_py().index(3)
    assert found[21, place] != straight[21, place]


def test_attributes_without_an_instant_are_known_before_the_first_event(straight: np.ndarray) -> None:
    row = stated("item", 3, EVENTS["ts_ms"][0].as_py() - 1, price=9.0)
    found = scores(EVENTS, QUERIES, items=row)
    assert (found[5] != straight[5]).any()
    np.testing.assert_array_equal(scores(EVENTS, QUERIES, items=row.drop(["ts_ms"])), found)
    np.testing.assert_array_equal(scores(EVENTS, QUERIES, items=stated("item", 3, None, price=9.0)), found)


def test_users_have_attributes_too(straight: np.ndarray) -> None:
    user, now_ms = QUERIES["user"][-1].as_py(), EVENTS["ts_ms"][-300].as_py()
    found = scores(EVENTS, QUERIES, users=stated("user", user, now_ms, age="old"))
    is_later = np.array(QUERIES["ts_ms"].to_pylist()) > now_ms
    np.testing.assert_array_equal(found[~is_later], straight[~is_later])
    assert (found[-1] != straight[-1]).any()


def test_an_attribute_outside_the_schema_stops_with_row_and_column() -> None:
    table = pa.table({"item": [1, 2, 3], "price": ["1", None, "cheap"]})
    with pytest.raises(InvalidInput, match="item attributes, row 0, column 'price': Expected a number, got '1'"):
        scores(EVENTS, QUERIES, items=table)
