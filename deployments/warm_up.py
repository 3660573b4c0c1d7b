"""Warm-up: whatever a replica will be asked for is asked for before it is ready.

The first request of a shape pays for what later ones find done: PyTorch chooses kernels and allocates, caches fill,
the connections to the store open. So a new replica asks itself, through its own endpoint, in every shape.

Nothing of it is seen: the endpoint belongs to a `Ranking` of its own, which logs nothing, counts nowhere and teaches no
admission.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from deployments.http import Handler, Request
from deployments.rank_body import MAX_REQUESTS
from features.schema import Schema
from learners.scorer import Scorer

BATCH_SIZES: Final = (1, 2, 4, 8, 16)
N_CANDIDATES: Final = (1, 10, 100, 500, 1000)
N_ROUNDS: Final = 2  # PyTorch settles its kernels on the second run of a shape
WARM_UP_S: Final = 5.0  # a second is usual; a store that does not answer takes the rest
DEADLINE_MS: Final = 60_000

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class MadeUpWeights:
    """Weights that have learned nothing and score all the same, since at the start there may be no others."""

    live: Scorer
    trained_through_ms: int = 0

    @classmethod
    def of(cls, schema: Schema) -> Self:
        """Of the shape that weights under this schema have."""
        scorer = Scorer(schema)
        scorer.version = 1
        return cls(scorer)


async def warm_up(rank: Handler, within_s: float = WARM_UP_S) -> None:
    """Ask in every shape, alone, many at a time and in every format; give up after `within_s`.

    Args:
        rank: Handler of `POST /v1/rank`.
    """
    start_s = time.monotonic()
    try:
        async with asyncio.timeout(within_s):
            for _ in range(N_ROUNDS):
                for n_candidates in N_CANDIDATES:
                    for n_requests in BATCH_SIZES:
                        bodies = [_body(index, n_candidates) for index in range(n_requests)]
                        await asyncio.gather(*(rank(_request(msgspec.json.encode(body))) for body in bodies))
                many = {"requests": [_body(index, 10) for index in range(MAX_REQUESTS)]}
                await rank(_request(msgspec.json.encode(many)))
                await rank(_request(msgspec.msgpack.encode(many), b"application/msgpack"))
    except TimeoutError:
        logger.warning("not warm within %g s; answering all the same", within_s)
    else:
        logger.info("warm after %.2f s", time.monotonic() - start_s)


def _body(index: int, n_candidates: int) -> dict[str, Any]:
    candidates = [f"warm-up-{place}" for place in range(n_candidates)]
    return {"user": f"warm-up-{index}", "candidates": candidates, "deadline_ms": DEADLINE_MS}


def _request(body: bytes, content_type: bytes = b"application/json") -> Request:
    return Request("POST", "/v1/rank", {b"content-type": content_type}, b"", body)
