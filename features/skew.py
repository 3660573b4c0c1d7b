"""Training-serving skew: features of logged decisions, made again from the log, and where they differ.

    log entries, in order ─► `Moments` ─► at a decision: rows and states of that time ─► `Judge` ─► `Skew.totals`

A decision says what was looked at, as float16, and with which state. Rows in a replica are up to `behind_ms` behind the
log, so what was looked at must follow from the rows as the log gives them at some moment between `behind_ms` before the
decision and its own entry, all decayed to the decision's instant; `features.allowed` says what that is for each
feature, which depend on the person with the state that was logged. That state itself must be, to the last byte, one
that the person had in the same time: which of them depends on when it was read, and that is not logged. So what is
asked of a state is weaker than what is promised (a read after every acknowledged write), by `behind_ms`. If it is none
of them, the user features that it gives are told apart from those that it should give; they are not logged themselves.

If items differ, it is asked whether rows that are older than they may be explain all of it: late, not wrong.

Nothing is passed over in silence: decisions that are not judged are counted by reason (`Counts`).

Pure: no store, no clock. Whose rows it begins with decides which decisions can be judged: see `Skew`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.allowed import Allowed, Judge, Versions
from features.encoding import Encoder, Request
from features.errors import FeatureError
from features.events import DECISION, Entry, LoggedDecision, decode_decision
from features.item_table import ItemTable
from features.moments import MAX_PEOPLE, Moments
from features.schema import Schema, hash64
from features.skew_findings import STATE, Counts, Difference, Judged, Total
from features.state import UserState, unpack

F16 = NDArray[np.float16]
EXPLAINED_TO_MS: Final = 50  # how exactly it is told how late rows were


@dataclass(frozen=True, kw_only=True, slots=True)
class SkewConfig:
    """What is compared, and how strictly."""

    behind_ms: int = 500
    """How far behind the log rows may be: the flush of the projector and the age of a cached row."""
    late_ms: int = 2000
    """How long after it was made a decision may be logged; more is counted apart, and costs memory for the entries."""
    sample: int = 1
    """Of so many decisions one is judged; which ones depends on their ids alone."""
    since_ms: int = 0
    """Decisions made before are not judged."""
    max_people: int = MAX_PEOPLE
    """See `Moments`."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("behind_ms", 0, 3_600_000),
            ("late_ms", 0, 3_600_000),
            ("sample", 1, 2**31),
            ("max_people", 1, 2**31),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"skew.{name}: expected {low} to {high}, got {getattr(self, name)}")


class Skew:
    """`read` entries in log order; `totals` by feature, `user_names` and `item_names` are their names, `counts`.

    Args:
        table: Rows from just before the first entry; None: the log is whole, and there were neither rows nor states.
        start_ms: Log time up to which `table` is folded.
    """

    def __init__(
        self, schema: Schema, config: SkewConfig | None = None, *, table: ItemTable | None = None, start_ms: int = 0
    ) -> None:
        self.config = config or SkewConfig()
        self._schema = schema
        self._encoder = Encoder(schema)
        self._judge = Judge(self._encoder)
        self._start_ms = start_ms
        self.moments = Moments(
            schema,
            self.config.behind_ms + self.config.late_ms,
            table=table,
            knows_people=table is None,
            max_people=self.config.max_people,
        )
        self.item_names = self._encoder.dense_names
        self.user_names = (STATE, *self._encoder.user_names)
        self.items = {name: Total() for name in self.item_names}
        self.users = {name: Total() for name in self.user_names}
        self.counts = Counts()

    def read(self, entries: Sequence[Entry]) -> Iterator[Judged]:
        """Take in the next entries; the decisions among them that are judged, as they are."""
        start = 0
        for at, entry in enumerate(entries):
            if entry.kind != DECISION:
                continue
            decision = self._decode(entry)
            if decision is not None:
                self.moments.add(entries[start:at])
                start = at
                judged = self._look(entry, decision)
                if judged is not None:
                    yield judged
        self.moments.add(entries[start:])

    def _decode(self, entry: Entry) -> LoggedDecision | None:
        """A decision that is to be judged; others are counted."""
        self.counts.seen += 1
        try:
            decision = decode_decision(entry.body)
        except msgspec.DecodeError:
            self.counts.undecodable += 1
            return None
        away_ms = abs(entry.id.ms - decision.ts_ms)
        if self.config.sample > 1 and hash64(decision.decision) % self.config.sample:
            self.counts.not_sampled += 1
        elif decision.ts_ms < max(self.config.since_ms, self._start_ms + self.config.behind_ms):
            self.counts.too_early += 1
        elif decision.is_degraded:
            self.counts.degraded += 1
        elif away_ms > self.config.late_ms:
            self.counts.out_of_time += 1
        elif not decision.items or len(decision.inputs) != 2 * len(decision.items) * len(self.item_names):
            self.counts.foreign += 1
        else:
            return decision
        return None

    def _look(self, entry: Entry, decision: LoggedDecision) -> Judged | None:
        try:
            user = unpack(entry.state, self._schema)
        except FeatureError:
            self.counts.foreign += 1
            return None
        at_ms = min(decision.ts_ms, entry.id.ms)
        states = self.moments.states(decision.user, at_ms - self.config.behind_ms)
        of_user = self._look_at_user(decision, entry.state, states)
        of_items = self._look_at_items(decision, user, at_ms)
        for difference in (*of_user, *of_items):
            total = (self.items if difference.item else self.users)[difference.feature]
            total.first = total.first or (decision.decision, difference)
        explained_ms = self._explain(decision, user, at_ms, entry.id.ms) if of_items else self.config.behind_ms
        self.counts.judged += 1
        self.counts.differing += bool(of_user or of_items)
        if of_items and not of_user and explained_ms is not None:
            self.counts.late += 1
            self.counts.latest_ms = max(self.counts.latest_ms, explained_ms)
        n_compared = len(decision.items) * len(self.items) + (len(self.users) if states is not None else 0)
        differences = (*of_user, *of_items)
        return Judged(decision.decision, decision.user, decision.ts_ms, n_compared, differences, explained_ms)

    def _look_at_items(self, decision: LoggedDecision, user: UserState, at_ms: int) -> list[Difference]:
        versions, found = self._judged(decision, user, at_ms - self.config.behind_ms)
        self.counts.items_without_row += sum(not versions[item][-1] for item in decision.items)
        for f, name in enumerate(self.item_names):
            _add(self.items[name], found.is_allowed[:, f], found.distance[:, f])
        return [
            Difference(
                self.item_names[f],
                decision.items[k],
                *_floats(found.served[k, f], found.low[k, f], found.high[k, f]),
            )
            for k, f in zip(*(at.tolist() for at in np.nonzero(~found.is_allowed)), strict=True)
        ]

    def _explain(self, decision: LoggedDecision, user: UserState, at_ms: int, logged_ms: int) -> int | None:
        """How far behind rows must have been, if nothing else is wrong: as far as entries are held, to a few ms."""
        low_ms, high_ms = self.config.behind_ms, self.config.behind_ms + self.config.late_ms - (logged_ms - at_ms)
        if not self._judged(decision, user, at_ms - high_ms)[1].is_allowed.all():
            return None
        while high_ms - low_ms > EXPLAINED_TO_MS:
            middle_ms = (low_ms + high_ms) // 2
            if self._judged(decision, user, at_ms - middle_ms)[1].is_allowed.all():
                high_ms = middle_ms
            else:
                low_ms = middle_ms
        return high_ms

    def _judged(self, decision: LoggedDecision, user: UserState, since_ms: int) -> tuple[Versions, Allowed]:
        request = Request(user, decision.context, decision.ts_ms, decision.items)
        before = self.moments.table.predecessors(user.history, decision.ts_ms)
        versions = self.moments.rows(list({*decision.items, *before}), since_ms)
        served_KF: F16 = np.frombuffer(decision.inputs, np.float16).reshape(len(decision.items), -1)
        return versions, self._judge.judge(served_KF, request, versions, before)

    def _look_at_user(self, decision: LoggedDecision, state: bytes, known: list[bytes] | None) -> list[Difference]:
        """The features of the state that was looked at, against those of the states that the person had."""
        try:
            allowed = [self._user_features(decision, each, mark=0.0) for each in known or ()]
        except FeatureError:
            known = None
        if known is None:
            self.counts.of_unknown += 1
            return []
        served_U = self._user_features(decision, state, mark=float(state not in known))
        allowed_SU = np.stack(allowed)
        is_allowed_U = (allowed_SU == served_U).any(axis=0)
        apart_U = np.abs(allowed_SU.astype(np.float64) - served_U.astype(np.float64)).min(axis=0)
        differences = []
        for u, name in enumerate(self.user_names):
            _add(self.users[name], is_allowed_U[u : u + 1], apart_U[u : u + 1])
            if not is_allowed_U[u]:
                low, high = allowed_SU[:, u].min(), allowed_SU[:, u].max()
                differences.append(Difference(name, "", *_floats(served_U[u], low, high)))
        return differences

    def _user_features(self, decision: LoggedDecision, state: bytes, *, mark: float) -> F16:
        """Features that a state gives, behind a mark that stands for the state as a whole."""
        request = Request(unpack(state, self._schema), decision.context, decision.ts_ms, decision.items[:1])
        user_dense_U = self._encoder.encode(self.moments.table, [request]).user_dense[0]
        return np.concatenate([[mark], user_dense_U]).astype(np.float16)


def _add(total: Total, is_allowed: NDArray[np.bool_], distance: NDArray[np.float64]) -> None:
    total.compared += len(is_allowed)
    n = int(len(is_allowed) - is_allowed.sum())
    if n:
        total.differing += n
        total.largest = max(total.largest, float(distance[~is_allowed].max()))


def _floats(*values: np.float16) -> tuple[float, ...]:
    return tuple(map(float, values))
