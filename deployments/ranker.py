"""The Ranker: ingress and scorer in one Serve replica.

    POST /v1/rank ─► decode, check ─► micro-batch ─► `Ranking.answer` ─► JSON

`RankEndpoint` is the whole of it without Ray; `Ranker` adds the replica's tasks: following weights, logging decisions,
measuring log time, exporting metrics.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from ray import serve

from deployments.batcher import MicroBatcher
from deployments.config import ReplicaConfig
from deployments.decision_log import DecisionLog
from deployments.errors import UnavailableError
from deployments.http import App, Request, Response, json_response
from deployments.log_clock import LogClock
from deployments.metrics import Exporter
from deployments.ranking import Ranking, RankRequest, api_error, check_request
from deployments.weights import WeightFollower
from features.connect import connect
from features.encoding import Inputs
from features.errors import StoreUnavailable
from learners.projector import get_projector

MAX_BATCH: Final = 16  # at 100 candidates a forward of about 2 ms; larger ones gain little and cost the tail
MAX_DEPTH: Final = 2048
BARRIER_S: Final = 120.0
STORE_TIMEOUT_S: Final = 1.0  # longer than any stall of a busy machine; beyond it an answer without features is better

_decoder = msgspec.json.Decoder(RankRequest)


class RankEndpoint:
    """`POST /v1/rank` around a `Ranking`.

    Args:
        barrier: Awaited before a request is ranked; under the event clock it waits for the projection.
    """

    def __init__(self, ranking: Ranking, barrier: Callable[[], Awaitable[None]] | None = None) -> None:
        self._barrier = barrier
        self.batcher = MicroBatcher(ranking.answer, max_batch=MAX_BATCH, max_depth=MAX_DEPTH)
        self.n_answered = 0
        self.app = App()
        self.app.add("POST", "/v1/rank", self.rank)

    async def rank(self, request: Request) -> Response:
        """Rank one request."""
        try:
            parsed = _decoder.decode(request.body)
        except msgspec.MsgspecError as error:
            raise api_error(error) from None
        check_request(parsed, is_event_clock=self._barrier is not None)
        if self._barrier is not None:
            await self._barrier()
        answer = await self.batcher.submit(parsed)
        self.n_answered += 1
        return json_response(answer)


@serve.deployment(name="Ranker")
@serve.ingress()
class Ranker:
    """One replica."""

    def __init__(self, config: ReplicaConfig) -> None:
        torch.set_num_threads(1)
        is_event_clock = config.store.clock == "event"
        self._store = connect(config.store, config.schema, timeout_s=None if is_event_clock else STORE_TIMEOUT_S)
        self._decision_log = DecisionLog(connect(config.store, config.schema))
        self._clock = LogClock(self._store, is_event_clock=is_event_clock)
        self._weights = WeightFollower(config.schema)
        # Under the event clock a ranking knows all that was acknowledged: no row may be older than its request.
        rank = replace(config.rank, cache_s=0.0, recent_cache_s=0.0) if is_event_clock else config.rank
        capture = Capture(Path(config.capture_folder)) if config.capture_folder else None
        self._ranking = Ranking(self._store, self._weights, self._clock.now_ms, self._decision_log.keep, rank, capture)
        self._endpoint = RankEndpoint(self._ranking, self._wait_for_projection if is_event_clock else None)
        self._tasks: list[asyncio.Task[None]] = []
        self._start(self._weights.run(), self._decision_log.run(), self._clock.run(), Exporter(self._values).run())
        self._start(self._ranking.follow_rows())

    def __serve_build_asgi_app__(self) -> App:
        """Hand Serve the application."""
        return self._endpoint.app

    def _start(self, *coroutines: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(coroutine) for coroutine in coroutines]

    async def _wait_for_projection(self) -> None:
        """Under the event clock a ranking knows everything acknowledged before it."""
        try:
            heads = await self._store.heads()
        except StoreUnavailable:
            return  # the ranking will meet the same outage, and say so
        self._clock.observe(heads)
        if not await get_projector().wait_for.remote(heads, BARRIER_S):
            raise UnavailableError(f"item rows did not reach the newest event within {BARRIER_S:g} s")

    def _values(self) -> Mapping[str, float]:
        return {
            "headrace_model_version": self._weights.version,
            "headrace_model_age_ms": self._clock.now_ms() - self._weights.trained_through_ms,
            "headrace_rank_queue_depth": self._endpoint.batcher.depth,
            "headrace_cached_items": self._ranking.n_cached,
            "headrace_ranks_total": self._endpoint.n_answered,
            "headrace_rank_batches_total": self._ranking.n_batches,
            "headrace_rank_degraded_total": self._ranking.n_degraded,
            "headrace_rank_second_reads_total": self._ranking.n_second_reads,
            "headrace_weight_swaps_total": self._weights.n_swaps,
            "headrace_decisions_logged_total": self._decision_log.n_logged,
            "headrace_decisions_lost_total": self._decision_log.n_lost,
        }


class Capture:
    """Test hook: writes the inputs, scores and version of every batch, so that a test can score them again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._n = 0

    def __call__(self, inputs: Inputs, scores: Any, version: int) -> None:
        """Write one batch."""
        self._n += 1
        arrays = {name: getattr(inputs, name) for name in inputs.__slots__}
        path = self._folder / f"{os.getpid()}-{self._n:08d}.npz"
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, scores=scores, version=version, **arrays)
        path.with_suffix(".part").rename(path)
