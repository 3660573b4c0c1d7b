"""The rival: default Ray Serve around the very same `Ranking`.

What Ray's documentation shows: Serve's Python proxy, a Starlette request, `@serve.batch`. Everything else is ours and
the same: decoding, checks, store reads with their cache, encoder, weights, slate, JSON.

In its favour: `max_ongoing_requests` is raised (the default of 5 would starve the batches), the largest batch is that
of our batcher, its workers are not niced (Ray: 15), there is no dashboard, decisions are not logged, and no weights are
followed while it serves. Left at Serve's default: 10 ms of batch wait, the access log, the user thread, the metrics.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import ray
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from deployments.ranker import MAX_BATCH
from deployments.ranking import RankConfig, Ranking, RankRequest, check_request
from features.clock import WallClock
from features.connect import StoreConfig, connect
from features.schema import Schema
from learners.checkpoints import Checkpoints
from learners.scorer import Scorer


@dataclass(slots=True)
class FixedWeights:
    """A scorer that stays as it is."""

    live: Scorer
    trained_through_ms: int


def load_weights(folder: Path, schema: Schema) -> FixedWeights:
    """Read the newest version of a folder.

    Raises:
        ValueError: If it holds none.
    """
    newest = Checkpoints(str(folder), schema).load()
    if newest is None:
        raise ValueError("the folder holds no version")
    scorer = Scorer(schema)
    for _ in scorer.apply(newest):
        pass
    return FixedWeights(scorer, newest.progress.trained_through_ms)


@serve.deployment(max_ongoing_requests=1000)
class Rival:
    """One replica."""

    def __init__(self, store: StoreConfig, schema: Schema, folder: Path) -> None:
        torch.set_num_threads(1)
        self._decoder = msgspec.json.Decoder(RankRequest)
        self._ranking = Ranking(
            connect(store, schema),
            load_weights(folder, schema),
            WallClock().now_ms,
            lambda record: None,
            RankConfig(log_decisions=False),
        )

    async def __call__(self, request: Request) -> Response:
        """Rank one request."""
        parsed: RankRequest = self._decoder.decode(await request.body())
        check_request(parsed, is_event_clock=False)
        return Response(msgspec.json.encode(await self.answer(parsed)), media_type="application/json")

    @serve.batch(max_batch_size=MAX_BATCH)
    async def answer(self, requests: list[RankRequest]) -> list[Any]:
        """Rank a batch."""
        return await self._ranking.answer(requests)


@contextmanager
def running(port: int, store: StoreConfig, folder: Path) -> Iterator[None]:
    """A cluster of its own with the rival at /v1/rank, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="hr-") as scratch:
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=300_000_000,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=scratch,
        )
        try:
            serve.start(http_options={"port": port})
            serve.run(Rival.bind(store, Schema(), folder), route_prefix="/v1/rank")
            yield
        finally:
            serve.shutdown()
            ray.shutdown()
