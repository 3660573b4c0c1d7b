"""Laws of the replay: everything strictly before a query is acknowledged, nothing else was sent."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.errors import ConfigError
from deployments.replay import Replay, as_event, read_events, read_queries
from features.errors import InvalidInput


class Recorder:
    """Stands where the client stands, and writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def send(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """Accept everything but what a source in quarantine sends."""
        self.calls += [("event", event["ts_ms"]) for event in events]
        n_held = sum(event.get("source") == "held" for event in events)
        counts = {"accepted": len(events) - n_held, "duplicates": 0, "quarantined": n_held}
        return {**counts, "rejected": [], "log_ms": events[-1]["ts_ms"]}

    def rank(self, user: str, candidates: list[str], **options: Any) -> dict[str, Any]:
        """Score candidates by their number, in another order."""
        self.calls.append(("query", (options["now_ms"], user, options["context"])))
        return {"items": [{"id": candidate, "score": float(candidate)} for candidate in reversed(candidates)]}

    def items(self, items: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Accept every item whose price is not negative."""
        self.calls.append(("items", items))
        bad = [index for index, row in enumerate(items.values()) if row.get("price", 0) < 0]
        error = {"code": "invalid", "message": "Expected more", "path": "$.attributes.price"}
        return {"accepted": len(items) - len(bad), "rejected": [{"index": index, "error": error} for index in bad]}

    def user(self, user: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Accept it."""
        self.calls.append(("user", (user, attributes)))
        return {"log_ms": 1}


EVENTS = pa.table(
    {
        "ts_ms": [30, 10, 20, 20],
        "type": ["click"] * 4,
        "user": [1, 1, 2, 1],
        "item": [7, 8, 9, 7],
        "session": [5, 5, 6, 5],
        "device": ["c", "a", "b", None],
    }
)
QUERIES = pa.table(
    {
        "query_id": [1, 2],
        "ts_ms": [40, 20],
        "user": [1, 1],
        "session": [5, 5],
        "item": [7, 7],
        "candidates": [[3, 1, 2], [1, 2, 3]],
    }
)


def test_a_query_comes_after_all_earlier_events_and_before_those_of_its_instant(tmp_path: Any) -> None:
    pq.write_table(EVENTS, tmp_path / "events.parquet")
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    recorder = Recorder()
    replay = Replay(recorder)  # type: ignore[arg-type]
    tally = replay.run(read_events(tmp_path / "events.parquet"), read_queries(tmp_path / "queries.parquet"))
    kinds = [(kind, what if kind == "event" else what[0]) for kind, what in recorder.calls]
    assert kinds == [("event", 10), ("query", 20), ("event", 20), ("event", 20), ("event", 30), ("query", 40)]
    contexts = [what[2] for kind, what in recorder.calls if kind == "query"]
    assert contexts == [{"session": 5, "device": "a"}, {"session": 5, "device": "c"}]
    assert tally.predictions().to_pydict() == {"query_id": [2, 1], "scores": [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]}


def test_the_true_answer_is_never_read(tmp_path: Any) -> None:
    pq.write_table(QUERIES, tmp_path / "queries.parquet")
    assert "item" not in read_queries(tmp_path / "queries.parquet").column_names


def test_integer_ids_become_text_and_other_columns_context() -> None:
    row = {"ts_ms": 1, "type": "click", "user": 3, "item": 4, "id": None, "device": "tv", "os": None}
    assert as_event(row) == {"ts_ms": 1, "type": "click", "user": "3", "item": "4", "context": {"device": "tv"}}


def test_a_missing_column_is_named(tmp_path: Any) -> None:
    pq.write_table(EVENTS.drop_columns(["type"]), tmp_path / "events.parquet")
    with pytest.raises(ConfigError, match="'type' is missing"):
        read_events(tmp_path / "events.parquet")


def test_a_folder_of_files_is_one_stream_and_its_names_are_no_context(tmp_path: Any) -> None:
    for day in (2, 1):
        (folder := tmp_path / f"date=2026-01-0{day}" / "partition=0001").mkdir(parents=True)
        table = EVENTS.slice(2 * day - 2, 2)
        pq.write_table(table if day == 1 else table.drop_columns(["device"]), folder / "events.parquet")
    rows = read_events(str(tmp_path)).to_pylist()
    assert [(row["ts_ms"], row["user"], row["item"], row["device"]) for row in rows] == [
        (10, 1, 8, "a"),
        (20, 2, 9, None),
        (20, 1, 7, None),
        (30, 1, 7, "c"),
    ]
    assert set(rows[0]) == set(EVENTS.column_names)
    pq.write_table(EVENTS.set_column(2, "user", pa.array(["u"] * 4)), tmp_path / "text.parquet")
    with pytest.raises(ConfigError, match="its files do not go together"):
        read_events(tmp_path)


def test_attributes_go_out_after_the_queries_of_their_instant_and_before_its_events() -> None:
    recorder = Recorder()
    items = pa.table({"item": [7, 8, 9, 7], "ts_ms": [20, None, None, 20], "price": [1.0, 2.0, None, 3.0]})
    users = pa.table({"user": ["a b"], "ts_ms": [35], "plan": ["free"]})
    Replay(recorder).run(EVENTS.sort_by("ts_ms"), QUERIES.sort_by("ts_ms"), items, users)  # type: ignore[arg-type]
    told = [(kind, what if kind != "query" else what[0]) for kind, what in recorder.calls]
    assert told == [
        ("items", {"8": {"price": 2.0}, "9": {}}),
        ("event", 10),
        ("query", 20),
        ("items", {"7": {"price": 3.0}}),
        ("event", 20),
        ("event", 20),
        ("event", 30),
        ("user", ("a b", {"plan": "free"})),
        ("query", 40),
    ]


def test_a_refused_attribute_is_named_by_row_and_column() -> None:
    items = pa.table({"item": ["a", "b", "c"], "ts_ms": [3, 2, 1], "price": [1, -1, 1]})
    with pytest.raises(InvalidInput, match="item attributes, row 1, column 'price': Expected more"):
        Replay(Recorder()).run(EVENTS.sort_by("ts_ms"), items=items)  # type: ignore[arg-type]


def test_what_is_taken_into_quarantine_is_counted_apart() -> None:
    events = EVENTS.append_column("source", pa.array(["held", None, "app", "held"]))
    tally = Replay(Recorder()).run(events.sort_by("ts_ms"))  # type: ignore[arg-type]
    assert (tally.accepted, tally.quarantined, tally.n_sent) == (2, 2, 4)
