"""BentoML: one service with an adaptively batched, asynchronous API in one worker.

As its documentation has it, a batchable API takes and gives lists; a client sends a list of one, so bodies have two
bytes more than elsewhere. In its favour: its batcher tunes the wait by itself and may take its time (the default
`max_latency_ms`), no access log, no metrics.
"""

import os
import sys
from typing import Any

import bentoml

from benchmarks.rivals import options as options_of
from benchmarks.rivals.options import Options
from benchmarks.rivals.work import MAX_BATCH, Work


@bentoml.service(
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    traffic={"timeout": 30, "max_concurrency": 10_000},
)
class RankService:
    """The one scoring process."""

    def __init__(self) -> None:
        self._work = Work(options_of.inherited())

    @bentoml.api(route="/v1/rank", batchable=True, max_batch_size=MAX_BATCH)
    async def rank(self, requests: list[dict[str, Any]], /) -> list[dict[str, Any]]:
        """Rank a batch."""
        answers = await self._work.answer([self._work.convert(request) for request in requests])
        return [self._work.plain(answer) for answer in answers]


def run(options: Options) -> None:
    """Become the command that serves the service above."""
    os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": os.environ["HEADRACE_HOME"]}
    command = ["-m", "bentoml", "serve", f"{__name__}:RankService"]
    os.execv(sys.executable, [sys.executable, *command, "--host", "127.0.0.1", "--port", str(options.port)])
