"""Entries of an archived log as rows to fold, beside those of files of events (`checking`).

They count in the order of the log: by position, then partition. Everything has been judged when it came, so nothing is
judged again but whether the schema still knows it. Decisions change no feature; what is said of items is told apart,
the latest counts.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from features.backfill.checking import NO_BUCKET, splits
from features.backfill.kernels import ATTRIBUTES as ATTRIBUTES_ROW
from features.backfill.kernels import ERASURE as ERASURE_ROW
from features.backfill.kernels import EVENT as EVENT_ROW
from features.backfill.leaving_out import ALL, Choice
from features.errors import BadFile
from features.events import (
    ERASURE,
    EVENT,
    ITEM,
    QUARANTINED,
    USER,
    Entry,
    LoggedEvent,
    decode_attributes,
    decode_erasure,
    decode_event,
    encode_body,
)
from features.schema import Schema, bucket_of
from features.state import update_for

logger = logging.getLogger(__name__)


class LogRows(NamedTuple):
    """What entries come to."""

    people: pa.Table
    """As `checking.Checked`; where a row says something of a person, its `context` is that."""
    items: pa.Table
    """`at_ms`, `row`, `item` string, `attributes` binary."""
    left_out: Counter[str]
    """Events that do not count, by source."""
    counted_in: Counter[str]
    """Events that count though they were in quarantine, by source."""


def log_rows(entries: Sequence[Entry], schema: Schema, n_partitions: int, file: str, choice: Choice = ALL) -> LogRows:
    """Rows of entries of one partition.

    One that can't be read is logged and passed over, as it was when it came.

    Args:
        file: Where they are from.
        choice: Whose events count.
    Raises:
        BadFile: If an event that counts is of a type that the schema does not know.
    """
    people: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    left_out, counted_in = Counter[str](), Counter[str]()
    for entry in entries:
        place = {"at_ms": entry.id.ms, "row": entry.id.seq * n_partitions + entry.partition}
        try:
            if entry.kind == ITEM:
                stated = decode_attributes(entry.body)
                items.append({**place, "item": stated.entity, "attributes": encode_body(stated.attributes)})
            elif entry.kind in (EVENT, QUARANTINED):
                event = decode_event(entry.body)
                is_quarantined = entry.kind == QUARANTINED
                if choice.takes(entry.kind, event.source):
                    people.append({**place, **_event(event, schema, entry, file)})
                    counted_in.update([str(event.source)] * is_quarantined)
                else:
                    left_out.update([str(event.source)] * (not is_quarantined))
            elif (row := _person(entry, schema)) is not None:
                people.append({**place, **row})
        except msgspec.DecodeError as error:
            logger.error("%s: entry %s is passed over: %s", file, entry.id, error)
    return LogRows(_table(people, _columns(schema)), _table(items, _ITEMS), left_out, counted_in)


def _person(entry: Entry, schema: Schema) -> dict[str, Any] | None:
    """What an entry that is no event changes of a person; None for nothing."""
    if entry.kind == USER:
        stated = decode_attributes(entry.body)
        return _other(schema, ATTRIBUTES_ROW, stated.entity, stated.ts_ms, encode_body(stated.attributes))
    if entry.kind == ERASURE:
        erased = decode_erasure(entry.body)
        return _other(schema, ERASURE_ROW, erased.user, erased.ts_ms, b"")
    return None


def _event(event: LoggedEvent, schema: Schema, entry: Entry, file: str) -> dict[str, Any]:
    if event.type not in schema.type_index:
        known = ", ".join(schema.event_types)
        raise BadFile(f"entry {entry.id} is of type {event.type!r}, which is none of {known}", file, column="type")
    row = _other(schema, EVENT_ROW, event.user, event.ts_ms, update_for(event, schema).context)
    row |= {"type": schema.type_index[event.type], "item": event.item, "value": event.value}
    for number, (name, n_buckets) in enumerate(splits(schema)):
        value = event.context.get(name)
        row[f"bucket.{number}"] = NO_BUCKET if value is None else bucket_of(value, n_buckets)
    return row


def _other(schema: Schema, kind: int, user: str, ts_ms: int, context: bytes) -> dict[str, Any]:
    row = {"kind": kind, "ts_ms": ts_ms, "type": 0, "user": user, "item": "", "id": None, "value": 0.0}
    return {**row, "context": context, **{f"bucket.{number}": NO_BUCKET for number in range(len(splits(schema)))}}


def _columns(schema: Schema) -> pa.Schema:
    fields = [
        ("at_ms", pa.int64()),
        ("row", pa.int64()),
        ("kind", pa.int8()),
        ("ts_ms", pa.int64()),
        ("type", pa.int16()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("id", pa.string()),
        ("value", pa.float64()),
        ("context", pa.binary()),
    ]
    return pa.schema([*fields, *((f"bucket.{number}", pa.int16()) for number in range(len(splits(schema))))])


_ITEMS = pa.schema([("at_ms", pa.int64()), ("row", pa.int64()), ("item", pa.string()), ("attributes", pa.binary())])


def _table(rows: list[dict[str, Any]], columns: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=columns)
