"""What is known of a person, as lines of JSON: the state, then every entry of the log, from its archive and the store.

    {"user": …, "log_ms": …, "state": {"recent": …, "counters": …, "attributes": …}}
    {"log_ms": …, "log_seq": …, "kind": "event", "ts_ms": …, "type": …, …}

Entries are as they were logged, but for the states that were logged with them, which follow from what came before. A
person is in one partition: the others are not looked at, and of an archive first who is in which file. Nothing of the
model is told: what it has learned of a person is a row of numbers that mean nothing outside it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa

from features.events import (
    BEYOND,
    DECISION,
    ERASURE,
    EVENT,
    QUARANTINED,
    START,
    USER,
    Entry,
    decode_attributes,
    decode_decision,
    decode_erasure,
    decode_event,
)
from features.log_files import LogFiles
from features.log_segments import Segment
from features.people import said_in
from features.state import describe, unpack
from features.store import FeatureStore, all_of

LOT: Final = 500  # entries of a partition that are read at once
NAMES: Final = {
    EVENT: "event",
    QUARANTINED: "quarantined",
    DECISION: "decision",
    USER: "attributes",
    ERASURE: "erasure",
}
_decoders: Final[dict[bytes, Any]] = {
    EVENT: decode_event,
    QUARANTINED: decode_event,
    DECISION: decode_decision,
    USER: decode_attributes,
    ERASURE: decode_erasure,
}


async def export(user: str, store: FeatureStore, files: LogFiles | None) -> AsyncIterator[bytes]:
    """Everything, line by line, each with its end; what comes meanwhile may be there or not.

    Args:
        files: The log's archive, for this alone.
    Raises:
        FeatureError: If the store or the archive cannot be read.
    """
    (packed,) = all_of((await store.read([user], []))[0])
    now_ms, schema = await store.now_ms(), store.schema
    yield _line({"user": user, "log_ms": now_ms, "state": describe(unpack(packed, schema), schema, now_ms)})
    partition, after = store.keys.user_partition(user), START
    if files is not None:
        await asyncio.to_thread(files.look)
        for segment in files.segments_of(partition):
            for entry in await asyncio.to_thread(_in_segment, files, segment, user):
                if entry.id > after:
                    yield _told(entry)
            after = segment.last
    elsewhere = {other: BEYOND for other in range(store.keys.n_partitions) if other != partition}
    while lot := await store.read_log({**elsewhere, partition: after}, count=LOT):
        for entry in filter(lambda entry: _is_of(entry, user), lot):
            yield _told(entry)
        after = lot[-1].id


def _in_segment(files: LogFiles, segment: Segment, user: str) -> list[Entry]:
    reader, people = files.open(segment), pa.array([user])
    try:
        return list(_in_groups(reader, people, user))
    finally:
        reader.close()


def _in_groups(reader: Any, people: pa.Array, user: str) -> Iterator[Entry]:
    for number in range(len(reader.about.groups)):
        if reader.may_name(number, people):
            yield from (entry for entry in reader.group(number) if _is_of(entry, user))


def _is_of(entry: Entry, user: str) -> bool:
    try:
        said = said_in(entry)
    except msgspec.DecodeError:
        return False
    return said is not None and said.user == user


def _told(entry: Entry) -> bytes:
    body = msgspec.structs.asdict(_decoders[entry.kind](entry.body))
    return _line({"log_ms": entry.id.ms, "log_seq": entry.id.seq, "kind": NAMES[entry.kind], **body})


def _line(told: dict[str, Any]) -> bytes:
    return msgspec.json.encode(told) + b"\n"
