"""Laws of the archive's files: what was written is read, bit for bit, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import log_segments
from features.errors import BadFile, FilesUnavailable, LogGap
from features.events import DECISION, ERASURE, EVENT, ITEM, START, USER, Entry, LoggedAttributes, StreamId
from features.log_files import LogFiles, Segment, segment_at
from features.schema import Schema
from tests.features.examples import SCHEMA, T0_MS, attributes, body_of, decision, erasure, event

CONTEXT = Schema(context=("device", "state", "size"), counters=())


def at(number: int) -> StreamId:
    """The position of the n-th entry: two share a millisecond."""
    return StreamId(T0_MS + number // 2, number % 2)


def logged(number: int, kind: bytes = EVENT, body: bytes | None = None, state: bytes = b"", p: int = 7) -> Entry:
    body = body_of(event(f"u{number}", "a", context={"device": "tv"})) if body is None else body
    return Entry(at(number), p, kind, body, state)


def entries_of(numbers: range, partition: int = 7) -> list[Entry]:
    return [logged(number, state=b"%d" % number, p=partition) for number in numbers]


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> LogFiles:
    return LogFiles(f"file://{tmp_path}/log" if request.param == "bucket" else str(tmp_path / "log"))


def anew(files: LogFiles) -> LogFiles:
    return LogFiles(files.url)


def path_of(segment: Segment) -> Path:
    return Path(segment.path)


def test_a_segment_is_where_its_name_says(files: LogFiles, tmp_path: Path) -> None:
    segment = files.write(entries_of(range(5)), StreamId(3, 1), SCHEMA)
    name = "000000000000003-0000000001_001764000000002-0000000000.parquet"
    assert path_of(segment) == tmp_path / "log/date=2025-11-24/partition=0007" / name
    assert segment_at(segment.path) == segment == Segment(7, StreamId(3, 1), at(4), segment.path)
    assert [path for path in (tmp_path / "log").rglob("*") if path.is_file()] == [path_of(segment)]


def test_entries_of_all_kinds_are_read_bit_for_bit_and_facts_stand_beside(files: LogFiles) -> None:
    facts = {"id": "e1", "decision": "d1", "value": 2.5, "source": "web"}
    sent = event("u1", "a", **facts, context={"device": "tv", "state": "NY", "other": 1})
    bodies = [
        (EVENT, body_of(sent)),
        (DECISION, body_of(decision("u2"))),
        (ITEM, body_of(attributes("i3", price=3))),
        (USER, body_of(attributes("u4", plan="free"))),
        (ERASURE, body_of(erasure("u5"))),
        (EVENT, b"\xff\x00 not to be read"),
        (b"?", b""),
        (ITEM, body_of(LoggedAttributes("i3", {}, 1 << 63))),
    ]
    written = [logged(n, kind, body, bytes([n]) * n) for n, (kind, body) in enumerate(bodies)]
    segment = files.write(written, START, CONTEXT)
    assert anew(files).read(7, START, 100) == written
    table = pq.read_table(segment.path, partitioning=None, page_checksum_verification=True)
    columns = ["ts_ms", "type", "user", "item", "id", "decision", "value", "source", "device", "context.state", "size"]
    assert table.column_names == ["log_ms", "log_seq", "kind", "body", "state", *columns]
    assert [tuple(row.values()) for row in table.select(columns).to_pylist()] == [
        (T0_MS, "click", "u1", "a", "e1", "d1", 2.5, "web", "tv", "NY", None),
        (T0_MS, None, "u2", None, None, "d1", *(None,) * 5),
        (T0_MS, None, None, "i3", *(None,) * 7),
        (T0_MS, None, "u4", *(None,) * 8),
        (T0_MS, None, "u5", *(None,) * 8),
        *[(None,) * 11] * 2,
        (None, None, None, "i3", *(None,) * 7),
    ]


def test_context_of_many_types_is_text_in_every_segment(files: LogFiles) -> None:
    values: list[Any] = ["a", 5, 0.5, True, None, 2**63]
    for n, value in enumerate(values):
        files.write([logged(n, body=body_of(event(context={"size": value})))], at(n - 1) if n else START, CONTEXT)
    table = pq.read_table(Path(files.segments()[0].path).parents[2])
    assert table.sort_by([("log_ms", "ascending"), ("log_seq", "ascending")])["size"].to_pylist() == [
        None if value is None else str(value) for value in values
    ]
    assert {"date", "partition"} < set(table.column_names)


def test_the_footer_says_what_it_holds(files: LogFiles) -> None:
    segment = files.write(entries_of(range(5)), StreamId(3, 1), SCHEMA)
    parquet = pq.ParquetFile(segment.path)
    metadata = parquet.metadata.metadata
    about = json.loads(metadata[b"headrace.log"])
    assert {name: about[name] for name in ("format", "partition", "after", "last", "n_entries", "fingerprint")} == {
        "format": 1,
        "partition": 7,
        "after": [3, 1],
        "last": [*at(4)],
        "n_entries": 5,
        "fingerprint": f"{SCHEMA.fingerprint:016x}",
    }
    assert json.loads(metadata[b"headrace.schema"]) == json.loads(json.dumps(SCHEMA.as_dict()))
    assert {parquet.metadata.row_group(0).column(n).compression for n in range(5)} == {"ZSTD"}
    assert [column.column_index for column in parquet.metadata.row_group(0).sorting_columns] == [0, 1]


def test_row_groups_are_bounded(files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_segments, "GROUP_ENTRIES", 10)
    monkeypatch.setattr(log_segments, "GROUP_BYTES", 1000)
    written = [logged(n, state=b"x" * (400 if n >= 20 else 0)) for n in range(26)]
    segment = files.write(written, START, SCHEMA)
    metadata = pq.ParquetFile(segment.path).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [10, 10, 3, 3]
    assert anew(files).read(7, at(7), 15) == written[8:23]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 40), st.integers(1, 12), st.data())
def test_a_read_goes_on_over_groups_and_segments(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], start: int, count: int, data: st.DataObject
) -> None:
    files = LogFiles(str(tmp_path_factory.mktemp("log")))
    written = entries_of(range(sum(sizes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_segments, "GROUP_ENTRIES", data.draw(st.integers(1, 4)))
        first = 0
        for size in sizes:
            files.write(written[first : first + size], written[first - 1].id if first else START, SCHEMA)
            first += size
    position = at(start - 1) if start else START
    for reader in (files, anew(files)):
        assert reader.read(7, position, count) == written[start : start + count]
        assert reader.read(7, StreamId(position.ms, position.seq + 5), 99) == [
            entry for entry in written if entry.id > (position.ms, position.seq + 5)
        ]
        assert reader.reached() == {7: written[-1].id}
        assert reader.read(6, START, 9) == []
        reader.close()


def test_partitions_have_nothing_to_do_with_each_other(files: LogFiles) -> None:
    for partition in (12345, 0):
        files.write(entries_of(range(partition % 7 + 1), partition), START, SCHEMA)
    found = anew(files)
    assert [(segment.partition, segment.last) for segment in found.segments()] == [(0, at(0)), (12345, at(4))]
    assert found.read(12345, START, 2) + found.read(0, START, 9) == [
        *entries_of(range(2), 12345),
        *entries_of(range(1), 0),
    ]


def test_a_missing_segment_is_named(files: LogFiles) -> None:
    for n in (0, 3, 6):
        files.write(entries_of(range(n, n + 3)), at(n - 1) if n else START, SCHEMA)
    path_of(files.segments()[1]).unlink()
    found = anew(files)
    for ask in (found.segments, found.reached, lambda: found.read(7, START, 1)):
        with pytest.raises(LogGap, match=rf"partition 7: entries after {at(2)} up to {at(5)} are missing in .*log"):
            ask()
    path_of(found._found[7][0]).unlink()  # type: ignore[index]
    found.look()
    assert found.read(7, at(5), 9) == entries_of(range(6, 9))
    with pytest.raises(LogGap, match=f"after {at(4)} up to {at(5)} .*the archive begins after them"):
        found.read(7, at(4), 9)


def test_segments_that_overlap_are_read_once_and_inner_ones_go(files: LogFiles) -> None:
    cuts = [(0, 4), (0, 6), (4, 8), (5, 6), (8, 9), (8, 12)]
    written = entries_of(range(12))
    for first, last in cuts:
        files.write(written[first:last], at(first - 1) if first else START, SCHEMA)
    for found in (files, anew(files)):
        assert [(segment.after, segment.last) for segment in found.segments()] == [
            (START, at(5)),
            (at(3), at(7)),
            (at(7), at(11)),
        ]
        assert found.read(7, START, 99) == written
    anew(files).drop_inner()
    left = anew(files)
    assert len(left._paths()) == 3
    assert left.read(7, START, 99) == written


@pytest.mark.parametrize("step", [1, 97])
def test_whatever_byte_is_damaged_nothing_else_is_read(tmp_path: Path, step: int) -> None:
    """Every byte of a footer, with step 1; else one of so many of a whole file."""
    rng = np.random.default_rng(1)
    written = [logged(n, state=rng.bytes(20)) for n in range(3 if step == 1 else 400)]
    segment = LogFiles(str(tmp_path)).write(written, START, CONTEXT if step == 1 else SCHEMA)
    raw = path_of(segment).read_bytes()
    n_refused, footer_bytes = 0, int.from_bytes(raw[-8:-4], "little") + 8
    for place in range(len(raw) - footer_bytes if step == 1 else 0, len(raw), step):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << place % 8
        path_of(segment).write_bytes(damaged)
        files = LogFiles(str(tmp_path))
        try:
            assert files.read(7, START, 999) == written
        except BadFile as error:
            assert segment.path in str(error)
            n_refused += 1
        files.close()
    assert n_refused > 50


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9999])
def test_a_file_that_was_cut_short_is_refused(files: LogFiles, share: float) -> None:
    segment = files.write(entries_of(range(300)), START, SCHEMA)
    raw = path_of(segment).read_bytes()
    path_of(segment).write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(BadFile, match="partition=0007"):
        anew(files).read(7, START, 1)


def test_a_damaged_page_is_refused_also_by_its_checksum(files: LogFiles) -> None:
    segment = files.write([logged(n, state=bytes(range(256))) for n in range(50)], START, SCHEMA)
    raw = bytearray(path_of(segment).read_bytes())
    column = pq.ParquetFile(segment.path).metadata.row_group(0).column(4)
    raw[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    path_of(segment).write_bytes(raw)
    with pytest.raises(BadFile, match=r"row group 0: .*CRC"):
        anew(files).read(7, START, 1)
    with pytest.raises(BadFile):
        anew(files).verify(segment)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(segment.path, page_checksum_verification=True)


def test_another_file_in_its_place_is_refused(files: LogFiles) -> None:
    one, other = entries_of(range(3)), entries_of(range(3, 5))
    first, second = files.write(one, START, SCHEMA), files.write(other, one[-1].id, SCHEMA)
    path_of(second).replace(first.path)
    with pytest.raises(BadFile, match=r"expected after 0-0|expected after StreamId\(ms=0, seq=0\)"):
        anew(files).read(7, START, 1)
    pq.write_table(pa.table({"log_ms": [1]}), first.path)
    with pytest.raises(BadFile, match="no segment of a log"):
        anew(files).read(7, START, 1)


def test_a_foreign_parquet_file_is_refused_and_others_do_not_matter(files: LogFiles) -> None:
    segment = files.write(entries_of(range(3)), START, SCHEMA)
    for name in ("README.md", ".half.parquet"):
        path_of(segment).with_name(name).write_bytes(b"?")
    assert len(anew(files).segments()) == 1
    path_of(segment).with_name("events.parquet").write_bytes(b"?")
    with pytest.raises(BadFile, match=r"events\.parquet: expected .*no segment of a log"):
        anew(files).segments()


def test_what_another_release_wrote_is_refused(files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_segments, "FORMAT", 2)
    files.write(entries_of(range(3)), START, SCHEMA)
    monkeypatch.undo()
    with pytest.raises(BadFile, match="format 1, got 2"):
        anew(files).read(7, START, 1)


def test_a_folder_that_is_not_there_is_empty_and_one_that_cannot_be_is_told(tmp_path: Path) -> None:
    files = LogFiles(str(tmp_path / "log"))
    assert files.segments() == [] and files.reached() == {}
    assert not (tmp_path / "log").exists()
    (tmp_path / "log").write_bytes(b"a file")
    with pytest.raises(FilesUnavailable, match="log"):
        files.write(entries_of(range(3)), START, SCHEMA)
    with pytest.raises(BadFile):
        LogFiles("nothing://bucket/log")


def test_what_is_half_written_is_not_there(files: LogFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [*entries_of(range(3)), Entry(at(4), 7, EVENT, "no bytes", b"")]  # type: ignore[arg-type]
    with pytest.raises((pa.ArrowException, TypeError, FilesUnavailable)):
        files.write(bad, START, SCHEMA)
    assert [path for path in (tmp_path / "log").rglob("*") if path.is_file()] == []
    assert anew(files).segments() == []
