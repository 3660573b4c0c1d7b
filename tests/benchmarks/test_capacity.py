"""The command: money, what it prints, what it takes."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.capacity import Prices, cost_per_million, main, needs, price_per_h, told
from benchmarks.limits import findings
from benchmarks.planning import Load, Plan

GUIDE = Path(__file__).parents[2] / "deployments" / "clusters" / "README.md"
SMALL = Load(ranks_per_s=1_000, users=1e6, items=1e5)


def test_a_million_ranks_cost_their_share_of_an_hour():
    """3.6 M ranks an hour at 1,000/s: a machine of 3.60 an hour makes 1.00 a million."""
    assert cost_per_million(3.60, 1_000) == pytest.approx(1.0)


def test_every_machine_is_paid_for():
    plan = Plan(SMALL)
    assert price_per_h(plan, Prices(node=1.0)) == plan.n_nodes
    assert price_per_h(plan, Prices(store=1.0)) == plan.n_servers
    assert price_per_h(plan, Prices(learning=1.0)) == plan.n_learning_nodes
    assert price_per_h(plan, Prices(head=1.0)) == 1.0


def test_needs_name_every_part():
    rows = {what: takes for what, takes, _ in needs(Plan(SMALL))}
    assert rows["learners"] == "1"
    assert {"serving nodes", "projector", "hub", "store servers", "store memory: people"} <= set(rows)


def test_findings_are_told_with_their_unit():
    rows = {name: at for name, at, _, _ in told(findings(Plan(SMALL)))}
    assert rows["embedding rows"].endswith(" items")
    assert rows["a single store server: people"].endswith(" users")


def test_the_command_plans_what_it_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target, load = tmp_path / "plan.json", ["--ranks-per-s", "1e3", "--users", "1e6", "--items", "1e5"]
    main([*load, "--node-price", "1.8", "--learning-price", "0.9", "--json", str(target)])
    plan = Plan(SMALL)
    cost = price_per_h(plan, Prices(node=1.8, learning=0.9))
    assert f"{cost:,.2f} an hour, {cost_per_million(cost, 1_000):.3g} per million ranks" in capsys.readouterr().out
    found = json.loads(target.read_text())
    assert found["load"]["items"] == 1e5
    assert [list(row) for row in needs(plan)] == found["needs"]


def test_the_guide_tells_what_the_plan_says():
    """Ranks/s, serving nodes, learners and their nodes, store servers, an hour, a million ranks."""
    guide = GUIDE.read_text()
    told = [float(price) for price in re.findall(r"(?:serving|learning|store|head)\s(\.\d+)", guide)]
    node, learning, store, head = told
    prices = Prices(node=node, learning=learning, store=store, head=head)
    rows = re.findall(
        r"^\| ([\d,]+) \| (\d+) \| (\d+), (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", guide, re.MULTILINE
    )
    assert len(rows) == 4
    for row in rows:
        rate, *counts, hour, million = (float(cell.replace(",", "")) for cell in row)
        plan = Plan(Load(ranks_per_s=rate, users=1e6, items=1e5))
        assert counts == [plan.n_nodes, plan.n_learners, plan.n_learning_nodes, plan.n_servers]
        cost = price_per_h(plan, prices)
        assert (hour, million) == (round(cost, 2), round(cost_per_million(cost, rate), 2))
