"""The online learner: a fold of the log into weights.

    entry ──► slate gathered ──► pending batch ──► scored ──► learned from ──► delta
                    │                (cut by number and log time)
                    └──► then folded into the learner's own item table

Three invariants. The slate of an event is gathered before the event is folded, so nothing is learned from the future.
Batches are cut by the log alone, never by when somebody happened to look; so reading the same entries again gives the
same weights, bit for bit, on one thread. A batch that is not finite is skipped and counted, never learned.

An example weighs the same in every batch: one that is not full when its time is over makes a step that much shorter.

`restore` goes on from a snapshot as if there had been no interruption: a snapshot is only taken when nothing is
pending, and holds everything that a later step depends on.

No Ray, no store, no clock. The price is the item table (2.5 kB an item) beside the embeddings.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from features.encoding import Encoder, Request
from features.errors import FeatureError
from features.events import (
    DECISION,
    EVENT,
    ITEM,
    Entry,
    LoggedEvent,
    Positions,
    StreamId,
    decode_decision,
    decode_event,
)
from features.item_table import ItemTable
from features.joiner import JoinConfig, Joiner, Outcome
from features.schema import Schema
from features.state import UserState, unpack
from learners import snapshots
from learners.drift import DriftConfig, DriftDetector
from learners.embeddings import EmbeddingTable, Keeping, TableConfig
from learners.errors import DivergedStep, ForeignSnapshot
from learners.lateness import Lateness
from learners.losses import ListwiseLoss
from learners.model import TABLES, ModelConfig, RankingModel
from learners.optimizer import Adam, AdamConfig
from learners.parts import Part, impressions, positives
from learners.pending import PendingBatch
from learners.progressive import Progressive
from learners.rounds import Round, RoundConfig, lay_table
from learners.sampling import NegativeSampler, SamplingConfig
from learners.served import ServedMean
from learners.shares import Share
from learners.snapshots import Delta, Private, Progress, Rows, Upkeep

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
VISIT_MS: Final = 1_800_000  # a pause longer than half an hour ends a visit, as in web analytics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How to learn."""

    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    table: TableConfig = field(default_factory=TableConfig)
    rounds: RoundConfig = field(default_factory=RoundConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    embedding_rate: float = 0.1
    """Step length of row-wise Adagrad."""
    clip_norm: float = 5.0
    """Longest gradient of the dense parameters; longer ones are scaled down."""
    batch_size: int = 128
    """Examples in a full batch."""
    batch_span_s: float = 0.2
    """Log time after which a batch is learned from though it is not full."""
    seed: int = 7
    """Of the negatives."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("embedding_rate", 0, 10),
            ("clip_norm", 1e-6, 1e6),
            ("batch_size", 1, 65536),
            ("batch_span_s", 0.0, 86400.0),
            ("seed", 0, 2**31),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"learner.{name}: expected {low} to {high}, got {getattr(self, name)}")


class StepMetrics(msgspec.Struct, frozen=True):
    """What one step did."""

    step: int
    n_examples: int
    loss: float
    """Mean slate log loss before learning."""
    gradient_norm: float
    is_skipped: bool


class OnlineLearner:
    """`read` entries in log order and `close_tick` after each tick; `take_delta` when `is_settled`.

    `model` is what serves: its dense weights are the running mean of the trained ones.

    One of several learns from its own partitions only, and `end_round` takes the place of `is_settled`: see
    `learners.rounds`.

    Args:
        seat: Which one of `config.rounds.n_learners` it is.
    """

    def __init__(self, schema: Schema, config: LearnerConfig, seat: int = 0) -> None:
        self.schema = schema
        self.config = config
        self.seat = seat
        self.table = ItemTable(schema)
        self.tables = {name: EmbeddingTable(config.model.n_embedding, config.table) for name in TABLES}
        self.model = RankingModel(schema, config.model, self.tables)
        self.encoder = Encoder(schema)
        self.positions: Positions = {}
        self.n_examples = self.n_skipped = 0
        self._n_read = 0
        self.last_step: StepMetrics | None = None
        self._trained = RankingModel(schema, config.model, self.tables)
        self._adam = Adam(self._trained.flat[: self._trained.n_trained], config.adam)
        # None draws what another draws.
        self._sampler = NegativeSampler(schema, config.sampling, config.seed + seat)
        self._pending = PendingBatch(self.encoder, self.table, self._sampler)
        self._joiner = Joiner(config.join, len(self.encoder.dense_names))
        self._outcomes: list[Outcome] = []
        self._progressive = Progressive()
        self._drift = DriftDetector(config.drift)
        self._lateness = Lateness()
        self._served = ServedMean(self.model)
        self._round = Round(self._trained, self.tables) if config.rounds.n_learners > 1 else None
        self._n_before = self._counts()
        self._first_ms = 0
        self._tick_end_ms = 0

    @property
    def n_events(self) -> int:
        """Events that were taken in, ever."""
        return self._n_read - self._pending.n_passed_over

    @property
    def is_settled(self) -> bool:
        """Whether everything read has been learned from."""
        return not self._n_pending

    @property
    def trained_through_ms(self) -> int:
        """All log time before this has been learned from."""
        return self._tick_end_ms if self.is_settled else min(self._tick_end_ms, self._first_ms)

    @property
    def metrics(self) -> dict[str, float]:
        """Progressive validation so far, and whether it tells of a change; see `Progressive` and `DriftDetector`."""
        return {**self._progressive.metrics(), **self._drift.metrics(), "skipped": float(self.n_skipped)}

    def read(self, entry: Entry) -> None:
        """Take in the next entry of the log.

        One that can't be read (another schema, corrupt) is logged and passed over: it must not stop the learning.
        """
        if entry.id.ms > self._tick_end_ms:  # of one millisecond come many entries
            self.close_tick(entry.id.ms)
        is_mine = self._is_mine(entry)
        try:
            if entry.kind == EVENT:
                self._read_event(entry, is_mine)
            elif entry.kind == DECISION and is_mine:
                unpack(entry.state, self.schema)  # or it is refused here, not in the middle of a step
                self._joiner.add_decision(decode_decision(entry.body), entry.state)
            elif entry.kind == ITEM:
                self._pending.live_through()
                self.table.fold([entry])
        except (FeatureError, msgspec.DecodeError) as error:
            logger.error("entry %s of partition %d is passed over: %s", entry.id, entry.partition, error)
        self.positions[entry.partition] = entry.id
        if is_mine:
            self._take_outcomes(entry.id.ms)

    def close_tick(self, end_ms: int) -> None:
        """Note that no entry before `end_ms` is still to come; learns what is due by then."""
        if end_ms < self._due_ms:
            self._tick_end_ms = max(self._tick_end_ms, end_ms)
            return
        for _ in self.advance(end_ms):
            pass

    def advance(self, now_ms: int) -> Iterator[None]:
        """`close_tick`, but with a stop wherever everything read so far has been learned from: there a version may be
        taken, though more may be due before `now_ms`.

        Learns from a batch whose span is over, and takes in impressions that have waited enough, one after the other as
        they come; so it does not matter in how many calls time passes.
        """
        while True:
            over_ms = self._over_ms
            next_ms = self._joiner.next_ms
            if next_ms is not None and next_ms <= min(now_ms, over_ms):
                has_learned, at_ms = self._take_outcomes(next_ms), next_ms
            elif over_ms <= now_ms:
                self.step()
                has_learned, at_ms = True, int(over_ms)
            else:
                break
            if has_learned:
                self._tick_end_ms = max(self._tick_end_ms, at_ms)
                yield
        self._tick_end_ms = max(self._tick_end_ms, now_ms)

    def remember(self, entries: Iterable[Entry]) -> None:
        """After `restore`: entries of the last attribution window that were learned from before, in any order.

        Nothing is learned; later feedback finds its decision.
        """
        for entry in filter(self._is_mine, entries):
            try:
                if entry.kind == DECISION:
                    self._joiner.add_decision(decode_decision(entry.body), entry.state)
                elif entry.kind == EVENT:
                    self._joiner.add_feedback(decode_event(entry.body))
            except (FeatureError, msgspec.DecodeError):
                continue  # it was passed over, and reported, when it was read
        self._joiner.pop_ready(self._tick_end_ms)

    def step(self) -> StepMetrics:
        """Score what is pending, then learn from it.

        A step whose loss or gradient is not finite changes no weight.
        """
        fullness = min(1.0, self._n_pending / self.config.batch_size)
        parts = self._parts()
        norm, logloss = float("nan"), float("nan")
        try:
            for number, part in enumerate(parts):
                self._trained.observe(part.inputs, self._adam.n_steps + number)
            norm = self._learn(parts, fullness)
            logloss = self._note(parts)
            self._meet(self.model.met([(part.inputs, part.is_known) for part in parts]))
        except DivergedStep as error:
            self.n_skipped += 1
            logger.warning("a step is skipped: %s", error)
        n = sum(part.n_examples for part in parts)
        self.n_examples += n
        self.last_step = StepMetrics(self._adam.n_steps, n, logloss, norm, not np.isfinite(norm))
        return self.last_step

    def end_round(self, end_ms: int) -> Share:
        """Learn from what is still pending; what this round has done, for `lay`.

        The rows are those from before the round again, until `lay`.

        Args:
            end_ms: All log time before this is read.
        """
        assert self._round is not None
        self.close_tick(end_ms)
        if not self.is_settled:
            self.step()
        self._pending.live_through()
        change, path = self._round.changes()
        n_examples, n_skipped, n_drawn = (
            now - before for now, before in zip(self._counts(), self._n_before, strict=True)
        )
        return Share(
            self.seat,
            {partition: (at.ms, at.seq) for partition, at in self.positions.items()},
            change,
            path,
            self._adam.mean.numpy().copy(),
            self._adam.square.numpy().copy(),
            self._round.n_steps,
            self._round.weight,
            n_examples,
            n_skipped,
            n_drawn,
            self._served.since,
            self._lateness.state,
            self._served.lift,
            self._sampler.met.tolist(),
            self._round.take_tables(),
        )

    def lay(self, shares: Sequence[Share]) -> None:
        """After `end_round`: become what the shares of all, by seat, make of where they began."""
        assert self._round is not None
        self._served.since = shares[0].mean_since
        pace = self._served.pace(self._adam.n_steps - self._round.n_steps, sum(share.weight for share in shares))
        self._round.lay_dense(shares, self._adam, self.model.flat, pace)
        self._served.lift = shares[0].lift
        if any(share.n_steps for share in shares):
            self._served.keep_lifted(pace)
        now_s = self._now_ms() // 1000
        for name, table in self.tables.items():
            lay_table(table, [share.tables[name] for share in shares], now_s)
        n_examples, n_skipped, n_drawn = self._n_before
        self.n_examples = n_examples + sum(share.n_examples for share in shares)
        self.n_skipped = n_skipped + sum(share.n_skipped for share in shares)
        self._pending.n_drawn = n_drawn + sum(share.n_drawn for share in shares)
        self._sampler.met, self._lateness.state = np.array(shares[0].sampled), shares[0].lateness
        self._n_before = self._counts()
        self._round.start()

    def drop_delta(self) -> None:
        """What changed since the last take is offered by somebody else."""
        for table in self.tables.values():
            table.take_touched()
            table.take_keeping()
        self.table.take_touched()

    def snapshot(self, version: int = 0) -> Delta:
        """Everything, as a full snapshot; takes nothing away from the next delta.

        Raises:
            RuntimeError: As `take_delta`.
        """
        self._make_whole()
        tables = {name: _rows(table, np.arange(len(table)), table.keeping()) for name, table in self.tables.items()}
        return self._delta(version, None, tables, range(1, len(self.table) + 1))

    def take_delta(self, version: int, base: int | None) -> Delta:
        """What changed since the last take; without a base, everything.

        Raises:
            RuntimeError: If something is pending: half a batch can't be committed.
        """
        self._make_whole()
        tables = {name: _rows(table, table.take_touched(), table.take_keeping()) for name, table in self.tables.items()}
        items = self.table.take_touched().tolist()
        return self.snapshot(version) if base is None else self._delta(version, base, tables, items)

    def restore(self, full: Delta) -> None:
        """Become the learner that took this full snapshot.

        Raises:
            ForeignSnapshot: If it is of another schema or network, or only the public part.
        """
        snapshots.check_schema(full, self.schema)
        if full.base is not None or full.private is None or full.model != asdict(self.config.model):
            raise ForeignSnapshot(f"version {full.version}: expected a learner's full snapshot of {self.config.model}")
        private, progress = full.private, full.progress
        # Made anew, so that no row and no position of before is left.
        fresh = OnlineLearner(self.schema, self.config, self.seat)
        fresh.table.load(list(private.items), list(private.items.values()))
        fresh.model.flat.copy_(torch.from_numpy(full.weights.copy()))
        fresh._trained.flat.copy_(torch.from_numpy(private.weights.copy()))
        for name, part in full.tables.items():
            _resume(fresh.tables[name], part)
        mean, square = torch.from_numpy(private.mean.copy()), torch.from_numpy(private.square.copy())
        fresh._adam.load(mean, square, private.n_steps)
        fresh._progressive.state, fresh._drift.state = private.progressive, private.drift
        fresh._lateness.state = private.lateness
        fresh._served = ServedMean(fresh.model, private.mean_since, private.lift)
        fresh._sampler.met, fresh._pending.n_drawn = np.array(private.met), private.n_drawn
        fresh.positions = {partition: StreamId(*at) for partition, at in progress.positions.items()}
        fresh._tick_end_ms, fresh.n_skipped = progress.trained_through_ms, private.n_skipped
        fresh._n_read, fresh.n_examples = progress.n_events, progress.n_examples
        fresh._n_before = fresh._counts()
        if fresh._round is not None:
            fresh._round.start()
        self.__dict__.update(fresh.__dict__)

    @property
    def _over_ms(self) -> float:
        """When the span of what is pending is over."""
        return self._first_ms + self.config.batch_span_s * 1000.0 if self._n_pending else math.inf

    @property
    def _due_ms(self) -> float:
        """Before this nothing is learned but what comes."""
        next_ms = self._joiner.next_ms
        return self._over_ms if next_ms is None else min(next_ms, self._over_ms)

    @property
    def _n_pending(self) -> int:
        return len(self._pending) + len(self._outcomes)

    def _take_outcomes(self, now_ms: int) -> bool:
        """Take in what the join has to tell by now; True if that filled a batch, which is learned from."""
        if self._n_pending < self.config.batch_size and not self._joiner.has_news(now_ms):
            return False
        outcomes = self._joiner.pop_ready(now_ms)
        if outcomes and self.is_settled:
            self._first_ms = now_ms
        self._outcomes += outcomes
        if self._n_pending < self.config.batch_size:
            return False
        self.step()
        return True

    def _is_mine(self, entry: Entry) -> bool:
        return entry.partition % self.config.rounds.n_learners == self.seat

    def _counts(self) -> tuple[int, int, int]:
        return self.n_examples, self.n_skipped, self._pending.n_drawn

    def _now_ms(self) -> int:
        return max(at.ms for at in self.positions.values())

    def _read_event(self, entry: Entry, is_mine: bool) -> None:
        event = decode_event(entry.body)
        if is_mine:
            user = unpack(entry.state, self.schema)
            is_joined = self._joiner.add_feedback(event)
            self._pending.add(event, entry.state, None if is_joined else self._request(event, user, entry.id.ms))
        else:
            self._pending.add(event, entry.state)
        self._n_read += 1

    def _request(self, event: LoggedEvent, user: UserState, ms: int) -> Request:
        """What would have been asked just before an event; the first of a batch begins it."""
        if not len(self._pending):
            if self.is_settled:
                self._first_ms = ms
            self._pending.live_through()
            self._sampler.refresh(self.table, event.ts_ms)
        return Request(user, known_context(event, user), event.ts_ms, ())

    def _parts(self) -> list[Part]:
        """What is pending: positives, slates shown, single rewards."""
        inputs = self._pending.take()
        shift, share = self.config.join.log_odds_shift + self._lateness.log_odds_shift, 1.0 / self.config.batch_size
        found = [] if inputs is None else [positives(inputs, share)]
        outcomes, self._outcomes = self._outcomes, []
        for some in ([o for o in outcomes if len(o.places) > 1], [o for o in outcomes if len(o.places) == 1]):
            if some:
                shown_at = self._trained.arrays_of("shown_at")
                found.append(impressions(some, self.encoder, self.table, shift, share, shown_at))
        return found

    def _learn(self, parts: Sequence[Part], fullness: float) -> float:
        gradient = self._trained.flat_gradient.zero_()
        named = [self._trained.look_up(part.inputs) for part in parts]
        for part, rows in zip(parts, named, strict=True):
            part.scores = self._trained.learn_from(part.inputs, rows, part.loss)
        norm = math.sqrt(squared(gradient.numpy()))
        of_rows = sum(squared(found.gradient) for rows in named for found in rows.values())
        if not math.isfinite(norm + of_rows):
            raise DivergedStep(f"gradient norms are {norm} and {of_rows**0.5}")
        self._adam.step(gradient.mul_(min(1.0, self.config.clip_norm / max(norm, 1e-9))), fullness)
        for rows in named:
            if self._round is not None:
                self._round.note_rows(rows)
            for name, found in rows.items():
                self.tables[name].adagrad(found.rows, found.gradient, self.config.embedding_rate)
        if self._round is not None:
            self._round.note_step(fullness)
        else:
            self._served.follow(self._trained.flat, self._served.pace(self._adam.n_steps - 1, fullness))
        return norm

    def _meet(self, keys: dict[str, U64]) -> None:
        if self._round is not None:
            self._round.note_met(keys)
            return
        for name, met in keys.items():
            self.tables[name].meet(met, self._now_ms() // 1000)

    def _note(self, parts: Sequence[Part]) -> float:
        """Take the scores from before the step into the progressive validation; returns the mean slate log loss."""
        logloss = float("nan")
        for part in parts:
            if isinstance(part.loss, ListwiseLoss):
                logloss = float(part.loss.losses.mean())
                popularity = self.encoder.popularity(part.inputs)
                excess = self._progressive.add(part.scores, popularity, part.inputs.mask)
                if self._drift.add(excess, self._now_ms()):
                    self._served.since = self._adam.n_steps
            else:
                in_time, late = (
                    float(part.loss.reward[is_so].sum()) for is_so in (part.loss.is_shown, ~part.loss.is_shown)
                )
                predicted = float(part.loss.rates.sum()) / (1.0 - self._lateness.share)
                self._progressive.add_impressions(part.n_examples, predicted, in_time + late)
                self._lateness.add(part.n_examples, in_time, late)
                if self._served.is_due(self._adam.n_steps) and part.loss.is_shown.any():
                    self._served.compare(part)
        return logloss

    def _make_whole(self) -> None:
        """Fold what was read, so that the rows are as far as the positions."""
        if not self.is_settled:
            raise RuntimeError("a snapshot was asked for while examples are pending; wait until is_settled")
        self._pending.live_through()

    def _delta(self, version: int, base: int | None, tables: dict[str, Rows], items: Sequence[int]) -> Delta:
        adam = self._adam
        packed = dict(zip(map(self.table.ids.__getitem__, items), self.table.pack_all(items), strict=True))
        trained, mean, square = (tensor.numpy().copy() for tensor in (self._trained.flat, adam.mean, adam.square))
        return Delta(
            version,
            base,
            self.schema.fingerprint,
            asdict(self.config.model),
            self.model.flat.numpy().copy(),
            tables,
            Progress(
                {partition: (at.ms, at.seq) for partition, at in self.positions.items()},
                self.trained_through_ms,
                self.n_events,
                self.n_examples,
                self.metrics,
            ),
            Private(
                *(
                    trained,
                    mean,
                    square,
                    adam.n_steps,
                    self.n_skipped,
                    self._progressive.state,
                    self._drift.state,
                    self._served.since,
                    self._lateness.state,
                    self._served.lift,
                    self._sampler.met.tolist(),
                    self._pending.n_drawn,
                    packed,
                )
            ),
        )


def squared(values: NDArray[np.float32]) -> float:
    """Sum of the squares."""
    flat = values.ravel()
    return float(flat @ flat)


def known_context(event: LoggedEvent, user: UserState) -> dict[str, Any]:
    """The context in which somebody would have been asked for just before an event.

    That of the person's event before, if both belong to one visit. The event's own says how the item was reached (the
    referrer of a page is that of the click on it): who learns from it learns from the answer, and ranks badly without.
    """
    is_one_visit = bool(user.history) and event.ts_ms - user.history.latest_ms <= VISIT_MS
    return user.context if is_one_visit else event.context


def _rows(table: EmbeddingTable, at: I64, kept: Keeping) -> Rows:
    upkeep = Upkeep(table.accumulator[at], table.uses[at], table.met_s[at], *astuple(kept))
    return Rows(at.astype(np.uint32), table.key[at], table.weight[at], table.max_rows, upkeep)


def _resume(table: EmbeddingTable, part: Rows) -> None:
    if len(part.rows) > table.max_rows or part.upkeep is None:
        raise ForeignSnapshot(f"{len(part.rows)} rows of a table: expected at most table.max_rows = {table.max_rows}")
    up = part.upkeep
    table.load(part.rows, part.keys, part.values)
    kept = Keeping(up.hand, up.n_free, up.free, up.n_counted, up.places, up.counts)
    table.resume(up.accumulators, up.uses, up.met_s, kept)
