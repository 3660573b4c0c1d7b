"""Nothing differs where serving is right, and whatever it does wrong is found in the features that it concerns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.allowed import FAMILIES, Judge, bounds_of_sums, family_of
from features.encoding import Encoder, Request
from features.events import (
    DECISION,
    ERASURE,
    EVENT,
    Entry,
    LoggedErasure,
    LoggedEvent,
    StreamId,
    decode_decision,
    encode_body,
)
from features.history import NOTHING, history_of
from features.item_table import ItemTable
from features.schema import Schema
from features.skew import Skew, SkewConfig
from features.skew_findings import STATE
from features.state import unpack
from tests.features.examples import T0_MS
from tests.features.serving import KEYS, USERS, Fault, Serving
from tests.features.test_encoding import user_of
from tests.features.test_item_table import SCHEMA
from tests.people import in_value, traces_of


def with_half_life(index: int, half_lives_s: tuple[float, ...]) -> Encoder:
    counters = list(SCHEMA.counters)
    counters[index] = replace(counters[index], half_lives_s=half_lives_s)
    return Encoder(replace(SCHEMA, counters=tuple(counters)))


def judged(entries: list[Entry], **config: Any) -> Skew:
    skew = Skew(SCHEMA, SkewConfig(**config))
    found = list(skew.read(entries))
    assert len(found) == skew.counts.judged
    return skew


def differing(skew: Skew) -> tuple[set[str], set[str]]:
    """Names of item features and of user features."""
    return tuple({name for name, total in totals.items() if total.differing} for totals in (skew.items, skew.users))


def families(names: set[str]) -> set[str]:
    return {family_of(name) for name in names}


@given(seed=st.integers(0, 2**31), step_ms=st.sampled_from([5, 60, 400]))
@settings(max_examples=10)
async def test_nothing_differs_when_every_row_is_of_its_own_moment_of_half_a_second(seed: int, step_ms: int) -> None:
    """With events that come late, attributes, erasures, crowded sets, and entries between reading and logging."""
    serving = await Serving(SCHEMA, seed, step_ms=step_ms).run(100)
    skew = judged(serving.entries)
    assert skew.counts.judged == serving.n_decisions > 0
    assert differing(skew) == (set(), set())
    n_shown = sum(len(decode_decision(e.body).items) for e in serving.entries if e.kind == DECISION)
    assert {total.compared for total in skew.items.values()} == {n_shown}
    assert {total.compared for total in skew.users.values()} == {serving.n_decisions}


@given(seed=st.integers(0, 2**31), user=st.sampled_from(USERS), step_ms=st.sampled_from([5, 60]))
@settings(max_examples=10)
async def test_who_is_erased_is_named_nowhere_and_nothing_differs_for_it(seed: int, user: str, step_ms: int) -> None:
    """Though decisions that were made with the person's state may still come."""
    serving = await Serving(SCHEMA, seed, step_ms=step_ms).run(100)
    body = encode_body(LoggedErasure(user, serving.entries[-1].id.ms))
    at = StreamId(serving.entries[-1].id.ms + 1, 0)
    skew = Skew(SCHEMA, SkewConfig())
    list(skew.read(serving.entries))
    before = skew.moments.states(user, at.ms - 400)
    assert list(skew.read([Entry(at, KEYS.user_partition(user), ERASURE, body, b"")])) == []
    assert before is not None and skew.moments.states(user, at.ms - 400) == [*before, b""]
    assert skew.moments.states(user, at.ms + 1) == [b""]
    assert "id" not in in_value(skew.moments, traces_of(user)) and "id" in in_value(serving.entries, traces_of(user))
    assert differing(skew) == (set(), set())


OF_ROWS = {"counters", "splits", "ages", "numbers", "last", "rest"}


@pytest.mark.parametrize(
    ("fault", "must", "may"),
    [
        (Fault(stale_ms=2000), {"counters", "ages"}, OF_ROWS),
        (Fault(is_counted_twice=True), {"counters", "splits"}, {"counters", "splits"}),
        (Fault(device="tv"), {"splits"}, {"splits"}),
        (Fault(dearer=1.0), {"numbers"}, {"numbers"}),
        (Fault(clock_ms=10_000), {"counters", "ages", "seen"}, {*FAMILIES.values()} - {"numbers"}),
        (Fault(clock_ms=-10_000), {"counters", "ages", "seen"}, {*FAMILIES.values()} - {"numbers"}),
    ],
    ids=lambda value: str(value) if isinstance(value, Fault) else "",
)
async def test_a_fault_is_found_in_the_features_that_it_concerns(fault: Fault, must: set[str], may: set[str]) -> None:
    skew = judged((await Serving(SCHEMA, 3, fault).run(300)).entries)
    of_items, of_users = differing(skew)
    assert must <= families(of_items) <= may
    assert of_users == set()


@pytest.mark.parametrize("factor", [2.0, 0.8])
async def test_a_wrong_half_life_is_found_and_named(factor: float) -> None:
    fault = Fault(encoder=with_half_life(0, (60.0 * factor, 3600.0)))
    skew = judged((await Serving(SCHEMA, 3, fault).run(300)).entries)
    assert differing(skew) == ({"count:click.60s"}, set())
    total = skew.items["count:click.60s"]
    assert total.differing <= total.compared and total.largest > 0
    assert total.first is not None
    decision, difference = total.first
    assert decision.startswith("d") and difference.feature == "count:click.60s"


async def test_a_decision_with_somebody_elses_state_differs_in_the_person_alone() -> None:
    skew = judged((await Serving(SCHEMA, 3, Fault(is_of_another=True)).run(300)).entries)
    of_items, of_users = differing(skew)
    assert of_items == set()
    assert {STATE, "idle", "n_recent", "count:click[0].60s"} <= of_users
    assert not {"day_sin", "day_cos"} & of_users


async def test_rows_may_be_as_old_as_is_said() -> None:
    """And who looked at older ones is told from who is wrong."""
    entries = (await Serving(SCHEMA, 3, Fault(stale_ms=700)).run()).entries
    assert differing(judged(entries, behind_ms=1200)) == (set(), set())
    late = judged(entries)
    assert differing(late)[0] != set()
    assert late.counts.late == late.counts.differing > 0
    assert 700 < late.counts.latest_ms <= 1200 + 50
    wrong = judged((await Serving(SCHEMA, 3, Fault(dearer=1.0)).run(300)).entries)
    assert wrong.counts.late == 0 < wrong.counts.differing


async def test_every_feature_has_a_family_and_is_found_when_it_is_random() -> None:
    skew = judged((await Serving(SCHEMA, 3, Fault(is_confused=True)).run(300)).entries)
    assert differing(skew) == (set(skew.item_names), set())
    assert families(set(Encoder(Schema()).dense_names)) == set(FAMILIES.values())


async def test_which_decisions_are_judged_depends_on_their_ids_alone() -> None:
    entries = (await Serving(SCHEMA, 3).run(300)).entries
    whole = judged(entries, sample=3)
    parts = Skew(SCHEMA, SkewConfig(sample=3))
    found = [found for entry in entries for found in parts.read([entry])]
    assert [one.decision for one in found] == [one.decision for one in Skew(SCHEMA, SkewConfig(sample=3)).read(entries)]
    assert parts.counts == whole.counts
    assert whole.counts.judged + whole.counts.not_sampled == whole.counts.seen
    assert 0 < whole.counts.judged < whole.counts.seen / 2


async def test_known_rows_take_the_place_of_the_beginning_of_the_log() -> None:
    """Rows are exact from there; whoever had no entry since is judged but for the person."""
    entries = (await Serving(SCHEMA, 3).run(300)).entries
    cut = len(entries) // 2
    table = ItemTable(SCHEMA)
    table.fold(entries[:cut])
    start_ms = entries[cut - 1].id.ms
    skew = Skew(SCHEMA, table=table, start_ms=start_ms)
    found = list(skew.read(entries[cut:]))
    assert found and not any(one.differences for one in found)
    assert min(one.ts_ms for one in found) >= start_ms + 500
    assert skew.counts.too_early > 0
    assert 0 < skew.counts.of_unknown < skew.counts.judged
    blind = Skew(SCHEMA, SkewConfig(since_ms=start_ms + 500))
    assert any(one.differences for one in blind.read(entries[cut:]))
    assert blind.moments.known_before


async def test_people_beyond_the_limit_are_forgotten_and_counted_as_unknown() -> None:
    entries = (await Serving(SCHEMA, 3).run(300)).entries
    skew = judged(entries, max_people=2)
    assert differing(skew) == (set(), set())
    assert 0 < skew.counts.of_unknown < skew.counts.judged


def changed(how: Callable[[Entry], Entry]) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: [how(entry) if entry.kind == DECISION else entry for entry in entries]


def with_decision(**changes: Any) -> Callable[[list[Entry]], list[Entry]]:
    def how(entry: Entry) -> Entry:
        decision = decode_decision(entry.body)
        values = {name: getattr(decision, name) for name in decision.__struct_fields__}
        return entry._replace(body=encode_body(type(decision)(**{**values, **changes})))

    return changed(how)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (with_decision(is_degraded=True), "degraded"),
        (with_decision(ts_ms=T0_MS - 10_000), "out_of_time"),
        (with_decision(inputs=b"\0\0"), "foreign"),
        (changed(lambda entry: entry._replace(state=b"\x02" * 200)), "foreign"),
        (changed(lambda entry: entry._replace(body=b"\xc1")), "undecodable"),
    ],
)
async def test_what_cannot_be_judged_is_counted_by_reason(
    change: Callable[[list[Entry]], list[Entry]], count: str
) -> None:
    serving = await Serving(SCHEMA, 3).run()
    skew = judged(change(serving.entries))
    assert skew.counts.judged == 0
    assert getattr(skew.counts, count) == skew.counts.seen == serving.n_decisions


async def test_entries_that_cannot_be_read_are_passed_over_as_the_projection_does() -> None:
    serving = await Serving(SCHEMA, 3).run()
    bad = Entry(StreamId(T0_MS, 1 << 40), 0, EVENT, b"\xc1", b"")
    skew = judged([bad, *serving.entries])
    assert skew.moments.n_passed_over == 1
    assert differing(skew) == (set(), set())


def row(table: ItemTable, item: str) -> bytes:
    return table.pack(table.rows[item])


def test_the_end_of_an_interval_needs_the_last_place_that_it_is_given() -> None:
    """A replica's sum in float32 may be rounded to the float16 next to that of the same sum made of its parts."""
    encoder, table = Encoder(SCHEMA), ItemTable(SCHEMA)
    for number, item in enumerate("pqrqr"):
        event = LoggedEvent("click", "v", "x", T0_MS + 1000 * number, 1.0, {}, None, None)
        table.fold_events([(event, history_of([(item, 1, T0_MS)]))])
    user = user_of(("r", T0_MS), ("q", T0_MS), ("p", T0_MS))
    requests = [Request(user, {}, T0_MS + 60_000 + ms, ["x"]) for ms in range(20_000)]
    rest = [f for f, name in enumerate(encoder.dense_names) if family_of(name) == "rest"]
    served = encoder.encode(table, requests).dense[:, 0, rest].astype(np.float16)
    alone = []
    for item in "qr":
        one = ItemTable(SCHEMA)
        one.load([item], [row(table, item)])
        alone.append(encoder.encode(one, requests).dense[None, :, 0, rest])
    low, high = bounds_of_sums(alone)
    assert ((low <= served) & (served <= high)).all()
    is_beside = (served == low) | (served == high)
    assert 0 < is_beside.sum() < 0.01 * is_beside.size


def test_what_one_row_gives_must_come_from_one_version_of_it() -> None:
    """Each value alone could have been, both together not: a row that is half old and half new is found."""
    encoder, table = Encoder(SCHEMA), ItemTable(SCHEMA)
    versions = []
    for number in range(2):
        event = LoggedEvent("click", "v", "a", T0_MS + 10_000 * number, 1.0, {}, None, None)
        table.fold_events([(event, NOTHING)])
        versions.append(row(table, "a"))
    request = Request(unpack(b"", SCHEMA), {}, T0_MS + 60_000, ["a"])
    looked_at = []
    for packed in versions:
        one = ItemTable(SCHEMA)
        one.load(["a"], [packed])
        looked_at.append(encoder.encode(one, [request]).dense[0].astype(np.float16))
    torn, idle = looked_at[1].copy(), encoder.dense_names.index("idle")
    torn[0, idle] = looked_at[0][0, idle]
    found = Judge(encoder).judge(torn, request, {"a": versions}, [])
    assert [encoder.dense_names[f] for f in np.flatnonzero(~found.is_allowed[0])] == ["idle"]
    for whole in looked_at:
        assert Judge(encoder).judge(whole, request, {"a": versions}, []).is_allowed.all()


def test_a_setting_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        SkewConfig(sample=0)
