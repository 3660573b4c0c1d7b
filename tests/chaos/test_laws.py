"""What decides about the faults is right without any: the plan, who is excused, and what differs."""

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from learners.snapshots import Delta
from tests.chaos import laws
from tests.chaos.faults import KINDS, RISKIEST, VICTIMS, Fault, Incident, Kind, Victim, plan
from tests.chaos.load import Answer
from tests.learners.comparing import differences
from tests.learners.examples import CONFIG, SCHEMA, learned, log, shown, stream


def incident(victim: Victim, struck_s: float, ended_s: float) -> Incident:
    return Incident(Fault(Kind(victim, "stop"), 1.0, is_killed=False, which=0), struck_s, ended_s, ended_s + 1.0)


def rank(sent_s: float, at_s: float, outcome: int | str = 503) -> Answer:
    return Answer(sent_s, at_s, outcome)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_of_fault_comes_up_twice_and_stops_end_both_ways(seed: int) -> None:
    faults = plan(seed, 30)
    counts = Counter(fault.kind for fault in faults)
    assert len(faults) == 30 and set(counts) == set(KINDS) and set(counts.values()) <= {2, 3}
    for victim in VICTIMS:
        assert {fault.is_killed for fault in faults if fault.kind == (victim, "stop")} == {False, True}


def test_a_seed_plans_the_same_again_and_another_one_something_else() -> None:
    assert plan(3, 30) == plan(3, 30) != plan(4, 30)
    assert {fault.kind for fault in plan(3, 6, RISKIEST)} == set(RISKIEST)


@pytest.mark.parametrize(
    ("failed", "is_excused"),
    [
        (rank(9.0, 9.9), False),  # before
        (rank(9.0, 10.1), True),  # under way when the replica was stopped
        (rank(12.9, 30.0), True),  # sent within three seconds
        (rank(13.1, 13.9), False),  # later, and it still stands
        (rank(13.1, 14.1), True),  # under way when it ended
        (rank(17.1, 17.2), False),
    ],
)
def test_who_is_excused_was_under_way_when_a_ranker_was_struck_or_was_sent_soon_after(
    failed: Answer, is_excused: bool
) -> None:
    left = [] if is_excused else [failed]
    assert laws.unexcused([failed, rank(1.0, 2.0, 200)], [incident("ranker", 10.0, 14.0)]) == left
    assert laws.unexcused([failed], [incident("events", 10.0, 14.0)]) == [failed]


def versions() -> tuple[Delta, Delta]:
    """Two that are equal, and share nothing."""
    one, other = (learned([*log(stream(200)), *shown(60)]).snapshot(1) for _ in range(2))
    return one, other


def change_weight(full: Delta) -> None:
    full.weights[7] = np.nextafter(full.weights[7], np.float32(np.inf))


def change_row(full: Delta) -> None:
    full.tables["item"].values[3, 1] *= -1.0


def change_met(full: Delta) -> None:
    assert full.private is not None
    full.private.met[0] = float(np.nextafter(full.private.met[0], np.inf))


def change_item(full: Delta) -> None:
    assert full.private is not None
    name, packed = next(iter(full.private.items.items()))
    full.private.items[name] = packed[:-1] + bytes([packed[-1] ^ 1])


@pytest.mark.parametrize("change", [change_weight, change_row, change_met, change_item])
def test_one_bit_of_a_version_is_a_difference(change: Any) -> None:
    one, other = versions()
    assert differences(one, other) == []
    change(other)
    assert len(differences(one, other)) == 1


def test_who_reads_a_log_again_makes_the_same_version_of_it_as_far_as_it_goes() -> None:
    entries = log(stream(300))
    learner = learned(entries[:200])
    full = learner.snapshot(4)
    assert differences(full, laws.reread(entries, full, SCHEMA, CONFIG)) == []
    shorter = msgspec.structs.replace(full.progress, positions={}, trained_through_ms=0)
    assert differences(full, laws.reread(entries, msgspec.structs.replace(full, progress=shorter), SCHEMA, CONFIG))


def test_versions_may_be_held_but_not_gone_back_from() -> None:
    lines = [{"what": what} for what in ("published", "held", "went back", "rolled back")]
    assert laws.went_astray(lines) == lines[2:]
