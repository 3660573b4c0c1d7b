"""The log, cut into batches of examples.

    entry ──► slate gathered ──► pending batch ──► batch, when it is due
                    │                (cut by number and log time)
                    └──► then folded into the reader's own item table

What floods is not learned from. An event that has no voice (`features.voice`) makes no example, nor does the decision
that it belongs to; and one person's decisions are at most `person_share` of a full batch.

Two invariants. The slate of an event is gathered before the event is folded, so no example knows the future. Batches
are cut by the log alone, never by when somebody happened to look; so whoever reads the same entries gets the same ones.

`restore` goes on from a snapshot as if there had been no interruption: one is only taken when nothing is pending, and
holds everything that a later batch depends on, but for open decisions, which are read again: see `remember`.

It knows no weights, and not what becomes of a batch. No Ray, no store, no clock. The price is the item table (2.5 kB an
item).
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Inputs, Request
from features.errors import FeatureError
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    ITEM,
    Entry,
    LoggedEvent,
    Positions,
    StreamId,
    decode_decision,
    decode_erasure,
    logged_event,
)
from features.item_table import ItemTable
from features.joiner import JoinConfig, Joiner, Outcome
from features.schema import Schema, hash64
from features.state import UserState, unpack
from learners import snapshots
from learners.losses import Gradient
from learners.parts import Part, impressions, positives
from learners.pending import PendingBatch
from learners.sampling import NegativeSampler, SamplingConfig
from learners.snapshots import Delta, Strata

VISIT_MS: Final = 1_800_000  # a pause longer than half an hour ends a visit, as in web analytics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingConfig:
    """What becomes an example, and which ones make a batch."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    batch_size: int = 128
    """Examples in a full batch."""
    batch_span_s: float = 0.2
    """Log time after which a batch is due though it is not full."""
    person_share: float = 0.125
    """Share of a full batch that one person's decisions may take; what is beyond it is not learned from."""
    seed: int = 7
    """Of the negatives."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("batch_size", 1, 65536),
            ("batch_span_s", 0.0, 86400.0),
            ("person_share", 0.0, 1.0),
            ("seed", 0, 2**31),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"learner.{name}: expected {low} to {high}, got {getattr(self, name)}")


class Batch(NamedTuple):
    """Examples that are due together."""

    slates: Inputs | None
    """Of events that belong to no decision: the item, and the negatives drawn for it; None: there are none."""
    outcomes: list[Outcome]
    """What came of decisions."""
    fullness: float
    """Share of a full batch, at most 1."""
    first_ms: int
    """Log time with which it began."""
    sources: list[str | None]
    """Who told of the slates' events, one for each slate; None: nobody says."""
    people: list[int]
    """Hashes of whom they happened to."""


class Draws(NamedTuple):
    """What the next negatives depend on, beside the item table."""

    n_drawn: int
    """Slates that negatives were drawn for."""
    met: list[float]
    """Positives by stratum; see `NegativeSampler`."""


class ExampleReader:
    """`read` entries in log order, `advance` after each tick; both yield the batches that are due.

        for batch in reader.read(entry):
            parts = reader.parts(batch, shift, shown_at)

    A batch is to be dealt with when it is yielded: the next one is not cut before, and its parts are looked at in the
    item table as it is then. Nothing is read by a call whose batches nobody takes.

    Args:
        seat, n_learners: Which partitions the examples are of, if several learners divide them; items are those of all.
    """

    def __init__(self, schema: Schema, config: ReadingConfig, seat: int = 0, n_learners: int = 1) -> None:
        self.schema = schema
        self.config = config
        self.table = ItemTable(schema)
        self.encoder = Encoder(schema)
        self.positions: Positions = {}
        """Newest entry read, by partition."""
        self._seat = seat
        self._n_learners = n_learners
        # None draws what another draws.
        self._sampler = NegativeSampler(schema, config.sampling, config.seed + seat)
        self._pending = PendingBatch(self.encoder, self.table, self._sampler)
        self._joiner = Joiner(config.join, len(self.encoder.dense_names))
        self._outcomes: list[Outcome] = []
        self._n_of: Counter[str] = Counter()
        """Outcomes that are pending, by person."""
        self._erased: list[int] = []
        self._n_read = 0
        self._first_ms = 0
        self._tick_end_ms = 0

    @property
    def n_events(self) -> int:
        """Events that were taken in, ever."""
        return self._n_read - self._pending.n_passed_over

    @property
    def now_ms(self) -> int:
        """Log time, by the newest entry."""
        return max(at.ms for at in self.positions.values())

    @property
    def is_settled(self) -> bool:
        """Whether everything read has been in a batch."""
        return not self._n_pending

    @property
    def settled_through_ms(self) -> int:
        """All log time before this has been in a batch."""
        return self._tick_end_ms if self.is_settled else min(self._tick_end_ms, self._first_ms)

    @property
    def draws(self) -> Draws:
        """How far it has drawn negatives."""
        return Draws(self._pending.n_drawn, self._sampler.met.tolist())

    @draws.setter
    def draws(self, draws: Draws) -> None:
        self._pending.n_drawn, self._sampler.met = draws.n_drawn, np.array(draws.met)

    def strata(self) -> Strata | None:
        """What it draws negatives from, beside the item table: everything; None of several, who have not the same."""
        return self._sampler.strata() if self._n_learners == 1 else None

    def take_strata(self) -> Strata | None:
        """What of that changed since the last take."""
        return self._sampler.take_strata() if self._n_learners == 1 else None

    def read(self, entry: Entry) -> Iterator[Batch]:
        """Take in the next entry of the log.

        One that can't be read (another schema, corrupt) is logged and passed over: it must not stop the reading.

        Yields:
            Batches that are due before it, then one that it fills. What is pending when somebody is erased is due.
        """
        if entry.id.ms > self._tick_end_ms:  # of one millisecond come many entries
            yield from self.advance(entry.id.ms)
        is_mine = self._is_mine(entry)
        if entry.kind == ERASURE and is_mine and not self.is_settled:
            yield self._cut()
        try:
            self._take_in(entry, is_mine)
        except (FeatureError, msgspec.DecodeError) as error:
            logger.error("entry %s of partition %d is passed over: %s", entry.id, entry.partition, error)
        self.positions[entry.partition] = entry.id
        if is_mine and self._is_filled_by(entry.id.ms):
            yield self._cut()

    def advance(self, now_ms: int) -> Iterator[Batch]:
        """Note that no entry before `now_ms` is still to come.

        Batches whose span is over, and impressions that have waited enough, are taken one after the other as they come;
        so it does not matter in how many calls time passes.

        Yields:
            Batches that are due by then. At each of them everything read so far has been in a batch, though more may be
            due before `now_ms`.
        """
        while True:
            over_ms, next_ms = self._over_ms, self._joiner.next_ms
            if next_ms is not None and next_ms <= min(now_ms, over_ms):
                is_due, at_ms = self._is_filled_by(next_ms), next_ms
            elif over_ms <= now_ms:
                is_due, at_ms = True, int(over_ms)
            else:
                break
            if is_due:
                self._tick_end_ms = max(self._tick_end_ms, at_ms)
                yield self._cut()
        self._tick_end_ms = max(self._tick_end_ms, now_ms)

    def settle(self, end_ms: int) -> Iterator[Batch]:
        """`advance`, then a batch of what is pending still, though it is not due; after it all that was read is folded.

        Yields:
            The batches.
        """
        yield from self.advance(end_ms)
        if not self.is_settled:
            yield self._cut()
        self._pending.live_through()

    def take_erased(self) -> NDArray[np.uint64]:
        """Hashes of who was erased since the last take; nothing of them is in any batch that comes."""
        erased, self._erased = self._erased, []
        return np.array(erased, dtype=np.uint64)

    def fold(self) -> None:
        """Fold what was read, so that the item table is as far as the positions.

        Raises:
            RuntimeError: If examples are pending.
        """
        if not self.is_settled:
            raise RuntimeError("a snapshot was asked for while examples are pending; wait until is_settled")
        self._pending.live_through()

    def parts(self, batch: Batch, shift: float, shown_at: Gradient) -> list[Part]:
        """A batch by what is learned from it: positives, slates shown, single rewards.

        Args:
            shift: Log odds of rewards in time beside those of all; see `PointwiseLoss`.
            shown_at: See `PointwiseLoss`.
        """
        shift, share = self.config.join.log_odds_shift + shift, 1.0 / self.config.batch_size
        found = [] if batch.slates is None else [positives(batch.slates, share, batch.sources, batch.people)]
        slates = [outcome for outcome in batch.outcomes if len(outcome.places) > 1]
        single = [outcome for outcome in batch.outcomes if len(outcome.places) == 1]
        for outcomes in filter(None, (slates, single)):
            found.append(impressions(outcomes, self.encoder, self.table, shift, share, shown_at))
        return found

    def restore(self, full: Delta) -> None:
        """Become the reader of the learner that took this full snapshot.

        Raises:
            ForeignSnapshot: If it is of another schema, or no learner's full snapshot.
        """
        private, progress = snapshots.private_of(full, self.schema), full.progress
        # Made anew, so that no row and no position of before is left.
        fresh = ExampleReader(self.schema, self.config, self._seat, self._n_learners)
        fresh.table.load(list(private.items), list(private.items.values()))
        fresh.draws = Draws(private.n_drawn, private.met)
        if private.strata is not None and self._n_learners == 1:
            fresh._sampler.load(private.strata)
        fresh.positions = {partition: StreamId(*at) for partition, at in progress.positions.items()}
        fresh._tick_end_ms, fresh._n_read = progress.trained_through_ms, progress.n_events
        self.__dict__.update(fresh.__dict__)

    def remember(self, entries: Iterable[Entry]) -> None:
        """After `restore`: entries of the last attribution window that were read before, in any order.

        They make no example again; later feedback finds its decision, unless somebody was erased meanwhile.
        """
        for entry in filter(self._is_mine, entries):
            try:
                if entry.kind == DECISION:
                    self._joiner.add_decision(decode_decision(entry.body), entry.state)
                elif entry.kind == EVENT:
                    event = logged_event(entry.body, self.schema)
                    has_voice = self.table.voices.has_voice(event, entry.state)
                    self._joiner.add_feedback(event, has_voice=has_voice)
                elif entry.kind == ERASURE:
                    self._joiner.erase(decode_erasure(entry.body).user)
            except (FeatureError, msgspec.DecodeError):
                continue  # it was passed over, and reported, when it was read
        self._joiner.pop_ready(self._tick_end_ms)

    @property
    def _n_pending(self) -> int:
        return len(self._pending) + len(self._outcomes)

    @property
    def _over_ms(self) -> float:
        """When the span of what is pending is over."""
        return self._first_ms + self.config.batch_span_s * 1000.0 if self._n_pending else math.inf

    def _is_mine(self, entry: Entry) -> bool:
        return entry.partition % self._n_learners == self._seat

    def _take_in(self, entry: Entry, is_mine: bool) -> None:
        if entry.kind == EVENT:
            self._take_event(entry, is_mine)
        elif entry.kind == DECISION and is_mine:
            unpack(entry.state, self.schema)  # or it is refused here, not in the middle of a batch
            self._joiner.add_decision(decode_decision(entry.body), entry.state)
        elif entry.kind == ITEM:
            self._pending.live_through()
            self.table.fold([entry])
        elif entry.kind == ERASURE:
            user = decode_erasure(entry.body).user
            self._pending.live_through()
            self._joiner.erase(user)
            self._erased.append(hash64(user))

    def _take_event(self, entry: Entry, is_mine: bool) -> None:
        event = logged_event(entry.body, self.schema)
        user = unpack(entry.state, self.schema) if is_mine else None
        has_voice = self.table.voices.has_voice(event, entry.state)
        is_joined = is_mine and self._joiner.add_feedback(event, has_voice=has_voice)
        if has_voice:
            request = None if user is None or is_joined else self._request(event, user, entry.id.ms)
            self._pending.add(event, entry.state, request)
        self._n_read += 1

    def _request(self, event: LoggedEvent, user: UserState, ms: int) -> Request:
        """What would have been asked just before an event; the first of a batch begins it."""
        if not len(self._pending):
            if self.is_settled:
                self._first_ms = ms
            self._pending.live_through()
            self._sampler.refresh(self.table, event.ts_ms)
        return Request(user, known_context(event, user), event.ts_ms, ())

    def _is_filled_by(self, now_ms: int) -> bool:
        """Take in what the join has to tell by now; whether a batch is full then."""
        if self._n_pending < self.config.batch_size and not self._joiner.has_news(now_ms):
            return False
        outcomes = list(filter(self._is_within_share, self._joiner.pop_ready(now_ms)))
        if outcomes and self.is_settled:
            self._first_ms = now_ms
        self._outcomes += outcomes
        return self._n_pending >= self.config.batch_size

    def _is_within_share(self, outcome: Outcome) -> bool:
        """Whether there is room for another decision of this person in the batch; if so it is taken."""
        user = outcome.decision.user
        self._n_of[user] += 1
        return self._n_of[user] <= max(1.0, self.config.person_share * self.config.batch_size)

    def _cut(self) -> Batch:
        """What is pending; nothing is, afterwards."""
        fullness = min(1.0, self._n_pending / self.config.batch_size)
        outcomes, self._outcomes = self._outcomes, []
        self._n_of.clear()
        slates, sources, people = self._pending.take()
        return Batch(slates, outcomes, fullness, self._first_ms, sources, people)


def known_context(event: LoggedEvent, user: UserState) -> dict[str, Any]:
    """The context in which somebody would have been asked for just before an event.

    That of the person's event before, if both belong to one visit. The event's own says how the item was reached (the
    referrer of a page is that of the click on it): who learns from it learns from the answer, and ranks badly without.
    """
    is_one_visit = bool(user.history) and event.ts_ms - user.history.latest_ms <= VISIT_MS
    return user.context if is_one_visit else event.context
