"""The events of an archive as a table, to live through them once more.

Of the log's entries only events, in the log's one order (by id, then partition), which is the order in which they
became known. They are taken from the bodies: users, items and context are of the types that were sent, and undeclared
context is there too. So the context is one column, a packed map; `with_context` unpacks it.
"""

import logging
from itertools import islice
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from features.events import EVENT, Entry, decode_event, encode_body
from features.log_files import LOT, LogFiles

COLUMNS: Final = pa.schema(
    [
        ("log_ms", pa.int64()),
        ("log_seq", pa.int64()),
        ("partition", pa.int32()),
        ("ts_ms", pa.int64()),
        ("type", pa.string()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("id", pa.string()),
        ("decision", pa.string()),
        ("value", pa.float64()),
        ("source", pa.string()),
        ("context", pa.binary()),
    ]
)
ORDER: Final = ("log_ms", "log_seq", "partition")

logger = logging.getLogger(__name__)


def archived_events(files: LogFiles) -> pa.Table:
    """`ts_ms, type, user, item, id, decision, value, source, context` of every event, in the order of the log.

    Raises:
        BadFile, LogGap: If a segment is damaged or missing.
    """
    tables = [COLUMNS.empty_table()]
    for partition in files.reached():
        entries = files.entries(partition)
        while lot := list(islice(entries, LOT)):
            tables.append(_table([entry for entry in lot if entry.kind == EVENT], files.url))
    table = pa.concat_tables(tables)
    order = pc.sort_indices(table, [(name, "ascending") for name in ORDER])
    return table.take(order).drop_columns(list(ORDER))


def with_context(row: dict[str, Any]) -> dict[str, Any]:
    """A row of such a table, with its context unpacked; rows of other tables stay as they are."""
    packed = row.get("context")
    return {**row, "context": msgspec.msgpack.decode(packed)} if isinstance(packed, bytes) else row


def _table(entries: list[Entry], url: str) -> pa.Table:
    rows = []
    for entry in entries:
        try:
            event = decode_event(entry.body)
        except msgspec.DecodeError as error:
            logger.error("%s: entry %s is passed over: %s", url, entry.id, error)
            continue
        said = (event.ts_ms, event.type, event.user, event.item, event.id, event.decision, event.value, event.source)
        rows.append((*entry.id, entry.partition, *said, encode_body(event.context)))
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=COLUMNS)
