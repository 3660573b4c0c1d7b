"""What breaks first: of everything there is one of, and of every table with an end, how much is asked of it.

A limit is a share of something, computed from a `Plan`: above 1 it is broken. It says which figure of the load drives
it; with the others kept, `breaks_at` is where that share reaches 1. Events go along with ranks.

Replicas, nodes and learners are counted by the plan; a limit is what more machines do not mend by themselves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from benchmarks.planning import LEARNER, N_PARTITIONS, WHOLE_EVERY_S, Plan
from learners.checkpoints import N_KEPT

Field = Literal["ranks_per_s", "users", "items"]
MAX_REPLICAS: Final = 1024  # `Config.n_rankers`
LEAST: Final = 1.0
MOST: Final = 1e13  # a breaking point is looked for between these


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that there is only so much of."""

    name: str
    driven_by: Field
    share: Callable[[Plan], float]
    """Of what there is, by what is asked; more is never less."""
    arithmetic: Callable[[Plan], str]
    """What the share is made of, in figures."""
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A limit under a load."""

    limit: Limit
    asked: float
    breaks_at: float
    arithmetic: str
    """At the breaking point, or at what is asked if that is less."""

    @property
    def times(self) -> float:
        """How many times what it can bear is asked."""
        return self.asked / self.breaks_at


def findings(plan: Plan) -> list[Finding]:
    """Every limit under a load, what breaks first to begin with."""
    found = []
    for limit in LIMITS:
        asked, most = getattr(plan.load, limit.driven_by), breaks_at(limit, plan)
        found.append(Finding(limit, asked, most, limit.arithmetic(_with(plan, limit.driven_by, min(asked, most)))))
    return sorted(found, key=lambda finding: finding.times, reverse=True)


def breaks_at(limit: Limit, plan: Plan) -> float:
    """The figure at which a limit's share is 1, the rest of the load as it is; by bisection of its logarithm."""

    def is_broken(figure: float) -> bool:
        return limit.share(_with(plan, limit.driven_by, figure)) >= 1.0

    low, high = LEAST, MOST
    if is_broken(low):
        return low
    if not is_broken(high):
        return math.inf
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_broken(middle) else (middle, high)
    return low


def figure(number: float) -> str:
    """Three digits, in words if there is no end to it."""
    if math.isinf(number):
        return "without end"
    return f"{number:.3g}" if number < 1000 else f"{round(number, 2 - math.floor(math.log10(number))):,.0f}"


def _with(plan: Plan, field: Field, value: float) -> Plan:
    changes: dict[str, Any] = {field: value}
    return Plan(replace(plan.load, **changes), plan.machines, plan.costs)


def _gb(n_bytes: float) -> str:
    return f"{figure(n_bytes / 1e9)} GB"


def _parts(parts: dict[str, float], scale: float, unit: str) -> str:
    """The three largest parts and their sum."""
    largest = sorted(parts.items(), key=lambda part: part[1], reverse=True)[:3]
    told = " + ".join(f"{name} {figure(value * scale)}" for name, value in largest)
    return f"{told} + … = {figure(sum(parts.values()) * scale)} {unit}"


LIMITS: Final = (
    Limit(
        "a single store server: processor",
        "ranks_per_s",
        lambda plan: sum(_without(plan.store_busy, "versions").values()),
        lambda plan: _parts(_without(plan.store_busy, "versions"), 1.0, "cores of one"),
        "a Redis Cluster",
    ),
    Limit(
        "a single store server: people",
        "users",
        lambda plan: plan.store_bytes["people"] / plan.machines.store_bytes,
        lambda plan: f"{plan.sizes.state + plan.costs.person_bytes:,.0f} B each: {_gb(plan.store_bytes['people'])}",
        "a Redis Cluster; an end for people who are not seen for long, which there is none of",
    ),
    Limit(
        "a single store server: log and ids",
        "ranks_per_s",
        lambda plan: (
            sum(_without(plan.store_bytes, "people", "items", "versions").values()) / plan.machines.store_bytes
        ),
        lambda plan: _parts(_without(plan.store_bytes, "people", "items", "versions"), 1e-9, "GB"),
        "a Redis Cluster; `log_max_bytes` and an `archive`; a shorter `keep_log_s`; less in a decision",
    ),
    Limit(
        "a single store server: versions",
        "items",
        lambda plan: N_KEPT * plan.whole_bytes / plan.machines.store_bytes,
        lambda plan: f"{N_KEPT} whole ones of {_gb(plan.whole_bytes)}, beside what each second adds to them",
        "`folder`: a bucket, or a folder that all nodes share; fewer `keep_versions`",
    ),
    Limit(
        "store partitions",
        "ranks_per_s",
        lambda plan: plan.n_servers / N_PARTITIONS,
        lambda plan: f"{figure(plan.n_servers)} servers, {N_PARTITIONS} partitions of people by default, 4,096 at most",
        "more partitions when the store is created; every read of the log names all of them",
    ),
    Limit(
        "item rows written, told to every replica",
        "ranks_per_s",
        lambda plan: plan.standing_busy / plan.costs.calm_ratio,
        lambda plan: (
            f"{plan.rows_written_per_s:,.0f} rows/s x {1e6 * plan.costs.hear_row_s:.1f} us + "
            f"{plan.versions_bytes_per_s / 1e6:,.0f} MB/s of versions = {plan.standing_busy:.2g} of "
            f"{plan.costs.calm_ratio:.2g} cores of each"
        ),
        "replicas for a part of the people each, or tracking of what a replica holds; smaller versions",
    ),
    Limit(
        "replicas by configuration",
        "ranks_per_s",
        lambda plan: plan.n_replicas / MAX_REPLICAS,
        lambda plan: f"{figure(plan.n_replicas)} of {MAX_REPLICAS} at {figure(plan.ranks_per_replica)} ranks/s each",
        "several clusters side by side, each with replicas of its own",
    ),
    Limit(
        "one projector: processor",
        "ranks_per_s",
        lambda plan: plan.projector_busy,
        lambda plan: f"{plan.projector_busy:.2g} cores of one, {plan.rows_written_per_s:,.0f} rows written a second",
        "a projector for a part of the item partitions each; commits are by item partition already",
    ),
    Limit(
        "every learner reads and folds the whole log",
        "ranks_per_s",
        lambda plan: plan.learner_standing_busy / plan.machines.learner_busy,
        lambda plan: (
            f"{plan.learner_standing_busy:.2g} of {plan.machines.learner_busy:.2g} cores before anything is learned, "
            f"{figure(plan.learning_busy)} cores of learning to divide"
        ),
        "item rows from the projector instead of folds; logs cut by learner",
    ),
    Limit(
        "learners by configuration",
        "ranks_per_s",
        lambda plan: plan.n_learners / N_PARTITIONS,
        lambda plan: f"{figure(plan.n_learners)} learners, {N_PARTITIONS} partitions to divide",
        "more partitions when the store is created",
    ),
    Limit(
        "one hub: versions",
        "ranks_per_s",
        lambda plan: plan.offered_bytes_per_s * plan.costs.hub_byte_s,
        lambda plan: (
            f"{figure(plan.offered_bytes_per_s / 1e6)} MB are offered a second and take "
            f"{figure(plan.offered_bytes_per_s * plan.costs.hub_byte_s)} s"
        ),
        "item rows out of versions; a version every few seconds (`offer_s`)",
    ),
    Limit(
        "one hub: all it knows, written every minute",
        "items",
        lambda plan: plan.whole_bytes / WHOLE_EVERY_S * plan.costs.hub_byte_s,
        lambda plan: f"{_gb(plan.whole_bytes)}, which take it {figure(plan.whole_bytes * plan.costs.hub_byte_s)} s",
        "full snapshots written by somebody else, in parts",
    ),
    Limit(
        "item rows in projector, hub, judge and each learner",
        "items",
        lambda plan: plan.learning_node_bytes / (plan.machines.node_bytes * plan.machines.memory_ratio),
        lambda plan: (
            f"{_gb(plan.item_table_bytes)} of rows in projector, judge and learner, {_gb(plan.whole_bytes)} in the "
            f"hub, embeddings: {_gb(plan.learning_node_bytes)} on one node"
        ),
        "larger learning nodes; a cap and expiry for item rows, as embedding rows have",
    ),
    Limit(
        "embedding rows",
        "items",
        lambda plan: plan.load.items / LEARNER.table.max_rows,
        lambda plan: (
            f"{figure(plan.load.items)} items, {LEARNER.table.max_rows:,} rows; whoever has none shares the fallback"
        ),
        "`[learner.table] max_rows`: memory of every learner and of every replica",
    ),
    Limit(
        "versions from the hub's node",
        "ranks_per_s",
        lambda plan: plan.weights_bytes_per_s / plan.machines.network_bytes_per_s,
        lambda plan: f"{plan.versions_bytes_per_s / 1e6:,.0f} MB to {figure(plan.n_nodes)} nodes a second",
        "nodes that pass versions on; a version every few seconds",
    ),
    Limit(
        "rewards that come late",
        "ranks_per_s",
        lambda plan: plan.open_decision_bytes / (LEARNER.join.max_bytes * min(plan.n_learners, N_PARTITIONS)),
        lambda plan: (
            f"{_gb(plan.open_decision_bytes)} of decisions in {LEARNER.join.attribution_s / 60:.0f} minutes, "
            f"{_gb(LEARNER.join.max_bytes)} a learner by default; beyond it the oldest count without what comes later"
        ),
        "`[learner.join] max_bytes`, or a shorter `attribution_s`",
    ),
)


def _without(parts: dict[str, float], *others: str) -> dict[str, float]:
    """Parts but for those that another limit is about."""
    return {name: value for name, value in parts.items() if name not in others}
