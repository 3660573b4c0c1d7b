"""What is learned without a source is what would have been learned had it never sent anything, to the bit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.backfill.leaving_out import Choice
from features.backfill.planning import Plan, plan_of
from features.encoding import Encoder
from features.events import EVENT, QUARANTINED, Entry
from features.log_files import LogFiles
from learners.evaluation import one_thread
from learners.training import _learned
from learners.warm_start import WarmStart
from tests.features.backfill.worlds import Act, World, acts
from tests.learners.examples import CONFIG, KEYS, SCHEMA

ITEMS = [f"i{n}" for n in range(12)]
ACTS = acts(ITEMS, SCHEMA.event_types)
CHOICES = st.sampled_from(
    [Choice(without=("bad",)), Choice(counted=("bad", "good")), Choice(without=("bad",), counted=("worse",))]
)
SKIPPED = np.zeros(0, dtype=np.int64)


def plan_for(folder: Path, entries: list[Entry], choice: Choice) -> Plan:
    files = LogFiles(str(folder / "archive"))
    for partition in range(KEYS.n_partitions):
        log = [entry for entry in entries if entry.partition == partition]
        if log:
            files.write(log, log[0].id._replace(ms=log[0].id.ms - 1), SCHEMA)
    return plan_of([files.url], SCHEMA, KEYS.n_partitions, str(folder / "work"), choice=choice)


def logged(some: list[Act], choice: Choice | None = None) -> list[Entry]:
    return World(SCHEMA, KEYS, choice).live(some, len(Encoder(SCHEMA).dense_names)).entries


def weights(plan: Plan, stops: tuple[int, ...] = ()) -> tuple[bytes, dict[str, bytes]]:
    """What is learned, and the item rows that the learner has; interrupted after so many entries."""
    saved = WarmStart(SCHEMA, CONFIG, KEYS).save()
    with one_thread():
        for stop in stops:
            warm = WarmStart(SCHEMA, CONFIG, KEYS)
            warm.resume(saved)
            for _ in _learned(warm, plan, [], [], SKIPPED):
                if warm.is_settled:
                    saved = warm.save()
                if warm.n_taken >= stop:
                    break
        warm = WarmStart(SCHEMA, CONFIG, KEYS)
        warm.resume(saved)
        for _ in _learned(warm, plan, [], [], SKIPPED):
            pass
        delta = warm.finish(1, plan.cut)
    assert delta.private is not None
    return delta.weights.tobytes(), delta.private.items


def anchored(some: list[Act]) -> list[Act]:
    """With something to learn from that stays."""
    return [*(Act(EVENT, f"u{n % 3}", ITEMS[n % 5], source="ours") for n in range(40)), *some]


@given(ACTS, CHOICES)
@settings(max_examples=15)
def test_weights_are_those_of_the_log_that_would_have_been(
    tmp_path_factory: pytest.TempPathFactory, some: list[Act], choice: Choice
) -> None:
    some, folder = anchored(some), tmp_path_factory.mktemp("learned")
    one = plan_for(folder / "one", logged(some), choice)
    other = plan_for(folder / "other", logged(some, choice), Choice())
    assert weights(one) == weights(other)


@pytest.mark.parametrize("choice", [Choice(without=("bad",)), Choice(counted=("worse",))])
def test_whoever_is_interrupted_learns_the_same(tmp_path: Path, choice: Choice) -> None:
    rng = np.random.default_rng(4)
    some = [
        Act(
            QUARANTINED if source == "worse" else EVENT,
            f"u{rng.integers(9)}",
            str(rng.choice(ITEMS)),
            source=source,
        )
        for source in rng.choice(["ours", "bad", "worse"], 300).tolist()
    ]
    plan = plan_for(tmp_path, logged(some), choice)
    assert weights(plan, (60, 130, 180)) == weights(plan)
