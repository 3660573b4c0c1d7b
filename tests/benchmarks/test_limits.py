"""What breaks first: where a limit is met, in which order, and that limits are those of the code."""

import math
from dataclasses import replace

import pytest

from benchmarks.limits import LIMITS, MAX_REPLICAS, Limit, breaks_at, figure, findings
from benchmarks.planning import LEARNER, Load, Plan
from deployments.config import Config
from deployments.errors import ConfigError

SMALL = Load(ranks_per_s=100, users=1e5, items=1e4)
LARGE = Load(ranks_per_s=1e6, users=1e9, items=1e8)


def named(name: str) -> Limit:
    (limit,) = [limit for limit in LIMITS if limit.name == name]
    return limit


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_a_limit_is_met_where_it_is_said_to_be(limit: Limit):
    """Just below the figure the share is below one, just above it is not."""
    figure_there = breaks_at(limit, Plan(LARGE))
    below, above = (
        limit.share(Plan(replace(LARGE, **{limit.driven_by: factor * figure_there}))) for factor in (0.99, 1.01)
    )
    assert below < 1.0 <= above


def test_people_fill_a_server_at_a_number_that_one_can_work_out():
    plan = Plan(LARGE)
    each = plan.sizes.state + plan.costs.person_bytes
    assert breaks_at(named("a single store server: people"), plan) == pytest.approx(
        plan.machines.store_bytes / each, rel=2e-3
    )


def test_embedding_rows_end_where_the_table_does():
    assert breaks_at(named("embedding rows"), Plan(LARGE)) == pytest.approx(LEARNER.table.max_rows, rel=2e-3)


def test_what_is_asked_for_most_too_much_comes_first():
    found = findings(Plan(LARGE))
    assert [finding.times for finding in found] == sorted((finding.times for finding in found), reverse=True)
    assert len(found) == len(LIMITS)


def test_a_million_ranks_of_a_billion_people_break_every_limit():
    assert all(finding.times > 1.0 for finding in findings(Plan(LARGE)))


def test_a_small_shop_breaks_none_but_the_wait_for_late_rewards():
    assert [finding.limit.name for finding in findings(Plan(SMALL)) if finding.times > 1.0] == [
        "rewards that come late"
    ]


def test_the_arithmetic_is_that_of_the_breaking_point():
    """Where everything is asked too much, figures without end would explain nothing."""
    (store,) = [f for f in findings(Plan(LARGE)) if f.limit.name == "a single store server: processor"]
    assert "without end" not in store.arithmetic
    assert store.arithmetic.endswith(("= 0.999 cores of one", "= 1 cores of one"))


def test_a_limit_that_nothing_reaches_has_no_breaking_point():
    never = Limit("never", "users", lambda plan: 0.5, lambda plan: "", "")
    always = Limit("always", "users", lambda plan: 2.0, lambda plan: "", "")
    assert breaks_at(never, Plan(SMALL)) == math.inf
    assert breaks_at(always, Plan(SMALL)) == 1.0


def test_the_number_of_replicas_is_what_the_configuration_takes():
    assert Config(n_rankers=MAX_REPLICAS).n_rankers == MAX_REPLICAS
    with pytest.raises(ConfigError):
        Config(n_rankers=MAX_REPLICAS + 1)


def test_figures_have_three_digits():
    assert [figure(number) for number in (0.12345, 12.345, 999.0, 12_345.0, math.inf)] == [
        *("0.123", "12.3", "999", "12,300", "without end")
    ]
