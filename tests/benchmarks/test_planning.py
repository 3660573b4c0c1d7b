"""The arithmetic of a plan: closed forms, what was seen on one machine, and what more of anything does."""

import math
from dataclasses import replace

import pytest

from benchmarks.planning import Load, Machines, Plan
from benchmarks.unit_costs import UnitCosts

SMALL = Load(ranks_per_s=1_000, users=1e6, items=1e5)
SEEN = Load(ranks_per_s=900, users=2_000, items=5_000, events_per_rank=1_000 / 900)
"""Of `bench_tail events`: what each process took is in LOG.md, "bursts of others"."""


def test_a_replica_answers_what_was_measured_when_no_row_changes():
    """980 ranks/s with p99 below 6 ms, all rows in the cache."""
    assert Plan(replace(SEEN, events_per_rank=0.0)).ranks_per_replica == pytest.approx(980, rel=0.02)


def test_candidates_cost_what_was_measured():
    """Saturated by 3,704, 2,420 and 754 ranks/s with 10, 100 and 500 candidates."""
    for n_candidates, measured in ((10, 3_704), (100, 2_420), (500, 754)):
        plan = Plan(replace(SEEN, events_per_rank=0.0, n_candidates=n_candidates))
        assert plan.ranks_per_replica / plan.costs.calm_ratio == pytest.approx(measured, rel=0.15)


def test_the_store_is_as_busy_as_it_was_seen():
    """19 % of a core; its lone questions were dearer than the many that are planned for."""
    assert sum(Plan(SEEN).store_busy.values()) == pytest.approx(0.19, rel=0.3)


def test_a_learner_is_as_busy_as_it_was_seen():
    """33 % of a core; decisions are reckoned by their candidates."""
    plan = Plan(SEEN)
    assert plan.learning_busy + plan.learner_standing_busy == pytest.approx(0.33, rel=0.3)


def test_the_projector_is_reckoned_at_its_best():
    """It was seen to take 20 % of a core, in small flushes; unit costs say so where they are written down."""
    assert 0.05 < Plan(SEEN).projector_busy < 0.20


def test_versions_are_as_large_as_they_were_seen():
    """0.57 MB to replicas, 3 MB to the hub, of rows that were not full and a third of a second of negatives.

    That was with rows as float32, and one version a second.
    """
    plan = Plan(SEEN)
    assert plan.versions_bytes_per_s == pytest.approx(0.57e6, rel=0.5)
    assert plan.offered_bytes_per_s - 4 * plan.sizes.weights == pytest.approx(3e6, rel=0.75)


def test_without_events_nothing_is_written_told_or_read_again():
    plan = Plan(replace(SEEN, events_per_rank=0.0))
    assert plan.rows_written_per_s == plan.rows_reread_per_s == 0.0
    assert plan.store_busy["replicas told"] == plan.store_busy["rows written"] == 0.0


def test_learners_divide_what_can_be_divided():
    """N learners are enough, and N - 1 are not: shares of the learning beside what each does anyway."""
    plan = Plan(replace(SMALL, ranks_per_s=20_000))

    def busy(n: float) -> float:
        return plan.learning_busy / n + plan.learner_standing_busy

    assert plan.n_learners > 2
    assert busy(plan.n_learners) <= plan.machines.learner_busy < busy(plan.n_learners - 1)


def test_where_reading_the_log_takes_all_no_number_of_learners_is_enough():
    assert Plan(replace(SMALL, ranks_per_s=100_000)).n_learners == math.inf


def test_learners_share_nodes_by_cores_and_by_memory():
    """Three on four cores, the judge beside them; of a large catalogue each holds every row, and so do projector and
    hub."""
    plan = Plan(replace(SMALL, ranks_per_s=15_000))
    assert plan.n_learning_nodes == math.ceil((plan.n_learners + 1) / 3)
    large = Plan(replace(SMALL, ranks_per_s=15_000, items=3e6))
    room = 0.8 * 32 * 2.0**30 - large.item_table_bytes - large.whole_bytes
    assert 2 * large.judge_bytes > room > large.judge_bytes
    assert large.n_learning_nodes == large.n_learners + 1


def test_a_catalogue_beyond_the_cache_is_read_again_and_again():
    within, beyond = (Plan(replace(SMALL, events_per_rank=0.0, items=items)) for items in (199_999, 1e6))
    assert within.rows_read_per_s(500) == 0.0
    assert beyond.rows_read_per_s(500) > 100


def test_a_node_has_a_core_for_each_replica_and_one_for_the_rest():
    assert Plan(SEEN, Machines(node_cores=8)).replicas_per_node == 6
    assert Plan(SEEN, Machines(node_cores=2)).replicas_per_node == 1


def test_replicas_are_no_more_than_haproxy_carries():
    """0.11 ms a rank and 0.7 of a thread: 6,400 ranks/s for every eight cores."""
    plans = [Plan(SEEN, Machines(node_cores=cores)) for cores in (8, 15, 16)]
    assert [plan.replicas_per_node for plan in plans] == [6, 6, 13]


def test_memory_bounds_the_replicas_of_a_node():
    plan = Plan(replace(SMALL, items=1e7), Machines(node_bytes=24 * 2.0**30))
    assert plan.replica_bytes > 1e7 * plan.costs.table_row_bytes
    assert plan.replicas_per_node == math.floor(0.8 * 24 * 2.0**30 / plan.replica_bytes) < 7
    assert Plan(replace(SMALL, items=1e7), Machines(node_bytes=2 * 2.0**30)).n_nodes == math.inf


def test_people_take_a_state_and_a_key_each():
    plan = Plan(SMALL)
    assert plan.store_bytes["people"] == 1e6 * (plan.sizes.state + 120)


def test_the_log_takes_as_long_as_it_is_kept():
    kept = [Plan(replace(SMALL, keep_log_s=seconds)).store_bytes for seconds in (1800.0, 3600.0)]
    assert kept[1]["decisions in the log"] == 2 * kept[0]["decisions in the log"]
    assert kept[1]["people"] == kept[0]["people"]


@pytest.mark.parametrize(
    "name", ["n_nodes", "n_learners", "n_servers", "projector_busy", "hub_busy", "offered_bytes_per_s"]
)
def test_more_ranks_never_take_less(name: str):
    needs = [getattr(Plan(replace(SMALL, ranks_per_s=rate)), name) for rate in (10, 1_000, 10_000, 1e5, 1e6)]
    assert needs == sorted(needs)


def test_other_unit_costs_make_another_plan():
    twice = Plan(SMALL, costs=replace(UnitCosts(), store_write_decision_s=60e-6))
    assert twice.store_busy["decisions"] == 2 * Plan(SMALL).store_busy["decisions"]
