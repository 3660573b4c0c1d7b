"""The events of an archive come back as they were sent, each once, in the log's order."""

from pathlib import Path

import pytest

from features.archived_events import archived_events, with_context
from features.errors import LogGap
from features.events import EVENT, ITEM, START, Entry, StreamId
from features.log_files import LogFiles
from tests.features.examples import SCHEMA, T0_MS, attributes, body_of, event


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(str(tmp_path))


def logged(ms: int, partition: int, seq: int = 0, kind: bytes = EVENT, **fields: object) -> Entry:
    body = body_of(event(f"u{ms}", **fields) if kind == EVENT else attributes("a"))
    return Entry(StreamId(T0_MS + ms, seq), partition, kind, body, b"")


def test_they_come_in_the_logs_one_order_and_overlaps_count_once(files: LogFiles) -> None:
    one = [logged(1, 1), logged(3, 1), logged(3, 1, seq=1), logged(9, 1)]
    other = [logged(0, 0), logged(3, 0), logged(4, 0, kind=ITEM), logged(5, 0)]
    files.write(one[:3], START, SCHEMA)
    files.write(one[1:], one[0].id, SCHEMA)
    files.write(other, START, SCHEMA)
    assert archived_events(LogFiles(files.url))["user"].to_pylist() == ["u0", "u1", "u3", "u3", "u3", "u5", "u9"]


def test_context_is_of_the_types_that_were_sent(files: LogFiles) -> None:
    contexts = [{"device": value, "other": None} for value in ("a", 5, 0.5, True, 2**64 - 1, "ä")] + [{}]
    files.write([logged(n, 0, context=context) for n, context in enumerate(contexts)], START, SCHEMA)
    table = archived_events(files)
    assert [with_context(row)["context"] for row in table.to_pylist()] == contexts
    assert table.column_names == ["ts_ms", "type", "user", "item", "id", "decision", "value", "source", "context"]
    assert with_context({"ts_ms": 1, "context": {"a": 1}}) == {"ts_ms": 1, "context": {"a": 1}}


def test_an_archive_without_events_is_an_empty_table(files: LogFiles) -> None:
    files.write([logged(0, 0, kind=ITEM)], START, SCHEMA)
    assert archived_events(files).num_rows == 0


def test_what_cannot_be_read_is_told_and_passed_over(files: LogFiles, caplog: pytest.LogCaptureFixture) -> None:
    files.write([logged(0, 0)._replace(body=b"?"), logged(1, 0)], START, SCHEMA)
    assert archived_events(files)["user"].to_pylist() == ["u1"]
    assert f"entry {T0_MS}-0 is passed over" in caplog.text


def test_a_segment_that_is_missing_is_an_error(files: LogFiles) -> None:
    files.write([logged(0, 0)], START, SCHEMA)
    files.write([logged(5, 0)], StreamId(T0_MS + 3, 0), SCHEMA)
    with pytest.raises(LogGap):
        archived_events(files)
