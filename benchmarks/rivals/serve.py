"""Default Ray Serve around the very same work.

What Ray's documentation shows: Serve's Python proxy, a Starlette request, `@serve.batch`. Everything else is ours and
the same: decoding, checks, store reads with their cache, encoder, weights, slate, JSON.

In its favour: `max_ongoing_requests` is raised (the default of 5 would starve the batches), the largest batch is that
of our batcher, its workers are not niced (Ray: 15), there is no dashboard, decisions are not logged, and no weights are
followed while it serves. Left at Serve's default: 10 ms of batch wait, the access log, the user thread, the metrics.
"""

import tempfile
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.rivals.options import Options
from benchmarks.rivals.work import MAX_BATCH, Work
from deployments.processes import termination
from deployments.rank_request import RankRequest


@serve.deployment(max_ongoing_requests=1000)
class Rival:
    """One replica."""

    def __init__(self, options: Options) -> None:
        self._work = Work(options)

    async def __call__(self, request: Request) -> Response:
        """Rank one request."""
        answer = await self.answer(self._work.decode(await request.body()))
        return Response(self._work.encode(answer), media_type="application/json")

    @serve.batch(max_batch_size=MAX_BATCH)
    async def answer(self, requests: list[RankRequest]) -> list[Any]:
        """Rank a batch."""
        return await self._work.answer(requests)


def run(options: Options) -> None:
    """Serve from a cluster of its own until told to stop."""
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
            serve.start(http_options={"port": options.port})
            serve.run(Rival.bind(options), route_prefix="/v1/rank")
            with termination() as stop:
                stop.wait()
        finally:
            serve.shutdown()
            ray.shutdown()
