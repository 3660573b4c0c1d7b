"""The Ranker: ingress and scorer in one Serve replica.

    POST /v1/rank ─► decode, check ─► admit ─► micro-batch ─► `Ranking.answer` ─► encode

`RankEndpoint` is the whole of it without Ray; `Ranker` adds the replica's tasks: following weights, logging decisions,
measuring log time, exporting metrics.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import psutil
from ray import serve
from threadpoolctl import threadpool_limits

from deployments.autoscaling import Load
from deployments.batcher import MicroBatcher
from deployments.config import LiveConfig, ReplicaConfig
from deployments.decision_log import DecisionLog
from deployments.entrance import Entrance, name_of_this_process
from deployments.errors import ApiError, ConfigError, OverloadedError, UnavailableError
from deployments.http import App, Request, Response, error_response
from deployments.log_clock import LogClock
from deployments.metrics import Exporter
from deployments.rank_body import CODECS, JSON_CODEC, detail_at
from deployments.rank_request import REQUEST_COST, RankRequest, check_request, request_cost
from deployments.ranking import RankConfig, Ranking
from deployments.warm_up import MadeUpWeights, warm_up
from deployments.weights import WeightFollower
from features.access import RANK
from features.connect import access_of, connect
from features.encoding import Inputs
from features.errors import StoreUnavailable
from features.priority import make_idle
from learners.policies import Policy, policy_of
from learners.projector import get_projector

MAX_BATCH: Final = 16  # at 100 candidates encoding and scoring take 1.5 ms; larger ones gain little and cost the tail
MAX_COST: Final = MAX_BATCH * (REQUEST_COST + 100)  # about the same time, whatever the requests are made of
MAX_DEPTH: Final = 2048
BARRIER_S: Final = 120.0
STORE_TIMEOUT_S: Final = 1.0  # longer than any stall of a busy machine; beyond it an answer without features is better

logger = logging.getLogger(__name__)


class RankEndpoint:
    """`POST /v1/rank` around a `Ranking`.

    Args:
        barrier: Awaited before a request is ranked; under the event clock it waits for the projection.
        deadline_ms: For requests that name none; None: they wait as long as it takes.
        note: Told how many seconds each answer took, infinity for one that was refused.
        app: To add the route to; None: one that lets everybody in.
    """

    def __init__(
        self,
        ranking: Ranking,
        barrier: Callable[[], Awaitable[None]] | None = None,
        *,
        deadline_ms: int | None = None,
        note: Callable[[float], None] = lambda _took_s: None,
        app: App | None = None,
    ) -> None:
        self._barrier = barrier
        self.deadline_ms = deadline_ms
        self._note = note
        self.batcher = MicroBatcher(
            ranking.answer, max_batch=MAX_BATCH, max_cost=MAX_COST, max_depth=MAX_DEPTH, cost=request_cost
        )
        self.n_answered = 0
        self.app = app or App()
        self.app.add("POST", "/v1/rank", self.rank, RANK)

    async def rank(self, request: Request) -> Response:
        """Answer one request, or many at once; an error is written in the format of the body it answers."""
        arrived_s = time.monotonic()
        codec = CODECS.get(request.content_type, JSON_CODEC)
        try:
            body = codec.decode(request.body)
            if isinstance(body, list):
                request.caller.charge(len(body) - 1)
            answer = (
                await self._answer(body, arrived_s)
                if isinstance(body, RankRequest)
                else {"answers": await self._answer_many(body, arrived_s)}
            )
        except ApiError as error:
            return error_response(error, codec.form)
        return Response(200, codec.form.encode(answer), (codec.form.header,))

    async def _answer(self, request: RankRequest, arrived_s: float) -> dict[str, Any]:
        check_request(request, is_event_clock=self._barrier is not None)
        if self._barrier is not None:
            await self._barrier()
        deadline_ms = request.deadline_ms or self.deadline_ms
        deadline_s = deadline_ms / 1000 - (time.monotonic() - arrived_s) if deadline_ms is not None else None
        try:
            answer = await self.batcher.submit(request, deadline_s)
        except OverloadedError:
            self._note(math.inf)
            raise
        self._note(time.monotonic() - arrived_s)
        self.n_answered += 1
        return answer

    async def _answer_many(self, requests: list[RankRequest | ApiError], arrived_s: float) -> list[dict[str, Any]]:
        """Answers in order; submitted one by one, so that they share batches with each other and with everybody else.

        Raises:
            ApiError: If there is not one answer, and all may succeed later.
        """
        judged = await asyncio.gather(*(self._answer_or_error(request, arrived_s) for request in requests))
        errors = [answer for answer in judged if isinstance(answer, ApiError) and answer.retryable]
        if len(errors) == len(judged):
            raise errors[0]
        return [
            {"error": detail_at(answer, index)} if isinstance(answer, ApiError) else answer
            for index, answer in enumerate(judged)
        ]

    async def _answer_or_error(self, request: RankRequest | ApiError, arrived_s: float) -> dict[str, Any] | ApiError:
        if isinstance(request, ApiError):
            return request
        try:
            return await self._answer(request, arrived_s)
        except ApiError as error:
            return error


@serve.deployment(name="Ranker")
@serve.ingress()
class Ranker:
    """One replica; ready once it is warm."""

    async def __init__(self, config: ReplicaConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        threadpool_limits(1)
        make_agent_idle()
        is_event_clock = config.store.clock == "event"
        self._store = connect(config.store, config.schema, timeout_s=None if is_event_clock else STORE_TIMEOUT_S)
        self._decision_log = DecisionLog(connect(config.store, config.schema))
        self._clock = LogClock(self._store, is_event_clock=is_event_clock)
        self._weights = WeightFollower(config.schema, on_settings=self._take_settings)
        self._is_event_clock = is_event_clock
        capture = Capture(Path(config.capture_folder)) if config.capture_folder else None
        # The operating system seeds it: replicas with equal generators would all explore alike.
        self._rng = np.random.default_rng()
        now_ms, keep = self._clock.now_ms, self._decision_log.keep
        rank, policy = self._of(config.live)
        self._ranking = Ranking(self._store, self._weights, now_ms, keep, rank, capture, policy)
        self._load = Load(config.late_s)
        entrance = Entrance(config.access, access_of(config.store), name_of_this_process())
        # Under the event clock nobody waits in front of a page; history is lived through however long it takes.
        self._endpoint = (
            RankEndpoint(self._ranking, self._wait_for_projection, app=entrance.app())
            if is_event_clock
            else RankEndpoint(self._ranking, deadline_ms=rank.deadline_ms, note=self._load.note, app=entrance.app())
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._start(self._decision_log.run(), self._clock.run(), Exporter(self._values).run())
        self._start(entrance.run(), Exporter(entrance.values).run())
        self._start(self._ranking.follow_rows())
        made_up_weights = MadeUpWeights.of(config.schema)
        made_up = Ranking(self._store, made_up_weights, now_ms, lambda _record: None, rank, policy=policy)
        await asyncio.gather(warm_up(RankEndpoint(made_up).rank), self._weights.catch_up())
        self._start(self._weights.run())

    def __serve_build_asgi_app__(self) -> App:
        """Hand Serve the application."""
        return self._endpoint.app

    def _of(self, live: LiveConfig) -> tuple[RankConfig, Policy]:
        """How to rank under these settings."""
        rank = live.rank
        if self._is_event_clock:  # a ranking knows all that was acknowledged: no row may be older than its request
            rank = replace(rank, cache_s=0.0, recent_cache_s=0.0)
        return rank, policy_of(live.policy, self._rng)

    def _take_settings(self, settings: bytes) -> None:
        """Follow the settings that came with the weights, if they can be read: another release may write others."""
        try:
            live = msgspec.json.decode(settings, type=LiveConfig)
        except (msgspec.DecodeError, ConfigError) as error:
            logger.error("settings are not taken over: %s", error)
            return
        self._ranking.configure(*self._of(live))
        if not self._is_event_clock:
            self._endpoint.deadline_ms = live.rank.deadline_ms

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve how much there is to do."""
        return self._load.take()

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
            "headrace_rank_shed_total": self._endpoint.batcher.n_shed,
            "headrace_rank_batches_total": self._ranking.n_batches,
            "headrace_rank_degraded_total": self._ranking.n_degraded,
            "headrace_rank_second_reads_total": self._ranking.n_second_reads,
            "headrace_weight_swaps_total": self._weights.n_swaps,
            "headrace_weight_bytes_total": self._weights.n_bytes,
            "headrace_weight_prepare_ms": 1000.0 * self._weights.prepare_s,
            "headrace_weight_swap_ms": 1000.0 * self._weights.swap_s,
            "headrace_decisions_logged_total": self._decision_log.n_logged,
            "headrace_decisions_lost_total": self._decision_log.n_lost,
        }


def make_agent_idle() -> None:
    """Have this node's Ray agent scheduled as idle; to be called in a worker, whose parent is the node's raylet.

    Of every request's latency Ray keeps a histogram, and with each report (`RAY_metrics_report_interval_ms`) the agent
    records every one of them again, 10 us each: a burst of more than a second of a core for 50,000 requests.
    """
    for process in psutil.Process(os.getppid()).children():
        with contextlib.suppress(psutil.Error):
            if "DashboardAgent" in " ".join(process.cmdline()):
                make_idle(process.pid)


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
