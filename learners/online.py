"""The online learner: a fold of the log into weights.

    entry ──► reader ──► batch, when it is due ──► scored ──► learned from ──► delta

Two invariants. What is learned from, and when, is told by the log alone (`learners.reading`); so reading the same
entries again gives the same weights, bit for bit, on one thread. A batch that is not finite is skipped and counted,
never learned.

An example weighs the same in every batch: one that is not full when its time is over makes a step that much shorter.

`restore` goes on from a snapshot as if there had been no interruption: a snapshot is only taken when nothing is
pending, and holds everything that a later step depends on.

No Ray, no store, no clock. The price is the reader's item table beside the embeddings.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from features.encoding import Encoder
from features.events import Entry, Positions
from features.item_table import ItemTable
from features.schema import Schema
from learners import snapshots
from learners.drift import DriftConfig, DriftDetector
from learners.embeddings import EmbeddingTable, Keeping, TableConfig
from learners.errors import DivergedStep, ForeignSnapshot
from learners.lateness import Lateness
from learners.losses import ListwiseLoss
from learners.model import OF_PEOPLE, TABLES, ModelConfig, RankingModel
from learners.optimizer import Adam, AdamConfig
from learners.parts import Part
from learners.progressive import Progressive
from learners.reading import Batch, Draws, ExampleReader, ReadingConfig
from learners.rounds import Round, RoundConfig, lay_table
from learners.served import ServedMean
from learners.shares import Share
from learners.snapshots import Delta, Private, Progress, Rows, Strata, Upkeep

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig(ReadingConfig):
    """How to learn."""

    model: ModelConfig = field(default_factory=ModelConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    table: TableConfig = field(default_factory=TableConfig)
    rounds: RoundConfig = field(default_factory=RoundConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    embedding_rate: float = 0.1
    """Step length of row-wise Adagrad."""
    clip_norm: float = 5.0
    """Longest gradient of the dense parameters; longer ones are scaled down."""

    def __post_init__(self) -> None:
        ReadingConfig.__post_init__(self)  # a class with slots is made twice, and `super()` knows the first one
        for name, low, high in (("embedding_rate", 0, 10), ("clip_norm", 1e-6, 1e6)):
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
        self.reader = ExampleReader(schema, config, seat, config.rounds.n_learners)
        self.tables = {
            name: EmbeddingTable(config.model.n_embedding, config.table, knows_people=name in OF_PEOPLE)
            for name in TABLES
        }
        self.model = RankingModel(schema, config.model, self.tables)
        self.n_examples = self.n_skipped = 0
        self.n_erased = 0
        """Erasures that were read, by this process."""
        self.last_step: StepMetrics | None = None
        self._trained = RankingModel(schema, config.model, self.tables)
        self._adam = Adam(self._trained.flat[: self._trained.n_trained], config.adam)
        self._progressive = Progressive()
        self._drift = DriftDetector(config.drift)
        self._lateness = Lateness()
        self._served = ServedMean(self.model)
        self._round = Round(self._trained, self.tables) if config.rounds.n_learners > 1 else None
        self._n_before = self._counts()

    @property
    def table(self) -> ItemTable:
        """What is known of items."""
        return self.reader.table

    @property
    def encoder(self) -> Encoder:
        """From requests to inputs."""
        return self.reader.encoder

    @property
    def positions(self) -> Positions:
        """Newest entry read, by partition."""
        return self.reader.positions

    @property
    def n_events(self) -> int:
        """Events that were taken in, ever."""
        return self.reader.n_events

    @property
    def is_settled(self) -> bool:
        """Whether everything read has been learned from."""
        return self.reader.is_settled

    @property
    def trained_through_ms(self) -> int:
        """All log time before this has been learned from."""
        return self.reader.settled_through_ms

    @property
    def metrics(self) -> dict[str, float]:
        """Progressive validation so far, and whether it tells of a change; see `Progressive` and `DriftDetector`."""
        return {**self._progressive.metrics(), **self._drift.metrics(), "skipped": float(self.n_skipped)}

    def read(self, entry: Entry) -> None:
        """Take in the next entry of the log, and learn from the batches that it makes due.

        With an erasure the rows go that this person owns; of several learners' at the end of the round.
        """
        for batch in self.reader.read(entry):
            self.step(batch)
        people = self.reader.take_erased()
        self.n_erased += len(people)
        if len(people) and self._round is not None:
            self._round.note_erased(people)
        elif len(people):
            self._erase(people)

    def close_tick(self, end_ms: int) -> None:
        """Note that no entry before `end_ms` is still to come; learns what is due by then."""
        for _ in self.advance(end_ms):
            pass

    def advance(self, now_ms: int) -> Iterator[None]:
        """`close_tick`, but with a stop wherever everything read so far has been learned from: there a version may be
        taken, though more may be due before `now_ms`.
        """
        for batch in self.reader.advance(now_ms):
            self.step(batch)
            yield

    def remember(self, entries: Iterable[Entry]) -> None:
        """After `restore`: entries of the last attribution window that were learned from before, in any order.

        Nothing is learned; later feedback finds its decision.
        """
        self.reader.remember(entries)

    def step(self, batch: Batch) -> StepMetrics:
        """Score a batch that is due, then learn from it.

        A step whose loss or gradient is not finite changes no weight.
        """
        parts = self.reader.parts(batch, self._lateness.log_odds_shift, self._trained.arrays_of("shown_at"))
        norm, logloss = float("nan"), float("nan")
        try:
            for number, part in enumerate(parts):
                self._trained.observe(part.inputs, self._adam.n_steps + number)
            norm = self._learn(parts, batch.fullness)
            logloss = self._note(parts)
            keys = self.model.met([(part.inputs, part.is_known) for part in parts])
            self._meet(keys, self.model.met_by([(part.inputs, part.people) for part in parts]))
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
        for batch in self.reader.settle(end_ms):
            self.step(batch)
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
            self.reader.draws.met,
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
        now_s = self.reader.now_ms // 1000
        for name, table in self.tables.items():
            lay_table(table, [share.tables[name] for share in shares], now_s)
        self._erase(self._round.erased)
        n_examples, n_skipped, n_drawn = self._n_before
        self.n_examples = n_examples + sum(share.n_examples for share in shares)
        self.n_skipped = n_skipped + sum(share.n_skipped for share in shares)
        self.reader.draws = Draws(n_drawn + sum(share.n_drawn for share in shares), shares[0].sampled)
        self._lateness.state = shares[0].lateness
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
        self.reader.fold()
        tables = {name: _rows(table, np.arange(len(table)), table.keeping()) for name, table in self.tables.items()}
        return self._delta(version, None, tables, range(1, len(self.table) + 1), self.reader.strata())

    def take_delta(self, version: int, base: int | None) -> Delta:
        """What changed since the last take; without a base, everything.

        Raises:
            RuntimeError: If something is pending: half a batch can't be committed.
        """
        self.reader.fold()
        tables = {name: _rows(table, table.take_touched(), table.take_keeping()) for name, table in self.tables.items()}
        items, strata = self.table.take_touched().tolist(), self.reader.take_strata()
        return self.snapshot(version) if base is None else self._delta(version, base, tables, items, strata)

    def restore(self, full: Delta) -> None:
        """Become the learner that took this full snapshot.

        Raises:
            ForeignSnapshot: If it is of another schema or network, or only the public part.
        """
        private, progress = snapshots.private_of(full, self.schema), full.progress
        if full.model != asdict(self.config.model):
            raise ForeignSnapshot(f"version {full.version}: of {full.model}, expected {self.config.model}")
        # Made anew, so that no row of before is left.
        fresh = OnlineLearner(self.schema, self.config, self.seat)
        fresh.reader.restore(full)
        fresh.model.flat.copy_(torch.from_numpy(full.weights.copy()))
        fresh._trained.flat.copy_(torch.from_numpy(private.weights.copy()))
        for name, part in full.tables.items():
            _resume(fresh.tables[name], part)
        mean, square = torch.from_numpy(private.mean.copy()), torch.from_numpy(private.square.copy())
        fresh._adam.load(mean, square, private.n_steps)
        fresh._progressive.state, fresh._drift.state = private.progressive, private.drift
        fresh._lateness.state = private.lateness
        fresh._served = ServedMean(fresh.model, private.mean_since, private.lift, private.lifted)
        fresh.n_examples, fresh.n_skipped = progress.n_examples, private.n_skipped
        fresh._n_before = fresh._counts()
        if fresh._round is not None:
            fresh._round.start()
        self.__dict__.update(fresh.__dict__)

    def _counts(self) -> tuple[int, int, int]:
        return self.n_examples, self.n_skipped, self.reader.draws.n_drawn

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

    def _meet(self, keys: dict[str, U64], people: dict[str, U64]) -> None:
        if self._round is not None:
            self._round.note_met(keys, people)
            return
        for name, met in keys.items():
            self.tables[name].meet(met, self.reader.now_ms // 1000, people.get(name))

    def _erase(self, people: U64) -> None:
        for name in OF_PEOPLE if len(people) else ():
            self.tables[name].erase(people)

    def _note(self, parts: Sequence[Part]) -> float:
        """Take the scores from before the step into the progressive validation; returns the mean slate log loss."""
        logloss = float("nan")
        for part in parts:
            if isinstance(part.loss, ListwiseLoss):
                logloss = float(part.loss.losses.mean())
                popularity = self.encoder.popularity(part.inputs)
                excess = self._progressive.add(part.scores, popularity, part.inputs.mask)
                if self._drift.add(excess, self.reader.now_ms):
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

    def _delta(
        self, version: int, base: int | None, tables: dict[str, Rows], items: Sequence[int], strata: Strata | None
    ) -> Delta:
        adam, draws = self._adam, self.reader.draws
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
                    draws.met,
                    draws.n_drawn,
                    packed,
                    strata,
                    self._served.lifted,
                )
            ),
        )


def squared(values: NDArray[np.float32]) -> float:
    """Sum of the squares."""
    flat = values.ravel()
    return float(flat @ flat)


def _rows(table: EmbeddingTable, at: I64, kept: Keeping) -> Rows:
    upkeep = Upkeep(table.accumulator[at], table.uses[at], table.met_s[at], *astuple(kept))
    owners = table.owner[at] if table.knows_people else None
    return Rows(at.astype(np.uint32), table.key[at], table.weight[at], table.max_rows, upkeep, owners)


def _resume(table: EmbeddingTable, part: Rows) -> None:
    if len(part.rows) > table.max_rows or part.upkeep is None:
        raise ForeignSnapshot(f"{len(part.rows)} rows of a table: expected at most table.max_rows = {table.max_rows}")
    up = part.upkeep
    table.load(part.rows, part.keys, part.values)
    kept = Keeping(up.hand, up.n_free, up.free, up.n_counted, up.places, up.counts)
    table.resume(up.accumulators, up.uses, up.met_s, kept, part.owners)
