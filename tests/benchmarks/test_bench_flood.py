"""The stated bound, in a small world: a thousand clicks of one person in a hundred are worth `per_item` of each."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks
from benchmarks.bench_flood import World, live_through, mean_rank, moved
from benchmarks.simulator import SimulatorConfig
from deployments.config import load_config
from learners.evaluation import one_thread

CONFIG = load_config(Path(benchmarks.__file__).parent / "simulated.toml")
SMALL = SimulatorConfig(end_s=240.0, clicks_per_s=15.0, n_people=200, n_items=150, n_clusters=4)
WORLD = World(SMALL, CONFIG.schema, 0.01, 1000, 1)
"""Two flooders among two hundred people."""


def lived(what: str) -> dict[str, Any]:
    with one_thread():
        return asyncio.run(live_through(WORLD, CONFIG, what, is_bound=True))


def test_a_flood_moves_an_item_for_the_others_as_far_as_its_first_clicks_and_no_further() -> None:
    undisturbed, few, flood = lived(""), lived("few"), lived("flood")
    n_few = CONFIG.schema.voice.per_item * len(WORLD.flooders)
    assert (few["told"], few["heard"]) == (n_few, n_few)
    assert (flood["told"], flood["heard"]) == (1000 * len(WORLD.flooders), n_few)
    assert flood["ranks"] == few["ranks"] != undisturbed["ranks"]
    assert flood["plain_ranks"] == few["plain_ranks"] != undisturbed["plain_ranks"]
    assert flood["mrr"] == few["mrr"]


def test_who_evades_is_heard_as_often_as_pace_allows() -> None:
    voice, n_between = CONFIG.schema.voice, CONFIG.schema.n_recent
    stream = WORLD.stream("evading")
    theirs = stream.filter(np.isin(stream["user"].to_numpy(), WORLD.flooders))
    assert (theirs["item"].to_numpy() == WORLD.item).sum() > 2 * 10 * len(WORLD.flooders)
    found = lived("evading")
    most = (1 + voice.burst + voice.per_hour * 0.5) * (1 + np.log(2) * 60 / 1800)
    assert most * 0.8 < found["heard"] / len(WORLD.flooders) <= most
    assert n_between == 32


def test_the_panel_are_others_and_the_flooders_rest_afterwards() -> None:
    flooders = set(WORLD.flooders.tolist())
    assert len(flooders) == 2 and not flooders & {asked["user"] for asked in WORLD.panel}
    assert all(asked["candidates"][0] == WORLD.item for asked in WORLD.panel)
    assert all(len(set(asked["candidates"])) == 100 for asked in WORLD.panel)
    late = WORLD.events.filter(WORLD.events["ts_ms"].to_numpy() >= WORLD.start_ms)
    assert not flooders & set(late["user"].to_pylist())


def test_ties_count_half_and_places_are_those_of_undisturbed() -> None:
    assert mean_rank(np.array([[1.0, 2.0, 1.0, 0.0], [5.0, 1.0, 1.0, 1.0]])) == pytest.approx((2.5 + 1.0) / 2)
    before = {"since_s": [-1, 1, 2], "ranks": [9.0, 8.0, 8.0], "plain_ranks": [9.0, 9.0, 9.0]}
    after = {"since_s": [-1, 1, 2], "ranks": [9.0, 2.0, 5.0], "plain_ranks": [9.0, 1.0, 5.0]}
    found = moved(after, before)
    assert [found[name] for name in ("moved", "moved_most", "moved_last")] == [4.5, 6.0, 3.0]
    assert [found[name] for name in ("plain_moved", "plain_moved_most", "plain_moved_last")] == [6.0, 8.0, 4.0]
