"""The work that every rival does: decode, check, `Ranking`, encode; with the weights of a folder and the store.

The only place where rivals touch the application, so that all of them do the same and change together. In their favour:
the heap is frozen as in a replica, no weights are followed while they serve, and no decisions are logged unless
`log_decisions` says so (the bare uvicorn does, to differ from a replica by Serve alone).

Not known here: how requests come in, or in what batches.
"""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from threadpoolctl import threadpool_limits

from benchmarks.rivals.options import Options
from deployments.decision_log import DecisionLog
from deployments.gate import PUBLIC
from deployments.http import App, Request, Response
from deployments.rank_body import api_error
from deployments.rank_request import RankRequest, check_request
from deployments.ranker import MAX_BATCH, RankEndpoint
from deployments.ranking import RankConfig, RankedItem, Ranking
from features.clock import WallClock
from features.connect import StoreConfig, connect
from features.schema import Schema
from learners.checkpoints import Checkpoints
from learners.folder_files import FolderFiles
from learners.publisher import Publisher
from learners.scorer import Scorer

__all__ = ["MAX_BATCH", "BlockingWork", "Work", "fixed_app"]

FIXED_CANDIDATES: Final = 100

_decoder = msgspec.json.Decoder(RankRequest)


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
    with ThreadPoolExecutor(1) as beside:  # some frameworks make their workers in a loop that runs
        newest = beside.submit(asyncio.run, Checkpoints(FolderFiles(str(folder)), schema).load()).result()
    if newest is None:
        raise ValueError("the folder holds no version")
    scorer, draft = Scorer(schema), Publisher("folder", 0).draft(newest)
    for _ in scorer.apply(draft.head, draft.parts):
        pass
    return FixedWeights(scorer, newest.progress.trained_through_ms)


class Work:
    """One scoring process: make it, then `decode` requests, `answer` them in batches, `encode` the answers."""

    def __init__(self, options: Options, *, log_decisions: bool = False) -> None:
        threadpool_limits(1)
        schema, store = Schema(), StoreConfig(url=options.redis_url)
        self.decisions = DecisionLog(connect(store, schema)) if log_decisions else None
        self._ranking = Ranking(
            connect(store, schema),
            load_weights(Path(options.folder), schema),
            WallClock().now_ms,
            self.decisions.keep if self.decisions else lambda record: None,
            RankConfig(log_decisions=log_decisions),
        )
        self._following: asyncio.Task[None] | None = None
        gc.collect()
        gc.freeze()

    def decode(self, body: bytes) -> RankRequest:
        """A body, decoded and checked.

        Raises:
            ApiError: As the application would answer.
        """
        try:
            request = _decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise api_error(error) from None
        check_request(request, is_event_clock=False)
        return request

    def convert(self, values: Mapping[str, Any]) -> RankRequest:
        """The same for a framework that decodes JSON itself."""
        request = msgspec.convert(values, RankRequest)
        check_request(request, is_event_clock=False)
        return request

    async def answer(self, requests: Sequence[RankRequest]) -> list[Any]:
        """Rank a batch.

        Raises:
            Exception: What the ranking of one of them ended with.
        """
        if self._following is None:  # on whatever loop the framework runs batches
            self._following = asyncio.create_task(self._ranking.follow_rows())
        answers = await self._ranking.answer(list(requests))
        for one in answers:
            if isinstance(one, Exception):
                raise one
        return answers

    def encode(self, answer: Any) -> bytes:
        """The body of an answer."""
        return msgspec.json.encode(answer)

    def plain(self, answer: Any) -> Any:
        """An answer as dicts and lists, for a framework that encodes JSON itself."""
        return msgspec.to_builtins(answer)

    def endpoint(self) -> App:
        """Raw ASGI with our own micro-batcher."""
        return RankEndpoint(self).app  # type: ignore[arg-type]  # it takes no more than `answer`


class BlockingWork(Work):
    """The same for frameworks whose workers are not asynchronous: batches run on a uvloop of the worker's own."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._loop = uvloop.new_event_loop()

    def answer_now(self, requests: Sequence[RankRequest]) -> list[Any]:
        """Rank a batch and wait for it."""
        return self._loop.run_until_complete(self.answer(requests))


def fixed_body() -> bytes:
    """An answer of the usual size: that of a request with 100 candidates."""
    items = [RankedItem(f"i{4000 + k}", round(0.123456 - k, 6), 1.0) for k in range(FIXED_CANDIDATES)]
    model = {"version": 20, "trained_through_ms": 1_764_000_000_000, "age_ms": 1000}
    return msgspec.json.encode(
        {"decision": "0123456789abcdef0123456789", "items": items, "model": model, "degraded": []}
    )


def fixed_app() -> App:
    """Raw ASGI that reads the body and answers what it always answers: the floor."""
    response = Response(body=fixed_body())

    async def rank(request: Request) -> Response:
        del request
        return response

    app = App()
    app.add("POST", "/v1/rank", rank, PUBLIC)
    return app
