"""What a replica answers is what the plain model says of each request alone, in whatever company it was asked."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.rank_request import RankRequest
from deployments.ranking import RankConfig, Ranking
from features.clock import FakeClock
from features.encoding import Request
from features.memory_store import MemoryStore
from features.state import unpack
from features.store import event_record
from learners.editions import restored, rounded
from learners.online import OnlineLearner
from learners.publisher import Publisher
from learners.scorer import Scorer
from tests.learners.examples import KEYS, SCHEMA, T0_MS, click, learned, log, stream
from tests.learners.test_publisher import UNLIMITED, received

USERS = [f"u{number}" for number in range(6)] + ["nobody"]
ITEMS = [f"i{number}" for number in range(45)]  # the last five are unheard of
NOW_MS = T0_MS + 600_000

requests = st.builds(
    lambda user, items, device: RankRequest(user, items, {"device": device} if device else {}),
    st.sampled_from(USERS),
    st.lists(st.sampled_from(ITEMS), min_size=1, max_size=30, unique=True),
    st.sampled_from(["mobile", "tv", ""]),
)


def as_sent(values_ND: Any) -> Any:
    """Embeddings as replicas have them; the fallback is not rounded."""
    return np.concatenate([values_ND[:1], restored(*rounded(values_ND[1:]))])


class Everything:
    """A trained learner, a store that holds what it knows, and a scorer that follows it."""

    def __init__(self) -> None:
        events = stream(600)
        self.learner: OnlineLearner = learned(log(events))
        self.store = MemoryStore(SCHEMA, keys=KEYS, time=FakeClock(NOW_MS))
        self.live = Scorer(SCHEMA)
        self.trained_through_ms = NOW_MS
        received(self.live, Publisher("here", UNLIMITED).draft(self.learner.snapshot(1)))
        asyncio.run(self._fill(events))

    async def _fill(self, events: list[Any]) -> None:
        table = self.learner.table
        await self.store.apply(
            [event_record(event, SCHEMA, KEYS) for event in [*events, click("u0", "i3", NOW_MS - 1000)]]
        )
        for item in table.ids[1:]:
            row = {item: table.pack(table.rows[item])}
            await self.store.commit_rows(KEYS.item_partition(item), row, expected={}, reached={})

    async def plain(self, request: RankRequest) -> dict[str, float]:
        """Scores of one request alone: rows straight from the learner, embedded and scored as in learning."""
        (state,), _ = await self.store.read([request.user], [])
        asked = Request(unpack(state, SCHEMA), request.context, NOW_MS, request.candidates)
        model = self.learner.model
        inputs = self.learner.encoder.encode(self.learner.table, [asked])
        places = model.rows_of(inputs)
        with torch.no_grad():
            values = {
                name: torch.from_numpy(as_sent(table.weight[: len(table)])) for name, table in model.tables.items()
            }
            embedded = model.embed(inputs, values, places)
            scores = model(inputs, embedded)[0].tolist()
        return dict(zip(request.candidates, scores, strict=True))


@pytest.fixture(scope="module")
def everything() -> Everything:
    return Everything()


@settings(max_examples=60)
@given(batches=st.lists(st.lists(requests, min_size=1, max_size=16), min_size=1, max_size=3), is_told=st.booleans())
def test_scores_depend_on_neither_batch_nor_padding_nor_cache(
    everything: Everything, batches: list[list[RankRequest]], is_told: bool
) -> None:
    """The first batch finds the cache empty, later ones find some of their rows in it, fresh or to be read again."""

    async def live_through() -> None:
        config = RankConfig(log_decisions=False, cache_s=1e9 if is_told else 0.0)
        ranking = Ranking(everything.store, everything, lambda: NOW_MS, lambda _record: None, config)
        for batch in batches:
            for request, answer in zip(batch, await ranking.answer(batch), strict=True):
                assert isinstance(answer, dict) and not answer["degraded"]
                scores = {item.id: item.score for item in answer["items"]}
                expected = await everything.plain(request)
                assert set(scores) == set(expected)
                np.testing.assert_allclose(
                    [scores[item] for item in expected], list(expected.values()), atol=1e-5, rtol=0
                )

    asyncio.run(live_through())


def test_the_trained_model_tells_candidates_apart(everything: Everything) -> None:
    """Else the property above would hold of zeros."""
    scores = asyncio.run(everything.plain(RankRequest("u0", ITEMS, {"device": "mobile"})))
    assert np.ptp(list(scores.values())) > 0.1
