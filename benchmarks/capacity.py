"""What a load takes, what it costs, and what breaks first: on paper.

    python -m benchmarks.capacity --ranks-per-s 1e6 --users 1e9 --items 1e8
    python -m benchmarks.capacity --ranks-per-s 5000 --users 1e6 --items 1e5 --node-price 0.46 --store-price 0.5

Arithmetic from measured unit costs (`benchmarks.unit_costs`) and from what the code does (`benchmarks.planning`,
`benchmarks.limits`). Nothing of it was seen at such a size: it says what to expect, and what to mend first.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmarks import machine
from benchmarks.limits import Finding, figure, findings
from benchmarks.planning import Load, Machines, Plan


def cost_per_million(price_per_h: float, ranks_per_s: float) -> float:
    """What a million ranks cost, of machines that cost so much an hour and are always busy.

    price / 3600 per second, over ranks / 10^6 per second
    """
    return price_per_h / 3600.0 / (ranks_per_s / 1e6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Of a machine, an hour, in any currency."""

    node: float = 0.0
    """That serves."""
    learning: float = 0.0
    """That learns."""
    store: float = 0.0
    head: float = 0.0


def price_per_h(plan: Plan, prices: Prices) -> float:
    """What all machines of a plan cost an hour."""
    serving = plan.n_nodes * prices.node + plan.n_servers * prices.store
    return serving + plan.n_learning_nodes * prices.learning + prices.head


def needs(plan: Plan) -> list[tuple[str, str, str]]:
    """What a load takes, as rows of a table: what, how much, from what."""
    costs = plan.costs
    by = ", ".join(f"{name} {figure(count)}" for name, count in plan.servers_by.items())
    rank_ms = 1e3 * (costs.rank_s + plan.load.n_candidates * costs.candidate_s)
    return [
        (
            "ranks a replica, a second",
            figure(plan.ranks_per_replica),
            f"{costs.calm_ratio} core less {plan.standing_busy:.2g} for written rows and versions, "
            f"at {rank_ms:.2g} ms a rank and what reading rows takes",
        ),
        ("item rows read, a second", figure(plan.rows_reread_per_s), "by all replicas, written or dropped since"),
        ("replicas", figure(plan.n_replicas), f"{plan.replica_bytes / 1e9:.3g} GB each"),
        (
            "serving nodes",
            figure(plan.n_nodes),
            f"{plan.replicas_per_node} replicas on {plan.machines.node_cores} cores beside HAProxy and Ray, "
            f"{plan.intake_cores:.2g} cores for events",
        ),
        (
            "learners",
            figure(plan.n_learners),
            f"{figure(plan.learning_busy)} cores to divide, {plan.learner_standing_busy:.2g} for each of them besides; "
            f"{plan.learner_bytes / 1e9:.3g} GB each",
        ),
        (
            "learning nodes",
            figure(plan.n_learning_nodes),
            f"{plan.machines.learning_cores} cores each, one of them for hub and projector",
        ),
        ("projector", f"{plan.projector_busy:.2g} cores", f"{plan.item_table_bytes / 1e9:.3g} GB; it is one process"),
        (
            "hub",
            f"{plan.hub_busy:.2g} cores",
            f"{figure(plan.offered_bytes_per_s / 1e6)} MB offered a second; one process",
        ),
        ("store servers", figure(plan.n_servers), f"by {by}; of a Redis Cluster, if more than one"),
        *((f"store memory: {name}", f"{figure(n_bytes / 1e9)} GB", "") for name, n_bytes in plan.store_bytes.items()),
        (
            "versions, from the hub's node",
            f"{figure(plan.weights_bytes_per_s / 1e6)} MB/s",
            f"{figure(plan.versions_bytes_per_s / 1e6)} MB once a node",
        ),
    ]


def told(found: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    """Findings as rows of a table."""
    units = {"ranks_per_s": "ranks/s", "users": "users", "items": "items"}
    return [
        (
            finding.limit.name,
            f"{figure(finding.breaks_at)} {units[finding.limit.driven_by]}",
            figure(finding.times),
            finding.arithmetic,
        )
        for finding in found
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__.partition("\n")[0])
    for field in (*fields(Load), *fields(Machines)):
        default = {"ranks_per_s": 1e6, "users": 1e9, "items": 1e8}.get(field.name, field.default)
        kind = int if field.type in (int, "int") else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=default, help=f"{default:g}")
    for field in fields(Prices):
        parser.add_argument(f"--{field.name}-price", type=float, default=0.0, help="of a machine, an hour")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    return parser


def _made_of(kind: type[Any], options: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


def report(plan: Plan, found: Sequence[Finding]) -> None:
    """Print what was found."""
    load = plan.load
    print(
        f"\n{load.ranks_per_s:,.0f} ranks/s of {load.n_candidates} candidates, {load.events_per_s:,.0f} events/s, "
        f"{load.users:,.0f} users, {load.items:,.0f} items\n"
    )
    print(machine.table(("what", "takes", "as"), needs(plan)), end="\n\n")
    print(machine.table(("what breaks first", "at", "times too much", "arithmetic"), told(found)), end="\n\n")
    print(machine.table(("what breaks first", "what would mend it"), [(f.limit.name, f.limit.remedy) for f in found]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan and report.

    Args:
        arguments: None: those of the command line.
    """
    options = _parser().parse_args(arguments)
    plan = Plan(_made_of(Load, options), _made_of(Machines, options))
    found = findings(plan)
    report(plan, found)
    prices = Prices(**{field.name: getattr(options, f"{field.name}_price") for field in fields(Prices)})
    if prices != Prices():
        cost = price_per_h(plan, prices)
        print(f"\n{cost:,.2f} an hour, {cost_per_million(cost, plan.load.ranks_per_s):.3g} per million ranks")
    machine.write_json(
        {
            "what": "capacity on paper",
            "load": asdict(plan.load),
            "machines": asdict(plan.machines),
            "costs": asdict(plan.costs),
            "needs": needs(plan),
            "findings": told(found),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
