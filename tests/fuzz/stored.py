"""Targets: what a process reads that another one has written: states, item rows, log entries, versions."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Final

import msgspec
import xxhash

from deployments.config import LiveConfig, read_live
from deployments.ranking import RankConfig
from features.encoding import Encoder, Request
from features.errors import FeatureError
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    ITEM,
    QUARANTINED,
    USER,
    Entry,
    LoggedAttributes,
    LoggedErasure,
    StreamId,
    encode_body,
)
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.moments import Moments
from features.projection import Projection
from features.schema import FORMAT
from features.state import HEADER, apply_update, describe, histories_in, state_after, unpack, update_for
from features.store import Record
from learners import snapshots
from learners.editions import heads, parts
from learners.errors import LearnerError
from learners.online import OnlineLearner
from learners.pinning import Pin, pins, public
from learners.policies import PolicyConfig
from learners.publisher import Publisher
from learners.reading import ExampleReader, ReadingConfig
from learners.version_history import VersionHistory
from tests.fuzz.targets import Target, run_async
from tests.learners.examples import CONFIG, KEYS, SCHEMA, T0_MS, click, item_entry, learned, log, shown, stream

KINDS: Final = (EVENT, DECISION, ITEM, USER, ERASURE, QUARANTINED)
STATE_HEADER: Final = HEADER.pack(FORMAT, SCHEMA.fingerprint)
UNREADABLE: Final = (FeatureError, msgspec.DecodeError)
_encoder: Final = Encoder(SCHEMA)
_update: Final = update_for(click("u1", "i2", T0_MS), SCHEMA)


@cache
def _logged(n: int) -> tuple[Entry, ...]:
    return tuple(log(stream(n)))


@cache
def _learner() -> OnlineLearner:
    return learned([*log(stream(60)), item_entry("i1", T0_MS, genre=["a", "b"], price=2.5), *shown(30)])


def _state(data: bytes) -> None:
    """A state in everything that looks into one, the compiled loops among them; beside it a good one."""
    state = STATE_HEADER + data
    good = _logged(20)[-1].state
    histories_in([good, state, b"", good], SCHEMA)
    known = unpack(state, SCHEMA)
    unpack(apply_update(state, _update, SCHEMA), SCHEMA)
    _encoder.encode(_learner().table, [Request(known, {"device": "tv"}, T0_MS, ["i1", "i2", "new"])])
    msgspec.json.encode(describe(known, SCHEMA, T0_MS))


def _state_seeds() -> Sequence[bytes]:
    entries = log(stream(60))
    stated = state_after(entries[-1].state, _user_entry(), SCHEMA)
    return [entry.state[len(STATE_HEADER) :] for entry in entries[:30] if entry.state] + [stated[len(STATE_HEADER) :]]


def _user_entry() -> Entry:
    body = encode_body(LoggedAttributes("u1", {"age": "old", "more": ["x"]}, T0_MS))
    return Entry(StreamId(T0_MS, 0), KEYS.user_partition("u1"), USER, body, b"")


def _row(data: bytes) -> None:
    """A row in a table beside others: told of, packed, looked at and folded into."""
    table = ItemTable(SCHEMA, 2)
    table.load(["a", "b"], [STATE_HEADER + data, b""])
    table.describe(table.rows["a"], T0_MS)
    table.pack(table.rows["a"])
    person = unpack(_logged(20)[-1].state, SCHEMA)
    _encoder.encode(table, [Request(person, {}, T0_MS, ["a", "b"])])
    table.fold(_visit())


@cache
def _visit() -> tuple[Entry, ...]:
    return tuple(log([click("u1", item, T0_MS + n) for n, item in enumerate("aba")]))


def _row_seeds() -> Sequence[bytes]:
    table = _learner().table
    return [packed[len(STATE_HEADER) :] for packed in table.pack_all(range(1, min(len(table), 25)))]


def _entry(data: bytes) -> None:
    """An entry among good ones, with all who read the log; the first byte says its kind."""
    kind, body = KINDS[(data[0] if data else 0) % len(KINDS)], data[1:]
    entries = list(_logged(6))
    bad = Entry(StreamId(entries[2].id.ms, entries[2].id.seq + 7), entries[2].partition, kind, body, b"")
    entries.insert(3, bad)
    reader = ExampleReader(SCHEMA, ReadingConfig(batch_size=4, batch_span_s=1.0))
    for entry in entries:
        for batch in reader.read(entry):
            reader.parts(batch, 0.0, lambda scores: scores)
    for batch in reader.settle(entries[-1].id.ms + 7_200_000):
        reader.parts(batch, 0.0, lambda scores: scores)
    moments = Moments(SCHEMA, 60_000)
    moments.add(entries)
    moments.rows(["i1", "i2"], entries[0].id.ms)
    run_async(_projected(bad))
    state_after(entries[-1].state, bad, SCHEMA)


async def _projected(bad: Entry) -> None:
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    good = Record(kind=EVENT, partition=0, body=encode_body(click("u1", "i1", T0_MS)), ts_ms=T0_MS)
    await store.apply([good, Record(kind=bad.kind, partition=0, body=bad.body, ts_ms=T0_MS + 1)])
    await store.apply([Record(kind=EVENT, partition=0, body=encode_body(click("u1", "i2", T0_MS)), ts_ms=T0_MS + 9)])
    projection = Projection(store, SCHEMA)
    await projection.load()
    await projection.advance()
    _, (row,) = await store.read([], ["i1"])
    assert row, "what stood beside it is lost"


def _entry_seeds() -> Sequence[bytes]:
    some = [*log(stream(4)), *shown(4), item_entry("i1", T0_MS, genre=["a"], price=2.5), _user_entry()]
    erased = Entry(StreamId(T0_MS, 0), 0, ERASURE, encode_body(LoggedErasure("u1", T0_MS)), b"")
    return [bytes([KINDS.index(entry.kind)]) + entry.body for entry in [*some, erased]]


def _sealed(magic: bytes, read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    return lambda data: read(b"".join((magic, xxhash.xxh3_64_digest(data), data)))


@cache
def _whole() -> bytes:
    return snapshots.pack(_learner().snapshot(4))


def _version(data: bytes) -> None:
    """A delta, laid over the version before it."""
    full = snapshots.unpack(_whole())
    delta = snapshots.unpack(b"".join((b"HRSNAP\x00\x05", xxhash.xxh3_64_digest(data), data)))
    snapshots.check_schema(delta, SCHEMA)
    snapshots.merge(full, delta)


def _version_seeds() -> Sequence[bytes]:
    learner = learned(log(stream(60)), OnlineLearner(SCHEMA, CONFIG))
    first = learner.take_delta(4, None)
    learned(log(stream(20, seed=1)), learner)
    return [snapshots.pack(delta)[16:] for delta in (learner.take_delta(5, 4), first)]


def _editions() -> tuple[bytes, list[bytes]]:
    draft = Publisher("origin", 1 << 20).draft(snapshots.unpack(_whole()))
    return heads.pack(draft.head), [parts.pack(part) for part in draft.parts]


def _pin_seed() -> bytes:
    return pins.pack(Pin("ann", "clicks fell", T0_MS, public(snapshots.unpack(_whole()))))[16:]


def _history(data: bytes) -> None:
    history = VersionHistory()
    history.load(data)
    history.note("published", 9, T0_MS, "judge")
    history.load(history.packed)


def _history_seed() -> bytes:
    history = VersionHistory()
    history.note("published", 1, T0_MS, "judge")
    history.note("held", 2, T0_MS, "judge", "worse")
    return history.packed


def _settings_seed() -> bytes:
    return msgspec.json.encode(asdict(LiveConfig(rank=RankConfig(), policy=PolicyConfig())))


TARGETS: Final = (
    Target(name="user state", run=_state, seeds=_state_seeds, errors=(FeatureError,)),
    Target(name="item row", run=_row, seeds=_row_seeds, errors=(FeatureError,)),
    Target(name="log entry", run=_entry, seeds=_entry_seeds, errors=UNREADABLE),
    Target(name="version", run=_version, seeds=_version_seeds, errors=(LearnerError,)),
    Target(
        name="edition",
        run=_sealed(b"HRHEAD\x00\x01", heads.unpack),
        seeds=lambda: [_editions()[0][16:]],
        errors=(LearnerError,),
    ),
    Target(
        name="part of an edition",
        run=_sealed(b"HRPART\x00\x01", parts.unpack),
        seeds=lambda: [part[16:] for part in _editions()[1]],
        errors=(LearnerError,),
    ),
    Target(
        name="pinned version",
        run=_sealed(b"HRPINS\x00\x01", pins.unpack),
        seeds=lambda: [_pin_seed()],
        errors=(LearnerError,),
    ),
    Target(name="what became of versions", run=_history, seeds=lambda: [_history_seed()], errors=()),
    Target(name="settings", run=read_live, seeds=lambda: [_settings_seed()], errors=(msgspec.DecodeError,)),
)
