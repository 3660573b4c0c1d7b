"""Laws of the simulated world: what changes, what does not, and that queries keep to the protocol."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.simulator import CHANGES, LAUNCHED, Change, Simulated, SimulatorConfig, simulate

WORLD = SimulatorConfig(
    change_s=300.0, end_s=900.0, n_people=300, n_items=400, births_per_s=0.2, n_clusters=4, dense_s=20.0
)


@pytest.fixture(scope="module")
def worlds() -> dict[Change, Simulated]:
    return {change: simulate(change, WORLD, 1) for change in CHANGES}


def clicks(world: Simulated, segment: int | None = None) -> tuple[Counter[int], Counter[int]]:
    """How often each item was clicked before and after the change."""
    counts: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    columns = (world.events[name].to_pylist() for name in ("ts_ms", "item", "segment"))
    for ts_ms, item, who in zip(*columns, strict=True):
        if segment is None or who == segment:
            counts[ts_ms >= WORLD.change_ms][item] += 1
    return counts


def likeness(before: Counter[int], after: Counter[int]) -> float:
    """Correlation of the logarithms of clicks, of items that were clicked before."""
    items = sorted(before)
    return float(np.corrcoef(np.log1p([[count[item] for item in items] for count in (before, after)]))[0, 1])


def test_the_same_seed_gives_the_same_world_and_another_another(worlds: dict[Change, Simulated]) -> None:
    again = simulate("swap", WORLD, 1)
    assert again.events.equals(worlds["swap"].events) and again.queries.equals(worlds["swap"].queries)
    assert not simulate("swap", WORLD, 2).events.equals(again.events)


@pytest.mark.parametrize("change", CHANGES)
def test_events_are_in_order_and_as_many_as_asked_for(worlds: dict[Change, Simulated], change: Change) -> None:
    times_ms = worlds[change].events["ts_ms"].to_numpy()
    assert (np.diff(times_ms) >= 0).all()
    assert len(times_ms) == pytest.approx(WORLD.end_s * WORLD.clicks_per_s, rel=0.1)


@pytest.mark.parametrize("change", CHANGES)
def test_a_slate_holds_the_answer_two_never_clicked_and_only_what_was_clicked_before(
    worlds: dict[Change, Simulated], change: Change
) -> None:
    world = worlds[change]
    items, times_ms = world.events["item"].to_numpy(), world.events["ts_ms"].to_numpy()
    assert world.queries.num_rows > 500
    for query in world.queries.to_pylist()[::50]:
        candidates = query["candidates"]
        assert len(set(candidates)) == 100 and query["item"] in candidates
        past = set(items[times_ms < query["ts_ms"]].tolist())
        never = [item for item in candidates if item not in past and item != query["item"]]
        assert len(never) <= 2


def test_every_click_just_after_the_change_is_asked_for(worlds: dict[Change, Simulated]) -> None:
    for world in worlds.values():
        since_s = (world.events["ts_ms"].to_numpy() - WORLD.change_ms) / 1000
        asked_s = (world.queries["ts_ms"].to_numpy() - WORLD.change_ms) / 1000
        assert ((asked_s >= 0) & (asked_s < 15)).sum() == ((since_s >= 0) & (since_s < 15)).sum()


def test_a_swap_moves_popularity_at_once(worlds: dict[Change, Simulated]) -> None:
    assert likeness(*clicks(worlds["swap"])) < 0.5
    assert likeness(*clicks(worlds["tastes"])) > 0.8


def test_a_turn_of_tastes_moves_what_each_kind_of_people_clicks(worlds: dict[Change, Simulated]) -> None:
    for segment in range(WORLD.n_clusters):
        assert likeness(*clicks(worlds["tastes"], segment)) < 0.5
        assert likeness(*clicks(worlds["launch"], segment)) > 0.7


def test_a_launched_item_takes_its_share_within_a_minute(worlds: dict[Change, Simulated]) -> None:
    world = worlds["launch"]
    items = world.events["item"].to_numpy()
    since_s = (world.events["ts_ms"].to_numpy() - WORLD.change_ms) / 1000
    assert not (items[since_s < 0] == LAUNCHED).any()
    assert (items[since_s > WORLD.launch_ramp_s] == LAUNCHED).mean() == pytest.approx(WORLD.launch_share, rel=0.15)
    assert set(world.queries["item"].to_pylist()) == {LAUNCHED}
    for change in ("swap", "tastes"):
        assert LAUNCHED not in worlds[change].events["item"].to_pylist()
