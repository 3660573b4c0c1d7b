"""Ranking a micro-batch: one await for reads, one encode, one forward, and the answers.

    requests -> user states (read every time) and item rows (cached, at most `cache_s` old) -> encode -> score -> slate

Slow or absent dependencies never raise here: the answer is made of what is known and says in `degraded` what it lacked.
No HTTP, no Ray: give it a store, a clock and something that scores.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.errors import ConfigError
from deployments.rank_request import MAX_DEADLINE_MS, RankRequest
from deployments.row_cache import RowCache
from features.decisions import new_decision
from features.encoding import Encoder, Inputs, Request
from features.errors import FeatureError
from features.events import LoggedDecision
from features.schema import Schema
from features.state import UserState, unpack
from features.store import FeatureStore, Read, Record, decision_record
from learners.policies import Policy, Slate, greedy
from learners.scorer import Scorer

SCORE_DIGITS: Final = 6  # after the point; a float32 has not more, and all of a float64's would double the answer
MAX_LOGGED: Final = 50  # shown items a decision keeps
FOLLOW_AGAIN_S: Final = 1.0
NOTE_S: Final = 1.0  # between two lines in the log about a store that is away

logger = logging.getLogger(__name__)


class RankedItem(msgspec.Struct, omit_defaults=True, gc=False):
    """One item of an answer. A struct, because a hundred of them are made for every request."""

    id: str
    score: float
    propensity: float
    features: dict[str, float] | None = None


class Weights(Protocol):
    """Whatever holds the scorer that answers."""

    live: Scorer
    trained_through_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankConfig:
    """How a replica ranks."""

    cache_s: float = 0.25
    """Age at which a candidate's row is read again; with the projector's flush it keeps rows within 500 ms."""
    recent_cache_s: float = 5.0
    """The same for the rows of the user's recent items, of which only the successors are used."""
    log_decisions: bool = True
    """Append every answer to the log, with what the model saw."""
    deadline_ms: int = 250
    """`RankRequest.deadline_ms` of a request without one: a page has been drawn without an answer that comes later."""

    def __post_init__(self) -> None:
        if not 1 <= self.deadline_ms <= MAX_DEADLINE_MS:
            raise ConfigError(f"deadline_ms: expected 1..{MAX_DEADLINE_MS}, got {self.deadline_ms}")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a user: the state taken apart, its bytes, and whether it had to be done without."""

    state: UserState
    packed: bytes
    is_degraded: bool


class Ranking:
    """Answers micro-batches of checked requests.

    Args:
        now_ms: Log time, for requests that do not say when.
        keep: Takes the record of each decision.
        on_scored: Test hook: sees inputs, scores and version of every batch.
        policy: Orders the candidates by their scores, by those of the popularity prior too.
    """

    def __init__(
        self,
        store: FeatureStore,
        weights: Weights,
        now_ms: Callable[[], int],
        keep: Callable[[Record], None],
        config: RankConfig,
        on_scored: Callable[[Inputs, Any, int], None] | None = None,
        policy: Policy = greedy,
    ) -> None:
        self._store = store
        self._schema: Schema = store.schema
        self._weights = weights
        self._now_ms = now_ms
        self._keep = keep
        self._config = config
        self._on_scored = on_scored
        self._policy = policy
        self._encoder = Encoder(store.schema)
        self._stranger = _Known(unpack(b"", store.schema), b"", is_degraded=True)
        self._noted_s = -NOTE_S
        self._rows = RowCache(store.schema)
        self.n_batches = 0
        self.n_second_reads = 0
        self.n_degraded = 0

    async def follow_rows(self) -> None:
        """Keep informed about which rows are written, for ever; while the store is away rows go by their age."""
        while True:
            try:
                await self._store.follow_rows(self._rows)
            except FeatureError as error:
                logger.warning("rows go by their age: %s", error)
                await asyncio.sleep(FOLLOW_AGAIN_S)

    def configure(self, config: RankConfig, policy: Policy) -> None:
        """Rank like this from the next batch on."""
        self._config, self._policy = config, policy

    @property
    def n_cached(self) -> int:
        """Item rows in the cache."""
        return len(self._rows)

    async def answer(self, requests: list[RankRequest]) -> list[dict[str, Any] | Exception]:
        """Rank a batch; results in its order."""
        self.n_batches += 1
        self._rows.make_room()
        rows = [self._rows.table.find(request.candidates) for request in requests]
        known = await self._read(requests, rows)
        now_ms = self._now_ms()
        encoded = [
            Request(user.state, request.context, request.now_ms or now_ms, request.candidates)
            for user, request in zip(known, requests, strict=True)
        ]
        inputs = self._encoder.encode(self._rows.table, encoded, rows)
        scorer = self._weights.live
        scores = scorer.score(inputs) if scorer.version else self._encoder.popularity(inputs)
        if self._on_scored is not None:
            self._on_scored(inputs, scores, scorer.version)
        model = {
            "version": scorer.version,
            "trained_through_ms": self._weights.trained_through_ms,
            "age_ms": max(0, now_ms - self._weights.trained_through_ms),
        }
        return [
            self._compose(request, known[b], encoded[b].now_ms, scores[b], inputs.dense[b], model)
            for b, request in enumerate(requests)
        ]

    async def _read(self, requests: list[RankRequest], rows: list[NDArray[np.int64]]) -> list[_Known]:
        """What is known of each request's user; reads what the cache lacks on the way, and completes `rows`."""
        try:
            ids = list(dict.fromkeys(request.user for request in requests))
            stale: dict[str, None] = {}
            for request, found in zip(requests, rows, strict=True):
                at = self._rows.is_stale(found, self._config.cache_s).nonzero()[0]
                stale.update(dict.fromkeys(request.candidates[k] for k in at.tolist()))
            states, lost = await self._load(ids, list(stale))
            for b, found in enumerate(rows):
                if np.count_nonzero(found) < len(found):  # some were of no item that was known here
                    rows[b] = self._rows.table.find(requests[b].candidates)
            users = {user: self._unpack(user, state) for user, state in zip(ids, states, strict=True)}
            known = [users[request.user] for request in requests]
            recent = self._recent(known, requests)
            lost |= await self._read_recent(recent)
        except FeatureError as error:
            logger.error("ranking without features: %s", error)
            return [self._stranger] * len(requests)
        if lost:
            for b, request in enumerate(requests):
                if not (lost.isdisjoint(request.candidates) and lost.isdisjoint(recent[b])):
                    known[b] = replace(known[b], is_degraded=True)
        return known

    def _unpack(self, user: str, packed: Read) -> _Known:
        if isinstance(packed, FeatureError):
            self._note(packed)
            return self._stranger
        try:
            return _Known(unpack(packed, self._schema), packed, is_degraded=False)
        except FeatureError as error:
            logger.error("somebody is ranked as a stranger: %s", error)  # logs are kept, and name nobody
            return self._stranger

    def _recent(self, users: list[_Known], requests: list[RankRequest]) -> list[set[str]]:
        """The items whose successors matter to each request."""
        now_ms = self._now_ms()
        return [
            set(self._rows.table.predecessors(user.state.history, request.now_ms or now_ms))
            for user, request in zip(users, requests, strict=True)
        ]

    async def _read_recent(self, recent: list[set[str]]) -> set[str]:
        """Have the rows of these items in the cache; returns those that could not be read."""
        names = list(set().union(*recent))
        is_stale = self._rows.is_stale(self._rows.table.find(names), self._config.recent_cache_s)
        if not is_stale.any():
            return set()
        self.n_second_reads += 1
        _, lost = await self._load([], [names[n] for n in is_stale.nonzero()[0]])
        return lost

    async def _load(self, users: list[str], items: list[str]) -> tuple[list[Read], set[str]]:
        """The states of users, and which of the items could not be read; the rows of the others are in the cache."""
        if not items:
            return (await self._store.read(users, items))[0], set()
        self._rows.asking()
        states, rows = await self._store.read(users, items)
        came: dict[str, bytes] = {}
        for item, row in zip(items, rows, strict=True):
            if isinstance(row, FeatureError):
                self._note(row)
            else:
                came[item] = row
        self._rows.load(list(came), list(came.values()))
        return states, set() if len(came) == len(items) else set(items) - set(came)

    def _note(self, error: FeatureError) -> None:
        """Log what could not be read, once in a while."""
        if time.monotonic() - self._noted_s >= NOTE_S:
            logger.warning("ranking without fresh features: %s", error)
            self._noted_s = time.monotonic()

    def _compose(
        self, request: RankRequest, known: _Known, now_ms: int, scores: Any, dense: Any, model: dict[str, int]
    ) -> dict[str, Any]:
        candidates = request.candidates
        slate = self._policy(scores[: len(candidates)].astype(np.float64).round(SCORE_DIGITS), request.limit)
        decision = new_decision(request.user, self._store.keys)
        order, scored, propensities = slate
        items = list(map(RankedItem, map(candidates.__getitem__, order), scored, propensities))
        if request.explain:
            for item, k in zip(items, order, strict=True):
                item.features = dict(zip(self._encoder.dense_names, dense[k].tolist(), strict=True))
        degraded = ["features"] * known.is_degraded + ["model"] * (model["version"] == 0)
        self.n_degraded += bool(degraded)
        if self._config.log_decisions:
            self._keep(self._record(decision, request, known, now_ms, model["version"], slate, dense))
        return {"decision": decision, "items": items, "model": model, "degraded": degraded}

    def _record(
        self,
        decision: str,
        request: RankRequest,
        known: _Known,
        now_ms: int,
        version: int,
        slate: Slate,
        dense: Any,
    ) -> Record:
        shown, _, propensities = slate
        shown = shown[:MAX_LOGGED]
        logged = LoggedDecision(
            decision,
            request.user,
            now_ms,
            version,
            request.context,
            [request.candidates[k] for k in shown],
            propensities[:MAX_LOGGED],
            dense.take(shown, axis=0).astype(np.float16).tobytes(),
            known.is_degraded,
        )
        return decision_record(logged, known.packed, self._store.keys)
