"""A model trained on a history before there was a log: the learner's own loop over events that never were entries.

    rows in time order ─► entries, each with its user's state from just before ─► OnlineLearner ─► a whole version

The entries are those that one sender would have made, so what is learned is what `headrace evaluate` learns (but for
events of one millisecond, which stand in a log in the order of their partitions too). The version stands at the cut:
whoever goes on from it reads the log from there.

What is known of items and users by attributes when training begins counts as known from the start.

No Ray, no store, no files. Price: the states of all users in memory, beside what a learner takes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa

from features.decoding import decoder
from features.events import EVENT, ITEM, USER, Entry, LoggedEvent, Positions, StreamId, decode_attributes, encode_body
from features.keys import Keys
from features.schema import Schema
from features.state import apply_update, update_for, with_attributes
from learners import snapshots
from learners.online import LearnerConfig, OnlineLearner
from learners.rounds import RoundConfig
from learners.snapshots import Delta

_decode = decoder(msgspec.msgpack, dict[str, Any])


class Saved(msgspec.Struct):
    """A training that was interrupted."""

    learner: bytes
    """Its snapshot, packed."""
    states: dict[str, bytes]
    """Of users."""
    last: tuple[int, int]
    """Instant of the newest event, and its number among those of that instant."""
    n_taken: int
    """Rows that are learned from, in order."""


class WarmStart:
    """`know`, `take` rows in time order, `read` what an archived log has after them, then `finish`.

    `save` in between, wherever `is_settled`.
    """

    def __init__(self, schema: Schema, config: LearnerConfig, keys: Keys) -> None:
        self._schema = schema
        self._keys = keys
        self._config = replace(config, rounds=RoundConfig())
        self._learner = OnlineLearner(schema, self._config)
        self._states: dict[str, bytes] = {}
        self._last = (0, 0)
        self.n_taken = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Progressive validation by now; see `OnlineLearner.metrics`."""
        return self._learner.metrics

    @property
    def attribution_s(self) -> float:
        """Log time for which a decision may get feedback."""
        return self._config.join.attribution_s

    def state_of(self, user: str) -> bytes:
        """State of a user after the rows that were taken; empty of a stranger."""
        return self._states.get(user, b"")

    @property
    def is_settled(self) -> bool:
        """Whether everything taken has been learned from."""
        return self._learner.is_settled

    def know(self, known: Iterable[Entry]) -> None:
        """Take in attributes of items and users, as log entries."""
        for entry in known:
            if entry.kind == ITEM:
                self._learner.table.fold([entry])
            elif entry.kind == USER:
                user = decode_attributes(entry.body)
                packed = encode_body(user.attributes)
                self._states[user.entity] = with_attributes(self._states.get(user.entity, b""), packed, self._schema)

    def take(self, events: pa.Table) -> Iterator[None]:
        """Learn from rows as `checking.check` gives them, in time order.

        Yields:
            After each row.
        """
        for row in events.to_pylist():
            self._learner.read(self._entry(row))
            self.n_taken += 1
            yield

    def read(self, entry: Entry) -> None:
        """Learn from an entry of an archived log, as a learner that reads the log."""
        self._learner.read(entry)
        self._last = max(self._last, entry.id)
        self.n_taken += 1

    def remember(self, entries: Iterable[Entry]) -> None:
        """After `resume`: entries that were read before, as far back as feedback may belong to decisions."""
        self._learner.remember(entries)

    def finish(self, version: int, cut: Positions) -> Delta:
        """Learn from what is pending; everything, as a version that stands at a position of the log."""
        span_ms = 1 + int(1000 * self._config.batch_span_s)
        end_ms = self._last[0] + span_ms
        self._learner.close_tick(end_ms)
        while not self._learner.is_settled:  # the window of a decision has ended meanwhile
            end_ms += span_ms
            self._learner.close_tick(end_ms)
        self._learner.reader.positions = dict(cut)
        return self._learner.snapshot(version)

    def save(self) -> bytes:
        """What `resume` goes on from, bit for bit."""
        learner = snapshots.pack(self._learner.snapshot())
        return msgspec.msgpack.encode(Saved(learner, self._states, self._last, self.n_taken))

    def resume(self, saved: bytes) -> None:
        """Go on where another one was interrupted."""
        found = msgspec.msgpack.decode(saved, type=Saved)
        self._learner.restore(snapshots.unpack(found.learner))
        self._states, self._last, self.n_taken = found.states, found.last, found.n_taken

    def _entry(self, row: dict[str, Any]) -> Entry:
        ts_ms, number = row["ts_ms"], self._last[1] + 1 if row["ts_ms"] == self._last[0] else 0
        self._last = ts_ms, number
        context = _decode(row["context"]) if row["context"] else {}
        kind = self._schema.event_types[row["type"]]
        event = LoggedEvent(kind, row["user"], row["item"], ts_ms, row["value"], context, row["id"], None)
        before = self._states.get(event.user, b"")
        self._states[event.user] = apply_update(before, update_for(event, self._schema), self._schema)
        return Entry(StreamId(ts_ms, number), self._keys.user_partition(event.user), EVENT, encode_body(event), before)
