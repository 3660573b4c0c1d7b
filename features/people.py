"""Whose an entry of the log is, and which entries go when people are erased.

With an erasure goes everything of that person up to its entry, this one too, since it names them. What comes after it
is a new life and stays, but for decisions: one that was made before is logged a moment later, with the state of then.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    ITEM,
    QUARANTINED,
    START,
    USER,
    Entry,
    StreamId,
    decode_attributes,
    decode_decision,
    decode_erasure,
    decode_event,
    encode_body,
)
from features.keys import digest

LATE_MS: Final = 30_000  # after so long no decision is logged any more (`deployments.decision_log`)
SLACK_MS: Final = 1000  # between the clocks of those who make decisions and of the store


class Mark(NamedTuple):
    """Where a person's erasure stands."""

    partition: int
    at: StreamId


class Said(NamedTuple):
    """What an entry says of a person."""

    user: str
    ts_ms: int
    event_id: str | None = None


class Gone:
    """The people who are erased, and what of the log goes with them.

    Args:
        marks: Of several erasures of one person the last.
    """

    def __init__(self, marks: Mapping[str, Mark]) -> None:
        self._marks = marks
        self._until: dict[int, StreamId] = {}
        self._packed = {user: encode_body(user) for user in marks}
        for mark in marks.values():
            self._until[mark.partition] = max(mark.at, self._until.get(mark.partition, START))

    @property
    def people(self) -> list[str]:
        """Who they are."""
        return list(self._marks)

    def until(self, partition: int) -> StreamId:
        """No entry after it goes; `START`: none of this partition."""
        at = self._until.get(partition)
        return START if at is None else StreamId(at.ms + LATE_MS, 0)  # decisions come late

    def has(self, entry: Entry) -> bool:
        """Whether an entry goes. One that cannot be read does if a person's id is in it, as ids are packed."""
        try:
            said = said_in(entry)
        except msgspec.DecodeError:
            return any(
                entry.id <= self._marks[user].at and packed in entry.body for user, packed in self._packed.items()
            )
        mark = None if said is None else self._marks.get(said.user)
        if said is None or mark is None or entry.id <= mark.at:
            return mark is not None
        is_late = said.ts_ms <= mark.at.ms + SLACK_MS and entry.id.ms < mark.at.ms + LATE_MS
        return entry.kind == DECISION and is_late


def said_in(entry: Entry) -> Said | None:
    """Whom an entry is about; None: nobody.

    Raises:
        DecodeError: If it cannot be read.
    """
    if entry.kind in {EVENT, QUARANTINED}:
        event = decode_event(entry.body)
        return Said(event.user, event.ts_ms, event.id)
    if entry.kind == DECISION:
        decision = decode_decision(entry.body)
        return Said(decision.user, decision.ts_ms)
    if entry.kind == USER:
        stated = decode_attributes(entry.body)
        return Said(stated.entity, stated.ts_ms)
    if entry.kind == ERASURE:
        erased = decode_erasure(entry.body)
        return Said(erased.user, erased.ts_ms)
    if entry.kind == ITEM:
        return None
    raise msgspec.DecodeError(f"entry of kind {entry.kind!r}")


def digest_in(entry: Entry) -> bytes | None:
    """By which an event is known when it comes again; None for what is not."""
    said = said_in(entry) if entry.kind == EVENT else None
    return None if said is None or said.event_id is None else digest(said.user, said.event_id)
