"""A log without a source is the log of somebody to whom that source never sent anything."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.backfill.leaving_out import ALL, N_MOMENTS, Choice, Retelling
from features.backfill.pieces import Folder
from features.backfill.planning import plan_of
from features.backfill.stages import check_unit
from features.events import DECISION, ERASURE, EVENT, ITEM, QUARANTINED, USER, Entry
from tests.features.backfill.streams import SCHEMA, table_of
from tests.features.backfill.test_archived import archived, rows_of, run
from tests.features.backfill.worlds import Act, World, acts
from tests.features.examples import KEYS, OTHER_SCHEMA, T0_MS

ACTS = acts(["a", "b", "c"], SCHEMA.event_types)
CHOICES = st.sampled_from(
    [
        Choice(without=("bad",)),
        Choice(without=("bad", "worse")),
        Choice(counted=("bad",)),
        Choice(without=("bad",), counted=("worse", "good")),
    ]
)


def told(entries: list[Entry], choice: Choice) -> list[Entry]:
    """What entries become, but for those that change nothing."""
    return [entry for entry in Retelling(choice, SCHEMA).tell(entries) if entry.kind != QUARANTINED]


def logged(some: list[Act], choice: Choice | None = None) -> list[Entry]:
    return World(SCHEMA, KEYS, choice).live(some).entries


@given(ACTS, CHOICES)
@settings(max_examples=300)
def test_entries_are_those_that_would_have_been_logged(some: list[Act], choice: Choice) -> None:
    """Events, attributes, erasures, and decisions that are logged late: each with the state it would have had."""
    assert told(logged(some), choice) == logged(some, choice)


@given(ACTS)
def test_with_every_source_nothing_is_touched(some: list[Act]) -> None:
    entries = logged(some)
    assert all(one is other for one, other in zip(Retelling(ALL, SCHEMA).tell(entries), entries, strict=True))


@given(ACTS)
def test_entries_of_those_who_are_not_touched_stay_the_same_objects(some: list[Act]) -> None:
    entries, touched = logged(some), {act.user for act in some if act.source == "bad" and act.kind == EVENT}
    others = [e for act, e in zip(some, entries, strict=False) if act.kind == EVENT and act.user not in touched]
    kept = {id(entry) for entry in Retelling(Choice(without=("bad",)), SCHEMA).tell(entries)}
    if all(act.kind != DECISION for act in some):
        assert all(id(entry) in kept for entry in others)


@given(ACTS, CHOICES, st.integers(1, 9))
@settings(max_examples=40)
def test_states_and_rows_are_those_that_would_have_been(
    tmp_path_factory: pytest.TempPathFactory, some: list[Act], choice: Choice, n: int
) -> None:
    folder, world = tmp_path_factory.mktemp("world"), World(SCHEMA, KEYS, choice).live([Act(ITEM, "u1", "a"), *some])
    url = archived(folder, logged([Act(ITEM, "u1", "a"), *some]), n)
    plan = plan_of([url], SCHEMA, KEYS.n_partitions, str(folder / "work"), choice=choice)
    states, rows = run(plan)
    assert {user: state for user, state in states.items() if state} == {
        user: state for user, state in world.states.items() if state
    }
    assert rows == rows_of(world.entries)


def test_what_is_left_out_and_counted_in_is_counted_by_source(tmp_path: Path) -> None:
    some = [Act(EVENT, "u1", source=s) for s in ("bad", "good", "bad", None)]
    some += [Act(QUARANTINED, "u1", source=s) for s in ("worse", "good", "good")]
    choice = Choice(without=("bad",), counted=("good",))
    plan = plan_of([archived(tmp_path, logged(some), 50)], SCHEMA, 4, str(tmp_path / "work"), choice=choice)
    report = check_unit(plan, 0)
    assert (report.left_out, report.counted_in, report.n_rows) == ({"bad": 2}, {"good": 2}, 4)


def test_rows_of_files_are_left_out_and_their_users_noted(tmp_path: Path) -> None:
    rows = [
        {"ts_ms": T0_MS + n, "type": "click", "user": f"u{n % 3}", "item": "a"}
        | dict.fromkeys(["id", "value", "device", "size"])
        for n in range(9)
    ]
    sources = ["bad" if n % 3 == 1 else None if n % 2 else "good" for n in range(9)]
    pq.write_table(table_of(rows).append_column("source", pa.array(sources)), tmp_path / "events.parquet")
    kept = [row for row, source in zip(rows, sources, strict=True) if source != "bad"]
    pq.write_table(table_of(kept), tmp_path / "kept.parquet")
    choice = Choice(without=("bad",))
    plan = plan_of([str(tmp_path / "events.parquet")], SCHEMA, 4, str(tmp_path / "one"), choice=choice)
    other = plan_of([str(tmp_path / "kept.parquet")], SCHEMA, 4, str(tmp_path / "other"))
    assert run(plan) == run(other)
    report = check_unit(plan, 0)
    assert report.left_out == {"bad": 3}
    (users,) = Folder(plan.folder).read_column(report.touched[0], "user")
    assert users.to_pylist() == ["u1"]


def test_a_choice_is_a_part_of_the_plans_name(tmp_path: Path) -> None:
    url = archived(tmp_path, logged([Act(EVENT, "u1")]), 5)
    names = {
        plan_of([url], SCHEMA, 4, "", choice=choice).name
        for choice in (ALL, Choice(without=("a",)), Choice(counted=("a",)))
    }
    assert len(names) == 3


def test_the_cut_stays_where_it_was_planned_while_the_archive_grows(tmp_path: Path) -> None:
    some = [Act(EVENT, "u1", source="good") for _ in range(6)]
    entries = logged(some)
    plan = plan_of([archived(tmp_path, entries[:3], 50)], SCHEMA, KEYS.n_partitions, "")
    archived(tmp_path, entries, 50)
    assert plan.cut == {entries[0].partition: entries[2].id}


def test_whoever_was_touched_before_the_log_has_other_states_from_its_beginning() -> None:
    entries = logged([Act(EVENT, "u1"), Act(EVENT, "u2"), Act(EVENT, "u1")])
    known = entries[2].state
    retelling = Retelling(Choice(without=("bad",)), SCHEMA, lambda user: known if user == "u1" else b"")
    retelling.touch(["u1"])
    first, other, _ = retelling.tell(entries)
    assert (first.state, other) == (known, entries[1])


def test_a_decision_that_was_made_before_the_first_touch_stays_as_it_is() -> None:
    some = [Act(EVENT, "u1"), Act(DECISION, "u1", delay=3), Act(EVENT, "u1"), Act(EVENT, "u1", source="bad")]
    some += [Act(EVENT, "u2")]
    choice = Choice(without=("bad",))
    assert told(logged(some), choice) == logged(some, choice)


def test_a_decision_without_a_state_stays_without() -> None:
    some = [Act(EVENT, "u1", source="bad"), Act(EVENT, "u1"), Act(EVENT, "u1"), Act(DECISION, "u1")]
    some[:0] = [Act(EVENT, "u1")]
    entries = logged(some)
    entries[-1] = entries[-1]._replace(state=b"")
    assert told(entries, Choice(without=("bad",)))[-1] == entries[-1]


def test_a_decision_that_is_logged_much_later_has_the_oldest_state_that_is_kept() -> None:
    n = N_MOMENTS + 5
    some = [Act(EVENT, "u1", source="bad"), Act(EVENT, "u1"), Act(DECISION, "u1", delay=n)]
    some += [Act(EVENT, "u1")] * n
    choice = Choice(without=("bad",))
    states = [entry.state for entry in logged(some, choice) if entry.kind == EVENT]
    (decision,) = [entry for entry in told(logged(some), choice) if entry.kind == DECISION]
    assert decision.state in states and decision.state != states[-1]


def test_what_cannot_be_read_stays_as_it_is() -> None:
    entries = logged([Act(EVENT, "u1", source="bad"), Act(USER, "u1"), Act(ERASURE, "u1")])
    spoilt = [entry._replace(body=b"\xc1") for entry in entries]
    assert list(Retelling(Choice(without=("bad",)), SCHEMA).tell(spoilt)) == spoilt


def test_a_state_of_another_schema_stays_as_it_is() -> None:
    other = World(OTHER_SCHEMA, KEYS).live([Act(EVENT, "u1", source="bad"), Act(EVENT, "u1")]).entries[1].state
    entries = [e._replace(state=other) for e in logged([Act(EVENT, "u1", source="bad"), Act(EVENT, "u1")])]
    assert told(entries, Choice(without=("bad",))) == entries[1:]
