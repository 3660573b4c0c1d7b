"""Workloads: the same seed gives the same bytes, and what they hold is what the routes accept."""

import msgspec
import numpy as np

from benchmarks.workloads import World, WorldConfig, posts
from deployments.rank_request import RankRequest, check_request
from features.events import check_attributes, check_event, parse_event
from features.schema import Schema

SMALL = WorldConfig(n_users=50, n_items=200, n_tastes=5, drift_events=500)
NOW_MS = 1_764_000_000_000


def test_the_same_seed_gives_the_same_bytes_whatever_was_drawn_before():
    one, two = World(SMALL), World(SMALL)
    two.rank_bodies(3)
    assert msgspec.json.encode(one.events(300)) == msgspec.json.encode(two.events(300))
    assert one.rank_bodies(20) == two.rank_bodies(20)
    assert one.items() == two.items()


def test_another_seed_gives_other_events():
    other = World(WorldConfig(seed=8, n_users=50, n_items=200, n_tastes=5))
    assert World(SMALL).events(300) != other.events(300)


def test_every_event_and_item_passes_the_door():
    world, schema = World(SMALL), Schema()
    for event in world.events(300, start_ms=NOW_MS - 1000, per_s=1000.0):
        check_event(parse_event(msgspec.json.encode(event)), schema, NOW_MS)
    for item in world.items():
        check_attributes(item["attributes"], schema.item_attributes)


def test_rank_bodies_are_valid_requests_of_as_many_distinct_candidates():
    for body in World(SMALL).rank_bodies(20, n_candidates=100):
        request = msgspec.json.decode(body, type=RankRequest)
        check_request(request, is_event_clock=False)
        assert len(set(request.candidates)) == 100


def test_event_time_advances_at_the_given_rate():
    times = [event["ts_ms"] for event in World(SMALL).events(101, start_ms=NOW_MS, per_s=100.0)]
    assert times[0] == NOW_MS
    assert times[-1] == NOW_MS + 1000
    assert times == sorted(times)


def test_people_stay_with_their_tastes():
    world = World(SMALL)
    for event in world.events(300):
        assert world.taste_of_item[int(event["item"][1:])] in world.tastes_of_user[int(event["user"][1:])]


def test_the_leading_item_of_a_taste_changes_with_time():
    world = World(SMALL)
    items = np.array([int(event["item"][1:]) for event in world.events(4000)])
    mine = world.taste_of_item[items] == 0
    first, last = items[:500][mine[:500]], items[-500:][mine[-500:]]
    assert np.bincount(first).argmax() != np.bincount(last).argmax()


def test_posts_hold_all_rows_in_order():
    rows = World(SMALL).events(25)
    bodies = [msgspec.json.decode(body)["events"] for body in posts(rows, size=10)]
    assert [len(body) for body in bodies] == [10, 10, 5]
    assert [row for body in bodies for row in body] == rows
