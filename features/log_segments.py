"""A segment of the log as a Parquet file: entries of one partition, in log order, all of those after one position up to
another.

    log_ms log_seq kind body state | ts_ms type user item id decision value source | a column per declared context field
    exactly what the log had       | what the body says, for people and other tools

The columns at the right are null where an entry has no such thing, or its body can't be read. A column has one type in
every segment, so context is text: what Python's `str` makes of a value, by which features tell values apart too. Exact
values and undeclared context are in the body.

The footer says what the file holds, under which schema it was written, and the digest of every row group's entries; it
has a digest of its own. So whatever is changed, cut off or put in place of another is noticed before it is believed.
Pages have checksums too, which other tools can verify.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from features.decoding import decoder
from features.errors import BadFile
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    ITEM,
    QUARANTINED,
    USER,
    Entry,
    StreamId,
    decode_attributes,
    decode_decision,
    decode_erasure,
    decode_event,
    encode_body,
)
from features.schema import Schema

FORMAT: Final = 1
GROUP_ENTRIES: Final = 2048
GROUP_BYTES: Final = 4 << 20  # what a reader decodes at once
LEVEL: Final = 3  # of zstd
LOG_FIELDS: Final = (
    pa.field("log_ms", pa.int64(), nullable=False),
    pa.field("log_seq", pa.int64(), nullable=False),
    pa.field("kind", pa.binary(), nullable=False),
    pa.field("body", pa.binary(), nullable=False),
    pa.field("state", pa.binary(), nullable=False),
)
FACT_FIELDS: Final = (
    pa.field("ts_ms", pa.int64()),
    pa.field("type", pa.string()),
    pa.field("user", pa.string()),
    pa.field("item", pa.string()),
    pa.field("id", pa.string()),
    pa.field("decision", pa.string()),
    pa.field("value", pa.float64()),
    pa.field("source", pa.string()),
)
RISING: Final = ("log_ms", "log_seq", "ts_ms")
UNIQUE: Final = frozenset({*RISING, "body", "state", "id"})  # a dictionary of these would hold every value once more
PARTITIONING: Final = frozenset({"date", "partition"})
TAKEN: Final = PARTITIONING.union(field.name for field in (*LOG_FIELDS, *FACT_FIELDS))
ABOUT, DECLARATION, DIGEST = b"headrace.log", b"headrace.schema", b"headrace.digest"


class Segment(NamedTuple):
    """All entries of a partition after one position, up to and including another."""

    partition: int
    after: StreamId
    last: StreamId
    path: str


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row group: how many entries, the position of the last, and the digest of all."""

    n_entries: int
    last: StreamId
    digest: str


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a segment's file says of itself."""

    format: int
    partition: int
    after: StreamId
    last: StreamId
    n_entries: int
    fingerprint: str
    """Of the schema under which it was written, whose declaration stands beside."""
    groups: list[Group]


class _Form(msgspec.Struct):
    """What every format says."""

    format: int | None = None


_form_of, _about_of = decoder(msgspec.json, _Form), decoder(msgspec.json, About)


def write_segment(sink: Any, entries: Sequence[Entry], after: StreamId, schema: Schema) -> About:
    """Write entries of one partition, in log order; there must be one.

    Args:
        sink: A file open for writing.
        after: Where the entry before the first one is, or the log begins.
    """
    columns = pa.schema([*LOG_FIELDS, *FACT_FIELDS, *(pa.field(name, pa.string()) for name in context_columns(schema))])
    groups = []
    with _writer(sink, columns) as writer:
        for some in _cut(entries):
            writer.write_table(_table(some, columns, schema))
            groups.append(Group(len(some), some[-1].id, _digest(some)))
        about = About(
            format=FORMAT,
            partition=entries[0].partition,
            after=after,
            last=entries[-1].id,
            n_entries=len(entries),
            fingerprint=f"{schema.fingerprint:016x}",
            groups=groups,
        )
        _say(writer, about, msgspec.json.encode(schema.as_dict()))
    return about


def rewrite_segment(sink: Any, reader: "SegmentReader", keeps: Callable[[Entry], bool]) -> About:
    """Write a segment once more with a part of its entries, perhaps none; what it reaches to stays.

    Args:
        sink: A file open for writing.
    Raises:
        BadFile: If it is not what it was when it was written.
    """
    groups = []
    with _writer(sink, reader.columns) as writer:
        for number in range(len(reader.about.groups)):
            entries = reader.group(number)
            is_kept = [keeps(entry) for entry in entries]
            kept = [entry for entry, stays in zip(entries, is_kept, strict=True) if stays]
            if kept:
                writer.write_table(reader.table(number, reader.columns.names).filter(pa.array(is_kept)))
                groups.append(Group(len(kept), kept[-1].id, _digest(kept)))
        n_entries = sum(group.n_entries for group in groups)
        about = msgspec.structs.replace(reader.about, n_entries=n_entries, groups=groups)
        _say(writer, about, reader.declaration)
    return about


class SegmentReader:
    """A segment's file, opened and its footer judged: read entries group by group, then `close`.

    Args:
        source: A file open for reading.
        segment: What it must be.
    Raises:
        BadFile: As every method does, if it is anything else.
    """

    def __init__(self, source: Any, segment: Segment) -> None:
        self.segment = segment
        with _judged(segment):
            self._parquet = pq.ParquetFile(source, page_checksum_verification=True)
            metadata = self._parquet.metadata.metadata or {}
        self.about = self._read_about(metadata)
        self.declaration = metadata[DECLARATION]
        """Of its schema, as JSON."""

    @property
    def columns(self) -> pa.Schema:
        """What it has."""
        return self._parquet.schema_arrow.remove_metadata()

    def table(self, number: int, names: Sequence[str]) -> pa.Table:
        """Columns of a row group, of which only the log's are known to be what was written: ask for `group` too."""
        with _judged(self.segment, number):
            return self._parquet.read_row_group(number, columns=list(names), use_threads=False)

    def group(self, number: int) -> list[Entry]:
        """The entries of a row group."""
        names = [field.name for field in LOG_FIELDS]
        with _judged(self.segment, number):
            table = self.table(number, names)
            columns = [table[name].to_pylist() for name in names]
        partition = self.segment.partition
        entries = [
            Entry(StreamId(ms, seq), partition, kind, body, state)
            for ms, seq, kind, body, state in zip(*columns, strict=True)
        ]
        if _digest(entries) != self.about.groups[number].digest:
            raise BadFile("its entries are not those that were written", self.segment.path, row_group=number)
        return entries

    def may_name(self, number: int, people: pa.Array) -> bool:
        """Whether an entry of a row group is of one of these people, or cannot be read; two columns are looked at."""
        with _judged(self.segment, number):
            table = self.table(number, ["user", "kind"])
            is_unread = pc.and_(pc.is_null(table["user"]), pc.not_equal(table["kind"], ITEM))
            return bool(pc.any(pc.or_(pc.is_in(table["user"], value_set=people), is_unread)).as_py())

    def entries(self) -> Iterator[list[Entry]]:
        """Everything in it."""
        return map(self.group, range(len(self.about.groups)))

    def close(self) -> None:
        """Close the file."""
        self._parquet.close(force=True)

    def _read_about(self, metadata: dict[bytes, bytes]) -> About:
        path, segment = self.segment.path, self.segment
        if ABOUT not in metadata:
            raise BadFile("this is Parquet, but no segment of a log", path)
        ours = {name: metadata.get(name, b"") for name in (ABOUT, DECLARATION)}
        if _digest_of(ours) != metadata.get(DIGEST, b"").decode(errors="replace"):
            raise BadFile("its footer is damaged", path)
        try:
            if (form := _form_of(metadata[ABOUT]).format) != FORMAT:
                raise BadFile(f"expected a segment of format {FORMAT}, got {form}: another release wrote it", path)
            about = _about_of(metadata[ABOUT])
        except msgspec.DecodeError as error:
            raise BadFile(f"its footer cannot be read: {error}", path) from None
        for name in ("partition", "after", "last"):
            if getattr(about, name) != getattr(segment, name):
                raise BadFile(f"expected {name} {getattr(segment, name)}, got {getattr(about, name)}", path)
        rows = [self._parquet.metadata.row_group(n).num_rows for n in range(self._parquet.metadata.num_row_groups)]
        if rows != [group.n_entries for group in about.groups]:
            raise BadFile(f"expected {about.n_entries} entries, got {sum(rows)}", path)
        return about


def context_columns(schema: Schema) -> dict[str, str]:
    """The column of every declared context field; one whose name is taken gets another."""
    return {f"context.{name}" if name in TAKEN else name: name for name in schema.context}


def size_of(entry: Entry) -> int:
    """Bytes of an entry, as the log has them."""
    return len(entry.body) + len(entry.state) + 32


def _writer(sink: Any, columns: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        columns,
        compression="zstd",
        compression_level=LEVEL,
        use_dictionary=[name for name in columns.names if name not in UNIQUE],
        column_encoding=dict.fromkeys(RISING, "DELTA_BINARY_PACKED"),
        sorting_columns=[pq.SortingColumn(0), pq.SortingColumn(1)],
        write_page_checksum=True,
    )


def _say(writer: pq.ParquetWriter, about: About, declaration: bytes) -> None:
    metadata = {ABOUT: msgspec.json.encode(about), DECLARATION: declaration}
    writer.add_key_value_metadata({**metadata, DIGEST: _digest_of(metadata)})


def _cut(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    start = n_bytes = 0
    for number, entry in enumerate(entries):
        n_bytes += size_of(entry)
        if n_bytes >= GROUP_BYTES or number + 1 - start == GROUP_ENTRIES:
            yield entries[start : number + 1]
            start, n_bytes = number + 1, 0
    if start < len(entries):
        yield entries[start:]


def _table(entries: Sequence[Entry], columns: pa.Schema, schema: Schema) -> pa.Table:
    log = [(*entry.id, entry.kind, entry.body, entry.state) for entry in entries]
    fields = list(context_columns(schema).values())
    rows = [(*row, *_facts(entry, fields)) for row, entry in zip(log, entries, strict=True)]
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=columns)


def _facts(entry: Entry, fields: Sequence[str]) -> tuple[Any, ...]:
    """What an entry's body says, in the order of the columns."""
    try:
        facts, context = _said(entry)
    except msgspec.DecodeError:
        return (None,) * (len(FACT_FIELDS) + len(fields))
    if facts[0] is not None and not -(2**63) <= facts[0] < 2**63:
        facts = (None, *facts[1:])
    return (*facts, *(None if (value := context.get(name)) is None else str(value) for name in fields))


def _said(entry: Entry) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if entry.kind in {EVENT, QUARANTINED}:
        event = decode_event(entry.body)
        said = (event.ts_ms, event.type, event.user, event.item, event.id, event.decision, event.value, event.source)
        return said, event.context
    if entry.kind == DECISION:
        decision = decode_decision(entry.body)
        return (decision.ts_ms, None, decision.user, None, None, decision.decision, None, None), decision.context
    if entry.kind in {ITEM, USER}:
        stated = decode_attributes(entry.body)
        is_item = entry.kind == ITEM
        names = (None, stated.entity) if is_item else (stated.entity, None)
        return (stated.ts_ms, None, *names, None, None, None, None), {}
    if entry.kind == ERASURE:
        erased = decode_erasure(entry.body)
        return (erased.ts_ms, None, erased.user, None, None, None, None, None), {}
    return (None,) * len(FACT_FIELDS), {}


def _digest(entries: Sequence[Entry]) -> str:
    return str(xxhash.xxh3_128_hexdigest(encode_body(list(entries))))


def _digest_of(metadata: dict[bytes, bytes]) -> str:
    return str(xxhash.xxh3_128_hexdigest(encode_body([metadata[ABOUT], metadata[DECLARATION]])))


@contextmanager
def _judged(segment: Segment, number: int | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, LookupError, ValueError) as error:  # a damaged footer may name anything
        raise BadFile(f"not to be read as a segment of the log: {error}", segment.path, row_group=number) from None
