"""Negatives cover every stratum, and are the same for the same table and number."""

import numpy as np
import pytest

from features.item_table import UNKNOWN, ItemTable
from learners.sampling import NegativeSampler, SamplingConfig
from tests.learners.examples import SCHEMA, T0_MS, click

HOUR_MS = 3_600_000
NOW_MS = T0_MS + 72 * HOUR_MS
CONFIG = SamplingConfig(n_active=6, n_today=3, n_older=2, n_never=2)


def table_of(ages_h: dict[str, float], n_clicks: int = 1) -> ItemTable:
    table = ItemTable(SCHEMA)
    for item, age_h in ages_h.items():
        for _ in range(n_clicks):
            table.fold_event(click("u", item, NOW_MS - round(age_h * HOUR_MS)), [])
    return table


def sampler_of(table: ItemTable, seed: int = 3) -> NegativeSampler:
    sampler = NegativeSampler(SCHEMA, CONFIG, seed)
    sampler.refresh(table, NOW_MS)
    return sampler


AGES_H = {
    **{f"a{n}": 0.1 + n / 50 for n in range(20)},
    **{f"t{n}": 2.0 + n for n in range(10)},
    **{f"o{n}": 30.0 + n for n in range(10)},
}


def test_every_stratum_that_has_items_is_in_every_slate() -> None:
    table = table_of(AGES_H)
    sampler = sampler_of(table)
    for n in range(600):
        rows, _ = sampler.draw(n)
        kinds = [table.ids[row][:1] or "?" for row in rows]
        assert kinds == ["a"] * 6 + ["t"] * 3 + ["o"] * 2 + ["?"] * 2


@pytest.mark.parametrize("missing", ["a", "t", "o", "at", "to", "ao", "ato"])
def test_slots_of_an_empty_stratum_go_to_known_items_while_there_are_any(missing: str) -> None:
    table = table_of({item: age_h for item, age_h in AGES_H.items() if item[0] not in missing})
    rows, _ = sampler_of(table).draw(0)
    drawn = [table.ids[row][:1] or "?" for row in rows]
    assert set(drawn) == set("ato?") - set(missing)
    assert drawn.count("?") == (len(drawn) if missing == "ato" else 2)


def test_half_of_the_unseen_are_items_that_the_catalogue_holds() -> None:
    table = table_of(AGES_H)
    for n in range(50):
        table.set_attributes(f"c{n}", {"genre": ["new"]})
    sampler = sampler_of(table)
    drawn = np.concatenate([sampler.draw(n)[0][-2:] for n in range(1000)])
    assert all(row == UNKNOWN or table.ids[row].startswith("c") for row in drawn)
    assert float((drawn == UNKNOWN).mean()) == pytest.approx(0.5, abs=0.05)


def test_items_are_drawn_by_the_square_root_of_their_counts() -> None:
    table = table_of({"rare": 0.5})
    for _ in range(16):
        table.fold_event(click("u", "frequent", NOW_MS - HOUR_MS // 2), [])
    sampler = sampler_of(table)
    drawn = np.concatenate([sampler.draw(n)[0][:6] for n in range(2000)])
    assert float((drawn == table.rows["frequent"]).mean()) == pytest.approx(0.8, abs=0.02)


def test_a_draw_depends_on_seed_and_number_only() -> None:
    table = table_of(AGES_H)
    one, other = sampler_of(table), sampler_of(table)
    straight = [one.draw(n) for n in range(700)]
    for n in (699, 3, 256, 255, 3):
        rows, stand_ins = other.draw(n)
        assert (rows == straight[n][0]).all() and (stand_ins == straight[n][1]).all()
    assert any((sampler_of(table, seed=4).draw(n)[0] != straight[n][0]).any() for n in range(5))


def test_stand_in_keys_are_never_absent_and_hardly_ever_equal() -> None:
    sampler = sampler_of(table_of(AGES_H))
    drawn = np.concatenate([sampler.draw(n)[1] for n in range(500)])
    assert (drawn != 0).all() and len(np.unique(drawn)) == len(drawn)


def test_an_empty_table_gives_unheard_of_items() -> None:
    rows, _ = sampler_of(ItemTable(SCHEMA)).draw(0)
    assert (rows == UNKNOWN).all()


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"sampling\.n_older: expected 1 to 256, got 0"):
        SamplingConfig(n_older=0)
