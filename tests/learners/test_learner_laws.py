"""Laws of the online learner: what it has learned is a function of the log, and of nothing else."""

import functools
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.encoding import Request
from features.events import DECISION, EVENT, Entry, decode_event, encode_body
from features.item_table import ItemTable
from features.joiner import JoinConfig
from features.schema import Schema
from features.state import unpack
from learners import snapshots
from learners.embeddings import TableConfig
from learners.errors import ForeignSnapshot
from learners.online import OnlineLearner
from learners.pinning import public
from learners.snapshots import Delta
from tests.learners.comparing import same
from tests.learners.examples import (
    CONFIG,
    SCHEMA,
    T0_MS,
    click,
    inputs_of,
    item_entry,
    learned,
    log,
    shown,
    stream,
    ticked,
)

ENTRIES = log(stream(900))


@pytest.fixture(scope="module")
def straight() -> OnlineLearner:
    """Nothing came between."""
    return learned(ENTRIES)


def test_reading_the_same_entries_gives_the_same_weights_bit_for_bit(straight: OnlineLearner) -> None:
    assert same(learned(ENTRIES).snapshot(), straight.snapshot())


@pytest.mark.parametrize("tick_ms", [200, 7_000, 100_000])
def test_batches_do_not_depend_on_when_ticks_are_closed(straight: OnlineLearner, tick_ms: int) -> None:
    learner = ticked(OnlineLearner(SCHEMA, CONFIG), ENTRIES, tick_ms)
    learner.close_tick(ENTRIES[-1].id.ms + 3_600_000)
    assert same(learner.snapshot(), straight.snapshot())


def test_a_restored_learner_goes_on_bit_for_bit(straight: OnlineLearner) -> None:
    learner = OnlineLearner(SCHEMA, CONFIG)
    for number, entry in enumerate(ENTRIES):
        learner.read(entry)
        if number > 300 and learner.is_settled:
            break
    packed = snapshots.pack(learner.snapshot(4))
    restored = OnlineLearner(SCHEMA, CONFIG)
    restored.restore(snapshots.unpack(packed))
    assert snapshots.pack(restored.snapshot(4)) == packed
    assert same(learned(ENTRIES[number + 1 :], restored).snapshot(), straight.snapshot())


def test_among_many_items_a_learner_restored_at_any_time_goes_on_bit_for_bit() -> None:
    """Strata are so large that most batches look through none of them."""
    config = replace(CONFIG, batch_span_s=1.0)
    entries = log(stream(500, n_items=400))
    straight = learned(entries, OnlineLearner(SCHEMA, config))
    learner, committed, n_restored = OnlineLearner(SCHEMA, config), None, 0
    for entry in entries:
        learner.close_tick(entry.id.ms)
        if learner.is_settled and learner.positions:
            version = committed.version if committed else 0
            delta = snapshots.unpack(snapshots.pack(learner.take_delta(version + 1, version or None)))
            committed = snapshots.merge(committed, delta) if committed else delta
            if committed.version % 7 == 0:
                learner, n_restored = OnlineLearner(SCHEMA, config), n_restored + 1
                learner.restore(snapshots.unpack(snapshots.pack(committed)))
        learner.read(entry)
    learner.close_tick(entries[-1].id.ms + 3_600_000)
    assert n_restored > 5
    assert same(learner.snapshot(), straight.snapshot())


def test_restored_at_whatever_step_a_learner_goes_on_bit_for_bit_with_decisions() -> None:
    """Also right after one that has looked at what serves, and found that its bias is to be lifted."""
    entries = shown(500)
    straight = learned(entries)
    learner, n_restored = OnlineLearner(SCHEMA, CONFIG), 0
    for number, entry in enumerate(entries):
        learner.read(entry)
        n_steps = learner.snapshot().private.n_steps if learner.is_settled else 0
        if n_steps and n_steps % 16 == 0:
            full, n_restored = snapshots.pack(learner.snapshot(4)), n_restored + 1
            learner = OnlineLearner(SCHEMA, CONFIG)
            learner.restore(snapshots.unpack(full))
            learner.remember(entries[: number + 1])
    learner.close_tick(entries[-1].id.ms + 3_600_000)
    assert n_restored > 0
    assert same(learner.snapshot(), straight.snapshot())


def test_killed_between_deltas_and_reread_from_committed_positions(straight: OnlineLearner) -> None:
    """A learner offers a delta now and then; it dies twice, and a new one goes on from what was committed."""
    committed: Delta | None = None
    learner, n_read = OnlineLearner(SCHEMA, CONFIG), 0
    deaths = {333, 611}
    while n_read < len(ENTRIES):
        learner.read(ENTRIES[n_read])
        n_read += 1
        if n_read in deaths:
            deaths.remove(n_read)
            learner, n_read = OnlineLearner(SCHEMA, CONFIG), 0
            if committed is not None:
                learner.restore(snapshots.unpack(snapshots.pack(committed)))
                n_read = sum(e.id <= learner.positions.get(e.partition, (0, 0)) for e in ENTRIES)
        elif learner.is_settled and learner.n_events % 3 == 0:
            version = committed.version if committed else 0
            packed = snapshots.pack(learner.take_delta(version + 1, version or None))
            delta = snapshots.unpack(packed)
            committed = snapshots.merge(committed, delta) if committed else delta
    learner.close_tick(ENTRIES[-1].id.ms + 3_600_000)
    assert not deaths and committed is not None and committed.version > 5
    assert same(learner.snapshot(), straight.snapshot())


def test_a_restored_learner_that_remembers_goes_on_bit_for_bit_with_decisions() -> None:
    """What is open of the join is in no snapshot: it is read again from the log."""
    entries = shown(400)
    straight = learned(entries)
    learner = OnlineLearner(SCHEMA, CONFIG)
    for number, entry in enumerate(entries):
        learner.read(entry)
        if number > len(entries) // 2 and learner.is_settled:
            break
    restored = OnlineLearner(SCHEMA, CONFIG)
    restored.restore(snapshots.unpack(snapshots.pack(learner.snapshot(4))))
    restored.remember(reversed(entries[: number + 1]))
    assert same(learned(entries[number + 1 :], restored).snapshot(), straight.snapshot())


@pytest.mark.parametrize("tick_ms", [200, 7_000, 100_000])
def test_impressions_do_not_depend_on_when_ticks_are_closed(tick_ms: int) -> None:
    entries = shown(300)
    learner = ticked(OnlineLearner(SCHEMA, CONFIG), entries, tick_ms)
    learner.close_tick(entries[-1].id.ms + 3_600_000)
    assert same(learner.snapshot(), learned(entries).snapshot())


def test_however_dense_the_decisions_there_are_moments_to_take_a_version() -> None:
    """What is due never waits behind what is due next: a version taken at any stop goes on bit for bit."""
    entries = shown(400)
    learner, n_stops, restored = OnlineLearner(SCHEMA, replace(CONFIG, batch_span_s=9.0)), 0, None
    straight = learned(entries, OnlineLearner(SCHEMA, learner.config))
    for number, entry in enumerate(entries):
        for _ in learner.advance(entry.id.ms):
            n_stops += 1
            assert learner.is_settled
            if n_stops == 12:
                restored = OnlineLearner(SCHEMA, learner.config)
                restored.restore(snapshots.unpack(snapshots.pack(learner.snapshot(3))))
                restored.remember(entries[:number])
                learned(entries[number:], restored)
        learner.read(entry)
    assert restored is not None and n_stops > 20
    assert same(restored.snapshot(), straight.snapshot())


def test_every_impression_is_an_example_once_and_feedback_that_is_joined_is_none() -> None:
    entries = shown(300)
    learner = learned(entries)
    clicks = [decode_event(entry.body) for entry in entries if entry.kind == EVENT]
    early = sum(event.decision in {f"d{n}" for n in range(0, 300, 10)} for event in clicks)
    assert learner.n_events == len(clicks) > 100
    # Clicks that were ahead of their decision are positives of their own too.
    assert 300 * 4 <= learner.n_examples <= 300 * 4 + early
    assert learner.metrics["reward_rate"] == pytest.approx(len(clicks) / 1200, rel=1e-2)


SHOWN = shown(6000)


@functools.cache
def taught(keep_negatives: float) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Metrics, and mean rates of the items, after so much of the stream's negatives."""
    config = replace(CONFIG, join=JoinConfig(keep_negatives=keep_negatives), batch_size=64, embedding_rate=0.02)
    learner = learned(SHOWN, OnlineLearner(SCHEMA, config))
    items = [f"i{n}" for n in range(12)]
    asked = [
        Request(unpack(entry.state, SCHEMA), {"device": "mobile"}, entry.id.ms, items)
        for entry in SHOWN[-400:]
        if entry.kind == DECISION
    ]
    logits_BK = learner.model.score(learner.encoder.encode(ItemTable(SCHEMA), asked)).astype(np.float64)
    return learner.metrics, (1.0 / (1.0 + np.exp(-logits_BK))).mean(axis=0)


@pytest.mark.parametrize("keep_negatives", [1.0, 0.3])
def test_what_is_learned_from_impressions_is_the_rate_of_reward(keep_negatives: float) -> None:
    """Late clicks and thinned out negatives change nothing about it. The stream's rates are known."""
    metrics, rates_K = taught(keep_negatives)
    assert metrics["predicted_reward_rate"] == pytest.approx(metrics["reward_rate"], rel=0.1)
    np.testing.assert_allclose(rates_K, 0.02 + 0.38 * np.arange(12) / 12, atol=0.1)


def test_a_tenth_of_the_negatives_teaches_the_rates_that_all_of_them_do() -> None:
    """Over all items they agree within a tenth; without the correction they would be three times as high."""
    (of_all, all_K), (of_few, few_K) = taught(1.0), taught(0.1)
    assert of_few["reward_rate"] > 2.5 * of_all["reward_rate"]
    assert few_K.mean() == pytest.approx(all_K.mean(), rel=0.1)


def test_what_serves_predicts_as_many_rewards_as_come() -> None:
    """Though it is a mean of weights. At the first place; what the stream's rates are is known."""
    _, rates_K = taught(1.0)
    assert rates_K.mean() == pytest.approx((0.02 + 0.38 * np.arange(12) / 12).mean(), rel=0.1)


def test_what_serves_may_be_far_off_and_comes_back() -> None:
    """No rate of its own, however small, stops the learner."""
    entries = shown(400)
    learner = OnlineLearner(SCHEMA, replace(CONFIG, batch_size=8))
    for number, entry in enumerate(entries):
        learner.read(entry)
        if number == len(entries) // 2:
            learner.model.arrays_of("bias")[0][:] = -1e4
    assert learner.last_step is not None and learner.last_step.step > 40
    assert -1e4 < float(learner.model.arrays_of("bias")[0][0]) < 1e4


def test_a_decision_that_makes_no_sense_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    entries = shown(100)
    at = next(number for number, entry in enumerate(entries) if entry.kind == DECISION)
    bad = entries[at]._replace(body=b"\xc1")
    learner = learned([*entries[:at], bad, *entries[at + 1 :]])
    assert "passed over" in caplog.text and learner.n_skipped == 0 and learner.n_examples >= 396


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        encode_body(["nod", "u1", "i1", T0_MS, 1.0, {}, None, None]),  # under another schema there is such a type
        encode_body(["click", "u1", "i1", T0_MS, float("nan"), {}, None, None]),
        encode_body(["click", "u1", "i1", 1 << 63, 1.0, {}, None, None]),
        b"\x98\xa5click\xa1\xff",
        b"\x98" + b"\x91" * 100_000,
    ],
)
def test_an_event_that_no_fold_could_bear_is_passed_over(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    entries = log(stream(200))
    bad = entries[100]._replace(body=body)
    learner = learned([*entries[:100], bad, *entries[101:]])
    assert "passed over" in caplog.text and learner.reader.n_events == 199


@pytest.mark.parametrize("entries", [ENTRIES, shown(300)], ids=["events", "decisions"])
def test_merged_deltas_equal_a_snapshot(entries: list[Entry]) -> None:
    learner, full = OnlineLearner(SCHEMA, CONFIG), None
    for entry in entries:
        learner.read(entry)
        if learner.is_settled:
            version = full.version if full else 0
            delta = snapshots.unpack(snapshots.pack(learner.take_delta(version + 1, version or None)))
            full = snapshots.merge(full, delta) if full else delta
            assert same(full, learner.snapshot(full.version))


FORGETFUL = replace(CONFIG, table=TableConfig(max_rows=90, expire_s=25.0, admit_after=2))
MANY = log(stream(900, n_items=300))  # with so few rows some are freed, taken over, and refused all the time


def test_a_learner_that_forgets_goes_on_bit_for_bit_from_merged_deltas() -> None:
    """Killed after every tenth version; what replaces it stands on what was committed."""
    straight = learned(MANY, OnlineLearner(SCHEMA, FORGETFUL))
    learner, full, n_forgotten = OnlineLearner(SCHEMA, FORGETFUL), None, 0
    for entry in MANY:
        learner.read(entry)
        if not learner.is_settled:
            continue
        version = full.version if full else 0
        before = set(full.tables["item"].keys.tolist()) if full else set()
        delta = snapshots.unpack(snapshots.pack(learner.take_delta(version + 1, version or None)))
        full = snapshots.merge(full, delta) if full else delta
        n_forgotten += len(before - set(full.tables["item"].keys.tolist()))
        assert same(full, learner.snapshot(full.version))
        if full.version % 10 == 0:
            learner = OnlineLearner(SCHEMA, FORGETFUL)
            learner.restore(snapshots.unpack(snapshots.pack(full)))
    learner.close_tick(MANY[-1].id.ms + 3_600_000)
    assert full is not None and full.version > 20 and n_forgotten > 40
    assert len(learner.model.tables["item"]) == 90
    assert same(learner.snapshot(), straight.snapshot())


def test_more_rows_than_the_cap_are_refused_by_name(straight: OnlineLearner) -> None:
    with pytest.raises(ForeignSnapshot, match=r"at most table.max_rows = 20"):
        OnlineLearner(SCHEMA, replace(CONFIG, table=TableConfig(max_rows=20))).restore(straight.snapshot(1))


def test_every_positive_is_counted_once_and_positions_are_the_newest(straight: OnlineLearner) -> None:
    assert straight.n_events == straight.n_examples == len(ENTRIES)
    for partition, position in straight.positions.items():
        assert position == max(entry.id for entry in ENTRIES if entry.partition == partition)


def test_trained_through_is_the_closed_tick_or_the_first_pending_entry() -> None:
    learner = OnlineLearner(SCHEMA, replace(CONFIG, batch_span_s=1.0))
    assert (learner.trained_through_ms, learner.is_settled) == (0, True)
    learner.close_tick(T0_MS)
    assert learner.trained_through_ms == T0_MS
    entry = log([click("u", "a", T0_MS + 300)])[0]
    learner.read(entry)
    assert (learner.trained_through_ms, learner.is_settled) == (T0_MS + 300, False)
    learner.close_tick(T0_MS + 800)
    assert learner.trained_through_ms == T0_MS + 300
    learner.close_tick(T0_MS + 1400)
    assert (learner.trained_through_ms, learner.is_settled) == (T0_MS + 1400, True)


def test_an_entry_beyond_the_span_finds_the_batch_learned() -> None:
    learner = OnlineLearner(SCHEMA, replace(CONFIG, batch_span_s=1.0))
    for entry in log([click("u", "a", T0_MS), click("u", "b", T0_MS + 999), click("u", "c", T0_MS + 1000)]):
        learner.read(entry)
    assert learner.n_examples == 2 and not learner.is_settled


def test_half_a_batch_is_not_committed() -> None:
    learner = OnlineLearner(SCHEMA, CONFIG)
    learner.read(ENTRIES[0])
    with pytest.raises(RuntimeError, match="pending"):
        learner.snapshot()


def test_a_foreign_snapshot_is_refused(straight: OnlineLearner) -> None:
    snapshot = straight.snapshot(1)
    with pytest.raises(ForeignSnapshot, match="schema"):
        OnlineLearner(Schema(), CONFIG).restore(snapshot)
    with pytest.raises(ForeignSnapshot, match="learner's full snapshot"):
        OnlineLearner(SCHEMA, CONFIG).restore(public(snapshot))
    other = replace(CONFIG, model=replace(CONFIG.model, n_hidden=24))
    with pytest.raises(ForeignSnapshot, match="n_hidden=24"):
        OnlineLearner(SCHEMA, other).restore(snapshot)


def test_the_untrained_loss_is_log_of_the_slate() -> None:
    learner = OnlineLearner(SCHEMA, replace(CONFIG, batch_size=200, batch_span_s=1e4))
    slates = []
    for entry in log(stream(200)):
        learner.read(entry)
    assert learner.last_step is not None
    slates.append(learner.last_step.loss)
    assert math.log(8) < slates[0] <= math.log(1 + CONFIG.sampling.n_negatives)


def test_a_batch_that_is_not_finite_teaches_nothing_and_is_counted() -> None:
    learner = learned(ENTRIES[:200])
    before = snapshots.pack(learner.snapshot())
    scores = learner.model.score(inputs_of(learner))
    learner.table.value[:] = np.nan
    learned(ENTRIES[200:240], learner)
    assert learner.n_skipped == 2 and learner.last_step is not None and learner.last_step.is_skipped
    assert bool(torch.isfinite(learner.model.flat).all())
    assert snapshots.unpack(before).weights.tobytes() == learner.model.flat.numpy().tobytes()
    assert np.isfinite(scores).all()


def test_the_largest_allowed_values_poison_nothing() -> None:
    events = [click(e.user, e.item, e.ts_ms, value=1e12) for e in stream(200)]
    last_ms = events[0].ts_ms - 1
    prices = [item_entry(f"i{n}", last_ms, price=1e12 if n % 2 else -1e12) for n in range(40)]
    learner = learned(prices + log(events))
    assert np.isfinite(learner.model.score(inputs_of(learner))).all()
    assert all(math.isfinite(value) for value in learner.metrics.values())


def test_an_entry_that_cannot_be_read_is_passed_over(straight: OnlineLearner, caplog: pytest.LogCaptureFixture) -> None:
    bad = ENTRIES[400]._replace(state=b"\x01nonsense")
    garbled = ENTRIES[401]._replace(body=b"\xc1")
    learner = learned([*ENTRIES[:400], bad, garbled, *ENTRIES[402:]])
    assert learner.n_events == len(ENTRIES) - 2
    assert learner.positions == straight.positions
    assert "passed over" in caplog.text


QUICK = replace(CONFIG, batch_size=8)


def turned() -> list[Entry]:
    """In the second half who clicked 2k goes on to 2k + 21: as popular an item as ever, but another."""
    events = stream(3600)
    before, after = events[:1800], events[1800:]
    odd = {f"i{n}": f"i{(n + 20) % 40}" for n in range(1, 40, 2)}
    return log([*before, *(msgspec.structs.replace(event, item=odd.get(event.item, event.item)) for event in after)])


def test_after_a_drift_the_mean_that_serves_begins_anew() -> None:
    """The step after it takes it four fifths of the way to what is trained; one without a drift, a fortieth."""

    def share(entries: list[Entry], n_drifts: int) -> float:
        learner, following = OnlineLearner(SCHEMA, QUICK), iter(entries)
        for entry in following:
            learner.read(entry)
            if learner.metrics["drifts"] == n_drifts and learner._adam.n_steps > 150:
                break
        before, n_steps = learner.model.flat.clone(), learner._adam.n_steps
        for entry in following:
            learner.read(entry)
            if learner._adam.n_steps > n_steps:
                break
        moved = (learner.model.flat - before).double() @ (learner._trained.flat - before).double()
        return float(moved / (learner._trained.flat - before).double().square().sum())

    assert share(turned(), 1) == pytest.approx(0.8, abs=1e-3)
    assert share(turned()[:1800], 0) == pytest.approx(4 / 154, abs=5e-3)


def test_a_pattern_that_turns_is_one_drift_and_a_learner_restored_at_any_time_tells_the_same() -> None:
    entries = turned()
    change_ms = entries[1800].id.ms
    learner, taken = OnlineLearner(SCHEMA, QUICK), {}
    for number, entry in enumerate(entries):
        learner.read(entry)
        if learner.is_settled and number // 1200 not in taken:
            taken[number // 1200] = number, snapshots.pack(learner.snapshot(4))
    learner.close_tick(entries[-1].id.ms + 3_600_000)
    metrics = learner.metrics
    assert metrics["drifts"] == 1.0
    assert change_ms < metrics["drifted_ms"] < change_ms + 300_000
    assert len(taken) == 3
    for number, packed in taken.values():
        restored = OnlineLearner(SCHEMA, QUICK)
        restored.restore(snapshots.unpack(packed))
        assert same(learned(entries[number + 1 :], restored).snapshot(), learner.snapshot())
        assert restored.metrics == metrics


def test_a_planted_pattern_is_learned_better_than_popularity() -> None:
    learner = learned(log(stream(3000, n_items=40)))
    metrics = learner.metrics
    assert metrics["logloss"] < metrics["popularity_logloss"]
    assert metrics["mrr"] > 1.5 * metrics["popularity_mrr"]
    assert learner.n_skipped == 0
