"""What one sender does, and the log that it makes: with all sources, and as if some had sent nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from features.backfill.leaving_out import Choice
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    ITEM,
    QUARANTINED,
    USER,
    Entry,
    LoggedAttributes,
    LoggedDecision,
    LoggedErasure,
    LoggedEvent,
    StreamId,
    encode_body,
)
from features.keys import Keys
from features.schema import Schema
from features.state import state_after
from tests.features.examples import T0_MS

STEP_MS = 700  # between two acts


class Act(NamedTuple):
    """One thing that the sender does."""

    kind: bytes
    user: str
    item: str = "a"
    type: str = "click"
    source: str | None = None
    late_ms: int = 0
    """How long ago an event happened."""
    delay: int = 0
    """Acts that come between the making of a decision and its entry."""


def acts(items: Sequence[str], types: Sequence[str]) -> st.SearchStrategy[list[Act]]:
    """Many events, and a few of everything else."""
    users = st.sampled_from(["u1", "u2", "u3", "ü"])
    sources = st.sampled_from([None, "good", "bad", "worse"])
    event = st.builds(
        Act,
        st.sampled_from([EVENT, EVENT, EVENT, QUARANTINED]),
        users,
        st.sampled_from(items),
        st.sampled_from(types),
        sources,
        st.sampled_from([0, 0, 50, 5000]),
    )
    other = st.builds(Act, st.sampled_from([USER, ITEM, ERASURE]), users, st.sampled_from(items))
    decision = st.builds(Act, st.just(DECISION), users, delay=st.integers(0, 3))
    return st.lists(st.one_of(event, event, other, decision), min_size=1, max_size=40)


class World:
    """A log that is made of acts; of those of a choice alone, or as all of it came."""

    def __init__(self, schema: Schema, keys: Keys, choice: Choice | None = None) -> None:
        self.states: dict[str, bytes] = {}
        self.entries: list[Entry] = []
        self._schema = schema
        self._keys = keys
        self._choice = choice
        self._held: list[tuple[int, LoggedDecision, bytes]] = []

    def live(self, some: Sequence[Act], n_inputs: int = 0) -> "World":
        """Do all of it."""
        for number, act in enumerate(some):
            now_ms = T0_MS + STEP_MS * number
            self._do(act, number, now_ms, n_inputs)
            due = [held for held in self._held if held[0] <= number]
            self._held = [held for held in self._held if held[0] > number]
            for place, (_, decision, state) in enumerate(due):
                self._log(StreamId(now_ms, 1 + place), DECISION, decision.user, decision, state)
        return self

    def _do(self, act: Act, number: int, now_ms: int, n_inputs: int) -> None:
        at = StreamId(now_ms, 0)
        if act.kind == DECISION:
            body = LoggedDecision(f"d{number}", act.user, now_ms, 1, {}, ["a", "b"], [1.0, 0.5], b"\0" * 4 * n_inputs)
            self._held.append((number + act.delay, body, self.states.get(act.user, b"")))
        elif act.kind == ITEM:
            stated: dict[str, Any] = {"price": float(number)}
            self._log(at, ITEM, act.item, LoggedAttributes(act.item, stated, now_ms), b"")
        elif act.kind == USER:
            self._change(at, USER, act.user, LoggedAttributes(act.user, {"age": number}, now_ms))
        elif act.kind == ERASURE:
            self._change(at, ERASURE, act.user, LoggedErasure(act.user, now_ms))
        else:
            self._happen(act, at)

    def _happen(self, act: Act, at: StreamId) -> None:
        event = LoggedEvent(
            act.type, act.user, act.item, at.ms - act.late_ms, 1.5, {"device": "tv"}, None, None, act.source
        )
        if self._choice is None and act.kind == QUARANTINED:
            self._log(at, QUARANTINED, act.user, event, b"")
        elif self._choice is None or self._choice.takes(act.kind, act.source):
            self._change(at, EVENT, act.user, event)

    def _change(self, at: StreamId, kind: bytes, user: str, body: Any) -> None:
        before = self.states.get(user, b"")
        entry = self._log(at, kind, user, body, b"" if kind == ERASURE else before)
        self.states[user] = state_after(before, entry, self._schema)

    def _log(self, at: StreamId, kind: bytes, name: str, body: Any, state: bytes) -> Entry:
        entry = Entry(at, self._keys.user_partition(name), kind, encode_body(body), state)
        self.entries.append(entry)
        return entry
