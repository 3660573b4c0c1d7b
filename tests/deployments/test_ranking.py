"""Laws of ranking a micro-batch: order, caching, and answers that degrade instead of failing."""

from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidError
from deployments.rank_request import RankRequest, check_request
from deployments.ranking import MAX_LOGGED, RankConfig, Ranking
from features.clock import FakeClock
from features.encoding import Encoder, Inputs
from features.errors import StoreUnavailable
from features.events import decode_decision
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.store import Record
from learners.policies import Policy, PolicyConfig, greedy, plackett_luce_propensities, policy_of
from tests.features.examples import KEYS, SCHEMA, T0_MS, click

ITEMS = ["a", "b", "c"]


class LastIsBest:
    """A scorer of version 5 that prefers later candidates, and remembers what it saw."""

    version = 5

    def __init__(self) -> None:
        self.seen: list[Inputs] = []

    def score(self, inputs: Inputs) -> Any:
        """0, 1, 2, …"""
        self.seen.append(inputs)
        return np.broadcast_to(np.arange(inputs.mask.shape[1], dtype=np.float32), inputs.mask.shape)


class FixedWeights:
    """Weights that never change."""

    trained_through_ms = T0_MS - 500

    def __init__(self, scorer: Any) -> None:
        self.live = scorer


class Flaky(MemoryStore):
    """A store that can be taken away, and counts reads."""

    is_away = False
    n_items_read = 0

    async def read(self, users: Any, items: Any) -> Any:
        """As the store's, while it is there."""
        if self.is_away:
            gone = StoreUnavailable("gone")
            return [gone] * len(users), [gone] * len(items)
        self.n_items_read += len(items)
        return await super().read(users, items)


def ranking(
    store: MemoryStore, scorer: Any = None, *, policy: Policy = greedy, **config: Any
) -> tuple[Ranking, list[Record]]:
    """A ranking at T0, and the decisions it keeps."""
    kept: list[Record] = []
    weights = FixedWeights(scorer or LastIsBest())
    return Ranking(store, weights, lambda: T0_MS, kept.append, RankConfig(**config), policy=policy), kept


def exploring(temperature: float) -> Policy:
    """Plackett-Luce with a seed."""
    return policy_of(PolicyConfig(name="plackett_luce", temperature=temperature), np.random.default_rng(7))


def flaky() -> Flaky:
    """A store with a stopped clock."""
    return Flaky(SCHEMA, keys=KEYS, time=FakeClock(T0_MS))


async def test_best_first_with_version_and_age() -> None:
    subject, _ = ranking(flaky())
    (answer,) = await subject.answer([RankRequest("u1", ITEMS)])
    assert isinstance(answer, dict)
    assert [item.id for item in answer["items"]] == ["c", "b", "a"]
    assert answer["model"] == {"version": 5, "trained_through_ms": T0_MS - 500, "age_ms": 500}
    assert answer["degraded"] == []


async def test_requests_of_different_length_share_a_batch_and_a_limit_cuts_the_slate() -> None:
    subject, _ = ranking(flaky())
    answers = await subject.answer([RankRequest("u1", ITEMS, limit=1), RankRequest("u2", ["z"])])
    assert [[item.id for item in answer["items"]] for answer in answers if isinstance(answer, dict)] == [
        ["c"],
        ["z"],
    ]


async def test_an_applied_event_is_in_the_inputs_of_the_next_ranking() -> None:
    store, scorer = flaky(), LastIsBest()
    subject, _ = ranking(store, scorer)
    await subject.answer([RankRequest("u1", ITEMS)])
    await store.apply([click("u1", "b")])
    await subject.answer([RankRequest("u1", ITEMS)])
    n_seen = Encoder(SCHEMA).dense_names.index("n_seen")
    before, after = (inputs.dense[0, :, n_seen] for inputs in scorer.seen)
    assert before.tolist() == [0, 0, 0]
    assert after[1] > 0 and after[0] == after[2] == 0


async def test_item_rows_are_read_once_within_the_cache_time_and_unknown_ones_too() -> None:
    store = flaky()
    subject, _ = ranking(store, cache_s=60.0)
    for _ in range(3):
        await subject.answer([RankRequest("u1", ITEMS), RankRequest("u2", ITEMS)])
    assert store.n_items_read == len(ITEMS)
    subject, _ = ranking(store, cache_s=0.0)
    store.n_items_read = 0
    for _ in range(3):
        await subject.answer([RankRequest("u1", ITEMS)])
    assert store.n_items_read == 3 * len(ITEMS)


async def test_without_the_store_rows_known_before_still_rank_and_the_answer_says_so() -> None:
    store = flaky()
    table = ItemTable(SCHEMA)
    entry_of = click("u9", "b", type="view")
    await store.apply([entry_of])
    for entry in await store.read_log({}, count=1):
        table.fold([entry])
    await store.commit_rows(KEYS.item_partition("b"), {"b": table.pack(1)}, expected={}, reached={})
    scorer = LastIsBest()
    subject, kept = ranking(store, scorer)
    await subject.answer([RankRequest("u1", ITEMS)])
    store.is_away = True
    (answer,) = await subject.answer([RankRequest("u1", ITEMS)])
    assert isinstance(answer, dict) and answer["degraded"] == ["features"]
    assert [decode_decision(record.body).is_degraded for record in kept] == [False, True]
    is_known = Encoder(SCHEMA).dense_names.index("is_known")
    assert scorer.seen[-1].dense[0, :, is_known].tolist() == [0, 1, 0]
    store.is_away = False


async def test_without_a_model_popularity_ranks_and_the_answer_says_so() -> None:
    scorer = LastIsBest()
    scorer.version = 0
    subject, _ = ranking(flaky(), scorer)
    (answer,) = await subject.answer([RankRequest("u1", ITEMS)])
    assert isinstance(answer, dict) and answer["degraded"] == ["model"]
    assert scorer.seen == []


async def test_a_corrupt_state_degrades_its_user_and_nobody_else() -> None:
    store = flaky()
    await store.apply([click("bad", "a")])
    store._users["bad"] = b"\x01nonsense"
    subject, _ = ranking(store)
    answers = await subject.answer([RankRequest("bad", ITEMS), RankRequest("good", ITEMS)])
    assert [answer["degraded"] for answer in answers if isinstance(answer, dict)] == [["features"], []]


async def test_a_decision_keeps_what_was_shown_and_what_the_model_saw() -> None:
    subject, kept = ranking(flaky())
    (answer,) = await subject.answer([RankRequest("u1", ITEMS, context={"device": "tv"}, limit=2)])
    decision = decode_decision(kept[0].body)
    assert isinstance(answer, dict)
    assert (decision.decision, decision.items, decision.version) == (answer["decision"], ["c", "b"], 5)
    inputs = np.frombuffer(decision.inputs, np.float16).reshape(2, -1)
    assert inputs.shape[1] == len(Encoder(SCHEMA).dense_names)
    subject, kept = ranking(flaky(), log_decisions=False)
    await subject.answer([RankRequest("u1", ITEMS)])
    assert kept == []


@pytest.mark.parametrize(("limit", "n_logged"), [(None, MAX_LOGGED), (7, 7)])
async def test_a_drawn_slate_is_answered_and_logged_with_the_same_propensities(
    limit: int | None, n_logged: int
) -> None:
    """In a batch with a longer request: what pads a request is no candidate of it."""
    candidates = [f"i{k}" for k in range(60)]
    subject, kept = ranking(flaky(), policy=exploring(20.0))
    longer = RankRequest("u2", [*candidates, "one", "more"])
    answer, _ = await subject.answer([RankRequest("u1", candidates, limit=limit), longer])
    assert isinstance(answer, dict)
    decision = decode_decision(kept[0].body)
    assert decision.items == [item.id for item in answer["items"]][:MAX_LOGGED]
    assert decision.items != candidates[::-1][:n_logged]  # what greedy would have shown
    assert decision.propensities == [item.propensity for item in answer["items"]][:MAX_LOGGED]
    assert len(decision.propensities) == n_logged
    shown = np.array([candidates.index(item) for item in decision.items])
    expected = plackett_luce_propensities(np.arange(60.0), shown, temperature=20.0)
    np.testing.assert_allclose(decision.propensities, expected, rtol=1e-9)


async def test_what_the_popularity_prior_ranks_goes_through_the_policy_too() -> None:
    scorer = LastIsBest()
    scorer.version = 0
    subject, kept = ranking(flaky(), scorer, policy=exploring(1.0))
    (answer,) = await subject.answer([RankRequest("u1", ITEMS)])
    assert isinstance(answer, dict) and answer["degraded"] == ["model"]
    assert [item.propensity for item in answer["items"]] == pytest.approx([1 / 3, 1 / 2, 1])
    assert decode_decision(kept[0].body).propensities == [item.propensity for item in answer["items"]]


async def test_another_policy_holds_from_the_next_batch_on() -> None:
    subject, kept = ranking(flaky())
    await subject.answer([RankRequest("u1", ITEMS)])
    subject.configure(RankConfig(log_decisions=False), exploring(1e6))
    (answer,) = await subject.answer([RankRequest("u1", ITEMS)])
    assert isinstance(answer, dict)
    assert [item.propensity for item in answer["items"]] == pytest.approx([1 / 3, 1 / 2, 1], rel=1e-3)
    assert len(kept) == 1


async def test_greedy_answers_alike_and_is_certain_of_it() -> None:
    subject, kept = ranking(flaky())
    answers = await subject.answer([RankRequest("u1", ITEMS)] * 5)
    slates = [
        [(item.id, item.propensity) for item in answer["items"]] for answer in answers if isinstance(answer, dict)
    ]
    assert slates == [[("c", 1.0), ("b", 1.0), ("a", 1.0)]] * 5
    assert decode_decision(kept[0].body).propensities == [1.0] * 3


def test_the_first_bad_field_is_named() -> None:
    for request, path in (
        (RankRequest("", ITEMS), "$.user"),
        (RankRequest("u", []), "$.candidates"),
        (RankRequest("u", ["a", "b", "a"]), "$.candidates[2]"),
        (RankRequest("u", ["a", "x" * 257]), "$.candidates[1]"),
        (RankRequest("u", ["é" * 129]), "$.candidates[0]"),
        (RankRequest("u", ITEMS, limit=0), "$.limit"),
        (RankRequest("u", ITEMS, now_ms=1), "$.now_ms"),
        (RankRequest("u", ITEMS, deadline_ms=0), "$.deadline_ms"),
        (RankRequest("u", ITEMS, deadline_ms=60_001), "$.deadline_ms"),
    ):
        with pytest.raises(InvalidError) as caught:
            check_request(request, is_event_clock=False)
        assert caught.value.path == path
    check_request(RankRequest("u", ["é" * 128], now_ms=1), is_event_clock=True)
    for now_ms in (0, -1, 1 << 63):  # beyond what a batch can hold, in which others are
        with pytest.raises(InvalidError) as caught:
            check_request(RankRequest("u", ITEMS, now_ms=now_ms), is_event_clock=True)
        assert caught.value.path == "$.now_ms"
