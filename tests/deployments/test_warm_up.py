"""Laws of warm-up: every shape is met before the first request, nothing of it is seen, and nothing can hold it up."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from deployments.http import Handler
from deployments.rank_request import MAX_CANDIDATES, REQUEST_COST
from deployments.ranker import MAX_BATCH, MAX_COST, RankEndpoint
from deployments.ranking import RankConfig, Ranking
from deployments.warm_up import BATCH_SIZES, N_CANDIDATES, MadeUpWeights, warm_up
from features.store import Record
from tests.deployments.test_ranking import FixedWeights, Flaky, LastIsBest, flaky, ranking
from tests.features.examples import SCHEMA, T0_MS


def endpoint(store: Flaky, scorer: Any) -> Handler:
    made_up = Ranking(store, FixedWeights(scorer), lambda: T0_MS, lambda _record: None, RankConfig())
    return RankEndpoint(made_up).rank


async def test_every_shape_that_a_replica_can_meet_is_scored_more_than_once() -> None:
    scorer = LastIsBest()
    await warm_up(endpoint(flaky(), scorer), 25.0)
    seen = Counter(inputs.mask.shape for inputs in scorer.seen)
    possible = {
        (min(size, int(MAX_COST // (REQUEST_COST + n_candidates))), n_candidates)
        for size in BATCH_SIZES
        for n_candidates in N_CANDIDATES
    }
    assert all(seen[shape] >= 2 for shape in possible)
    assert (BATCH_SIZES[-1], N_CANDIDATES[-1]) == (MAX_BATCH, MAX_CANDIDATES)


async def test_without_a_store_it_ends_in_time_and_every_shape_is_met() -> None:
    store, scorer = flaky(), LastIsBest()
    store.is_away = True
    await warm_up(endpoint(store, scorer), 25.0)
    assert {inputs.mask.shape[1] for inputs in scorer.seen} >= set(N_CANDIDATES)


async def test_a_store_that_hangs_does_not_keep_a_replica_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Flaky):
        async def read(self, users: Any, items: Any) -> Any:
            await asyncio.Event().wait()

    store = flaky()
    async with asyncio.timeout(5):
        await warm_up(endpoint(Hanging(store.schema, keys=store.keys), LastIsBest()), 0.05)
    assert "not warm within 0.05 s" in caplog.text


async def test_the_replicas_own_ranking_sees_nothing_of_it() -> None:
    store, kept = flaky(), list[Record]()
    own, own_kept = ranking(store)
    serving = RankEndpoint(own, deadline_ms=250)
    made_up = Ranking(store, MadeUpWeights.of(SCHEMA), lambda: T0_MS, kept.append, RankConfig(log_decisions=False))
    await warm_up(RankEndpoint(made_up).rank, 25.0)
    assert (own.n_batches, own.n_degraded, own.n_cached, serving.n_answered, serving.batcher.n_shed) == (0, 0, 0, 0, 0)
    assert serving.batcher.is_idle and kept == own_kept == []
    assert serving.batcher._pace.expect_s(1.0) == 0
    assert await store.read_log({}, count=1) == []
