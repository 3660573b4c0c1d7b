"""Whose events count when a log is lived through once more, and what its entries would have been then.

    entries of the log ─► Retelling ─► those that would have been logged

An entry holds its user's state from just before it, with all that anybody taught by then. So who leaves a source out
has to tell anew whatever came of the users whom it touched: from the first such event on their states are folded beside
the log. All other entries stay as they are, and cost nothing.

A decision is logged a moment after it was made, with the state it was made with; that one is found again among those
that the user had lately. What the model saw when it chose (`inputs`) stays what it saw: that was shown.

An event that was refused as the duplicate of one that is left out stays refused: nobody knows of it.

No store, no Ray. Price: the states of all users who are touched; with sources that are counted in, the newest entry of
every user too.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import xxhash

from features.errors import FeatureError
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    QUARANTINED,
    USER,
    Entry,
    decode_attributes,
    decode_decision,
    decode_erasure,
    decode_event,
)
from features.schema import Schema
from features.state import state_after

N_MOMENTS: Final = 16  # changes of a user that may come between the making of a decision and its entry


class Choice(msgspec.Struct, frozen=True):
    """Whose events count; by default all but those in quarantine."""

    without: tuple[str, ...] = ()
    """Sources whose events are left out."""
    counted: tuple[str, ...] = ()
    """Sources whose events count though they were in quarantine."""

    def takes(self, kind: bytes, source: str | None) -> bool:
        """Whether an event counts that was logged as this kind, `EVENT` or `QUARANTINED`."""
        return source in self.counted if kind == QUARANTINED else source not in self.without


ALL: Final = Choice()


class _Moment(NamedTuple):
    """A state that a user had."""

    real: int
    """Digest of the state in the log."""
    since_ms: int
    state: bytes
    """The one in its place."""


@dataclass(slots=True)
class _Track:
    """A user whose states are other ones."""

    state: bytes
    since_ms: int
    """Decisions that were made before are right."""
    moments: deque[_Moment] = field(default_factory=lambda: deque(maxlen=N_MOMENTS))

    def note(self, real: int, since_ms: int) -> None:
        self.moments.append(_Moment(real, since_ms, self.state))


class Retelling:
    """`touch` users, then `tell` entries of all partitions in the order of the log.

    Args:
        before: State of a user when the log begins; empty of a stranger.
    """

    def __init__(self, choice: Choice, schema: Schema, before: Callable[[str], bytes] = lambda _: b"") -> None:
        self._choice = choice
        self._schema = schema
        self._before = before
        self._tracks: dict[str, _Track] = {}
        self._newest: dict[str, Entry] = {}
        """Of users who are not tracked, if any may be from now."""

    def touch(self, users: Iterable[str]) -> None:
        """Note users whom sources that are left out have touched before the log begins."""
        for user in users:
            state = self._before(user)
            self._tracks[user] = track = _Track(state, 0)
            track.note(_digest(state), 0)

    def tell(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries that would have been logged.

        What can't be read stays as it is; so does a state of another schema.
        """
        if self._choice == ALL:
            yield from entries
            return
        for entry in entries:
            try:
                told = self._told(entry)
            except msgspec.DecodeError:
                told = entry
            if told is not None:
                yield told

    def _told(self, entry: Entry) -> Entry | None:
        if entry.kind in (EVENT, QUARANTINED):
            return self._told_event(entry)
        if entry.kind == USER:
            return self._changed(entry, decode_attributes(entry.body).entity)
        if entry.kind == ERASURE:
            return self._changed(entry, decode_erasure(entry.body).user)
        if entry.kind == DECISION and self._tracks:
            return self._decided(entry)
        return entry

    def _told_event(self, entry: Entry) -> Entry | None:
        event = decode_event(entry.body)
        takes = self._choice.takes(entry.kind, event.source)
        if entry.kind == QUARANTINED:
            return self._counted_in(entry, event.user) if takes else entry
        if takes:
            return self._changed(entry, event.user)
        self._leave_out(entry, event.user)
        return None

    def _leave_out(self, entry: Entry, user: str) -> None:
        track = self._tracks.get(user) or self._begin(user, entry.state, entry.id.ms)
        track.note(_digest(self._after(entry.state, entry)), entry.id.ms)

    def _counted_in(self, entry: Entry, user: str) -> Entry:
        track = self._tracks.get(user)
        if track is None:
            newest = self._newest.get(user)
            state = self._before(user) if newest is None else self._after(newest.state, newest)
            track = self._begin(user, state, entry.id.ms)
        told = entry._replace(kind=EVENT, state=track.state)
        track.state = self._after(track.state, told)
        track.note(track.moments[-1].real, entry.id.ms)
        return told

    def _changed(self, entry: Entry, user: str) -> Entry:
        track = self._tracks.get(user)
        if track is None:
            if self._choice.counted:
                self._newest[user] = entry
            return entry
        told = entry if entry.kind == ERASURE else entry._replace(state=track.state)
        track.state = self._after(track.state, told)
        track.note(_digest(self._after(entry.state, entry)), entry.id.ms)
        return told

    def _decided(self, entry: Entry) -> Entry:
        decision = decode_decision(entry.body)
        track = self._tracks.get(decision.user)
        if track is None:
            return entry
        real = _digest(entry.state)
        moments = [moment for moment in track.moments if moment.real == real]
        if not moments and (not entry.state or decision.ts_ms < track.since_ms):
            return entry  # made without a state, or before the first change
        moments = moments or list(track.moments)
        # What is counted in changes no state in the log: then the instant says which one it was.
        known = [moment for moment in moments if moment.since_ms <= decision.ts_ms]
        return entry._replace(state=(known[-1] if known else moments[0]).state)

    def _begin(self, user: str, state: bytes, since_ms: int) -> _Track:
        self._newest.pop(user, None)
        self._tracks[user] = track = _Track(state, since_ms)
        track.note(_digest(state), 0)
        return track

    def _after(self, state: bytes, entry: Entry) -> bytes:
        try:
            return state_after(state, entry, self._schema)
        except FeatureError:
            return state


def _digest(state: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(state))
