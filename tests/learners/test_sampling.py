"""Negatives cover every stratum, and are the same for the same table and number."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.history import NOTHING
from features.item_table import UNKNOWN, ItemTable
from learners.sampling import NegativeSampler, SamplingConfig, pick, shown, slots_of
from learners.snapshots import Strata, merge_strata
from tests.learners.examples import SCHEMA, T0_MS, click

HOUR_MS = 3_600_000
NOW_MS = T0_MS + 72 * HOUR_MS
CONFIG = SamplingConfig(n_negatives=13)


def table_of(ages_h: dict[str, float], n_clicks: int = 1) -> ItemTable:
    table = ItemTable(SCHEMA)
    for item, age_h in ages_h.items():
        for _ in range(n_clicks):
            table.fold_events([(click("u", item, NOW_MS - round(age_h * HOUR_MS)), NOTHING)])
    return table


def sampler_of(table: ItemTable, seed: int = 3) -> NegativeSampler:
    sampler = NegativeSampler(SCHEMA, CONFIG, seed)
    sampler.met = np.array([50.0, 25.0, 17.0, 8.0])
    sampler.refresh(table, NOW_MS)
    return sampler


def draw(sampler: NegativeSampler, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-th slate's negatives, and their stand-in keys."""
    rows, stand_ins = sampler.draw(n, 1)
    return rows[0], stand_ins[0]


AGES_H = {
    **{f"a{n}": 0.1 + n / 50 for n in range(20)},
    **{f"t{n}": 2.0 + n for n in range(10)},
    **{f"o{n}": 30.0 + n for n in range(10)},
}


def test_every_stratum_that_has_items_is_in_every_slate() -> None:
    table = table_of(AGES_H)
    sampler = sampler_of(table)
    for n in range(600):
        rows, _ = draw(sampler, n)
        kinds = [table.ids[row][:1] or "?" for row in rows]
        assert kinds == ["a"] * 7 + ["t"] * 3 + ["o"] * 2 + ["?"]


@pytest.mark.parametrize("missing", ["a", "t", "o", "at", "to", "ao", "ato"])
def test_slots_of_an_empty_stratum_go_to_known_items_while_there_are_any(missing: str) -> None:
    table = table_of({item: age_h for item, age_h in AGES_H.items() if item[0] not in missing})
    rows, _ = draw(sampler_of(table), 0)
    drawn = [table.ids[row][:1] or "?" for row in rows]
    assert set(drawn) == set("ato?") - set(missing)
    assert drawn.count("?") == (len(drawn) if missing == "ato" else 1)


@given(arrays(np.float64, 4, elements=st.floats(0.0, 1e4)), st.integers(4, 200))
def test_slots_follow_the_positives_and_no_stratum_is_without(met: np.ndarray, n_negatives: int) -> None:
    met[1] += 1.0
    n_slots = slots_of(met, n_negatives)
    assert n_slots.sum() == n_negatives and n_slots.min() >= 1
    assert n_slots[3] <= max(1, n_negatives / 8)
    wanted = (n_negatives - n_slots[3]) * met[:3] / met[:3].sum()
    assert (np.abs(n_slots[:3] - wanted) <= 3).all()


def test_a_stratum_gets_slots_as_positives_come_from_it() -> None:
    table = table_of(AGES_H)
    sampler, n = sampler_of(table), 20_000
    sampler.meet(table, np.ones(n, dtype=np.int64), np.full(n, NOW_MS - 48 * HOUR_MS), np.full(n, NOW_MS))
    assert slots_of(sampler.met, CONFIG.n_negatives).tolist() == [1, 1, 10, 1]


def test_half_of_the_unseen_are_items_that_the_catalogue_holds() -> None:
    table = table_of(AGES_H)
    for n in range(50):
        table.set_attributes(f"c{n}", {"genre": ["new"]})
    sampler = sampler_of(table)
    drawn = np.concatenate([draw(sampler, n)[0][-1:] for n in range(2000)])
    assert all(row == UNKNOWN or table.ids[row].startswith("c") for row in drawn)
    assert float((drawn == UNKNOWN).mean()) == pytest.approx(0.5, abs=0.05)


def test_an_item_is_drawn_as_often_as_a_slate_of_distinct_items_would_hold_it() -> None:
    table = table_of({f"a{n}": 0.5 for n in range(200)})
    for _ in range(400):
        table.fold_events([(click("u", "frequent", NOW_MS - HOUR_MS // 2), NOTHING)])
    sampler = sampler_of(table)
    drawn = np.concatenate([draw(sampler, n)[0][:7] for n in range(4000)])
    # 54 of 100 candidates are active ones; "frequent" is in every slate, not in a tenth of its places.
    assert float((drawn == table.rows["frequent"]).mean()) == pytest.approx(1 / 54, rel=0.15)


def test_what_was_popular_yesterday_counts_for_little_among_the_active() -> None:
    table = table_of({f"a{n}": 0.2 for n in range(200)})
    for age_h in [20.0] * 400 + [0.9]:
        table.fold_events([(click("u", "faded", NOW_MS - round(age_h * HOUR_MS)), NOTHING)])
    sampler = sampler_of(table)
    drawn = np.concatenate([draw(sampler, n)[0][:7] for n in range(4000)])
    assert float((drawn == table.rows["faded"]).mean()) < 1 / 200


def test_shown_is_how_often_picking_one_after_the_other_takes_an_item() -> None:
    rng = np.random.default_rng(1)
    weight = np.sqrt(rng.pareto(1.0, 300) + 0.01)
    clocks = rng.exponential(1.0, (4000, 300)) / weight  # who rings first is picked first
    picked = np.zeros((4000, 300))
    np.put_along_axis(picked, clocks.argpartition(40, axis=1)[:, :40], 1.0, axis=1)
    assert np.abs(shown(weight, 40.0) - picked.mean(axis=0)).max() < 0.04


@given(arrays(np.float64, st.integers(1, 50), elements=st.floats(1e-3, 1e4)), st.floats(0.1, 100.0))
def test_shown_adds_up_to_the_slate_and_grows_with_the_weight(weight: np.ndarray, n_shown: float) -> None:
    found = shown(weight, n_shown)
    assert found.sum() == pytest.approx(min(n_shown, 0.95 * len(weight)), rel=2e-3)
    assert found.max() <= 1.0 and (np.diff(found[np.argsort(weight)]) >= 0).all()


@given(st.lists(st.floats(0.01, 9.0), min_size=1, max_size=20), st.lists(st.floats(0.0, 1.0, exclude_max=True)))
def test_a_draw_takes_the_first_row_whose_cumulative_weight_is_above_it(
    weights: list[float], units: list[float]
) -> None:
    """Other columns are left alone."""
    cumulative = np.append(np.cumsum(weights[:-1]) / np.sum(weights), 1.0)
    rows, drawn = 10 + np.arange(len(weights)), np.array([units, units]).T.reshape(len(units), 2)
    out = np.zeros(drawn.shape, dtype=np.int64)
    pick(rows, cumulative, drawn, np.array([False, True]), out)
    assert out[:, 1].tolist() == rows[np.searchsorted(cumulative, drawn[:, 1], side="right")].tolist()
    assert not out[:, 0].any()


def test_a_draw_depends_on_seed_and_number_only() -> None:
    table = table_of(AGES_H)
    one, other = sampler_of(table), sampler_of(table)
    straight = [draw(one, n) for n in range(700)]
    for first, n in ((699, 1), (3, 1), (250, 300), (255, 2), (0, 700)):
        rows, stand_ins = other.draw(first, n)
        for place in range(n):
            assert (rows[place] == straight[first + place][0]).all()
            assert (stand_ins[place] == straight[first + place][1]).all()
    assert any((draw(sampler_of(table, seed=4), n)[0] != straight[n][0]).any() for n in range(5))


@given(st.lists(st.sampled_from([0, 40, 90, 1500, 20, 3000]), min_size=1, max_size=40), st.data())
def test_meeting_positives_in_one_call_or_in_several_is_the_same_to_the_last_bit(
    ages_min: list[int], data: st.DataObject
) -> None:
    n = len(ages_min)
    last_ms, now_ms, rows = NOW_MS - np.array(ages_min) * HOUR_MS // 60, np.full(n, NOW_MS), np.arange(n) % 6 + 1
    table = table_of({f"i{n}": 1.0 for n in range(6)})
    together, apart = sampler_of(table), sampler_of(table)
    together.meet(table, rows, last_ms, now_ms)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    for start, end in pairwise([0, *cuts, n]):
        apart.meet(table, rows[start:end], last_ms[start:end], now_ms[start:end])
    assert together.met.tolist() == apart.met.tolist()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=1, max_size=60))
@settings(max_examples=40)
def test_strata_kept_as_the_stream_goes_by_are_those_of_a_fresh_look(steps: list[tuple[int, int]]) -> None:
    """Items wander down as they age, and up when they are acted on."""
    table, kept, now_ms = ItemTable(SCHEMA), NegativeSampler(SCHEMA, CONFIG, 3), NOW_MS
    kept.refresh(table, now_ms)
    for item, gap_h in steps:
        now_ms += gap_h * HOUR_MS // 8
        kept.refresh(table, now_ms)
        event = click("u", f"i{item}", now_ms)
        row = table.row(event.item)
        last_ms = int(table.last_ms[row])
        table.fold_events([(event, NOTHING)])
        kept.meet(table, np.array([row]), np.array([last_ms]), np.array([now_ms]))
    kept.refresh(table, now_ms)
    fresh = NegativeSampler(SCHEMA, CONFIG, 3)
    fresh.met = kept.met
    fresh.refresh(table, now_ms)
    for one, other in zip(kept.draw(0, 300), fresh.draw(0, 300), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=2, max_size=80), st.data())
@settings(max_examples=40)
def test_whoever_goes_on_from_strata_draws_what_would_have_been_drawn(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Of large strata most steps look through none."""
    table, kept, now_ms = table_of(AGES_H), NegativeSampler(SCHEMA, CONFIG, 3), NOW_MS
    kept.refresh(table, now_ms)
    strata, n_before = kept.strata(), data.draw(st.integers(1, len(steps) - 1))
    kept.take_strata()
    for n, (item, gap_h) in enumerate(steps):
        if n == n_before:
            other = NegativeSampler(SCHEMA, CONFIG, 3)
            other.met = kept.met.copy()
            other.load(merge_strata(strata, kept.take_strata()))
        samplers = [kept] if n < n_before else [kept, other]
        now_ms += gap_h * HOUR_MS // 8
        row = table.row(f"i{item}")
        last_ms = int(table.last_ms[row])
        table.fold_events([(click("u", f"i{item}", now_ms), NOTHING)])
        for sampler in samplers:
            sampler.meet(table, np.array([row]), np.array([last_ms]), np.array([now_ms]))
            sampler.refresh(table, now_ms)
        for left, right in zip(*(sampler.draw(0, 60) for sampler in (kept, samplers[-1])), strict=True):
            np.testing.assert_array_equal(left, right)
    for left, right in zip(*(asdict_of(sampler.strata()) for sampler in samplers), strict=True):
        assert left == right


def asdict_of(strata: Strata) -> list[object]:
    looks = {number: (look.rows.tolist(), look.cumulative.tolist()) for number, look in strata.looks.items()}
    return [strata.stratum.tolist(), strata.n_since, looks]


def test_stand_in_keys_are_never_absent_and_hardly_ever_equal() -> None:
    sampler = sampler_of(table_of(AGES_H))
    drawn = np.concatenate([draw(sampler, n)[1] for n in range(500)])
    assert (drawn != 0).all() and len(np.unique(drawn)) == len(drawn)


def test_an_empty_table_gives_unheard_of_items() -> None:
    rows, _ = draw(sampler_of(ItemTable(SCHEMA)), 0)
    assert (rows == UNKNOWN).all()


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"sampling\.n_negatives: expected 4 to 1024, got 3"):
        SamplingConfig(n_negatives=3)
