"""Laws of quarantine: what a source in it sends is kept and changes nothing, wherever it comes in, and says so."""

from typing import Any

import msgspec
import pytest

from features.clock import FakeClock
from features.errors import StoreUnavailable
from features.events import EVENT, QUARANTINED, decode_event
from features.intake import Intake, Receipt
from features.quarantine import RULE, QuarantineKeeper
from features.source_watch import UNNAMED, SourceWatch
from features.sources import Quarantine, SourceRules
from tests.features.examples import SCHEMA, T0_MS, Both

N = 16
WHY = Quarantine("ann", "its clock", T0_MS)


def keeper_of(both: Both) -> QuarantineKeeper:
    return QuarantineKeeper(both.bulk, SourceWatch(SourceRules(n_newest=N), SCHEMA.context), lambda: T0_MS)


def raw(number: int = 0, **fields: Any) -> bytes:
    """JSON of a click."""
    return msgspec.json.encode({"type": "click", "user": f"u{number}", "item": f"i{number}", **fields})


class Door:
    """An intake, and who looks after quarantine there."""

    def __init__(self, both: Both) -> None:
        self.store = both.store
        self.keeper = keeper_of(both)
        self.intake = Intake(both.store, FakeClock(T0_MS), self.keeper)

    async def send(self, *events: bytes | dict[str, Any], source: str | None = None) -> Receipt:
        return await self.intake.accept(events, source)

    async def kinds(self) -> list[bytes]:
        return [entry.kind for entry in await self.store.read_log({}, count=100)]


async def test_what_comes_from_quarantine_is_in_the_log_and_changes_nothing(both: Both) -> None:
    await both.bulk.quarantine("bad", WHY)
    door = Door(both)
    receipt = await door.send(raw(1, source="bad", id="e1"), raw(2, source="good"), raw(3))
    assert (receipt.accepted, receipt.quarantined, receipt.duplicates) == (2, 1, 0) and receipt.is_confirmed
    (kept,) = [entry for entry in await both.store.read_log({}, count=100) if entry.kind == QUARANTINED]
    assert decode_event(kept.body).source == "bad" and kept.state == b""
    states, _ = await both.store.read(["u1", "u2", "u3"], [])
    assert [bool(state) for state in states] == [False, True, True]


async def test_the_same_event_counts_when_it_comes_again_after_the_release(both: Both) -> None:
    await both.bulk.quarantine("bad", WHY)
    door = Door(both)
    assert (await door.send(raw(source="bad", id="e1"))).quarantined == 1
    assert await door.keeper.release("bad")
    assert (await door.send(raw(source="bad", id="e1"))).accepted == 1
    assert (await door.send(raw(source="bad", id="e1"))).duplicates == 1
    assert await door.kinds() == [QUARANTINED, EVENT]


async def test_others_hold_whom_one_has_put_there_after_their_next_look(both: Both) -> None:
    one, other = Door(both), Door(both)
    assert (await other.send(raw(source="bad"))).accepted == 1
    await one.keeper.put("bad", WHY)
    assert (await one.send(raw(source="bad"))).quarantined == 1
    await other.keeper.look()
    assert (await other.send(raw(source="bad"))).quarantined == 1
    assert other.keeper.held == {"bad": WHY}


async def test_who_breaks_a_rule_is_put_there_by_rule_for_all_and_judged_anew_after_the_release(both: Both) -> None:
    one, other = Door(both), Door(both)
    for number in range(N):
        await one.send(raw(1, source="bad"), raw(number, source="good"), raw(number))
    await one.keeper.look()
    await other.keeper.look()
    assert one.keeper.held["bad"].who == RULE and "user is the same" in other.keeper.held["bad"].why
    assert one.keeper.problems() == [f"source 'bad' is in quarantine, by rule: {one.keeper.held['bad'].why}"]
    await one.keeper.release("bad")
    await one.keeper.look()
    assert one.keeper.held == {} and one.keeper.problems() == []


async def test_a_source_is_named_by_the_event_or_else_by_the_post(both: Both) -> None:
    door = Door(both)
    await door.send(raw(1, source="app"), raw(2), {"type": "click", "user": "u3", "item": "a"}, source="pipeline")
    entries = await both.store.read_log({}, count=100)
    found = {event.user: event.source for event in (decode_event(entry.body) for entry in entries)}
    assert found == {"u1": "app", "u2": "pipeline", "u3": "pipeline"}


@pytest.mark.parametrize(
    ("event", "source", "whose"),
    [
        (raw(source="app", colour="red"), "post", "app"),
        (raw(source="app", type="stare"), "post", "app"),
        (raw(type=5), "post", "post"),
        (raw(type="stare"), None, UNNAMED),
        (b"{", "post", "post"),
        (raw(source=7), "post", "post"),
        (raw(source="x" * 300), None, UNNAMED),
        ({"type": "click", "user": "u", "item": "a", "value": float("nan"), "source": "app"}, None, "app"),
        ({"type": "click", "user": ["u"], "item": "a", "source": "app"}, None, "app"),
    ],
)
async def test_an_invalid_event_is_counted_against_whoever_sent_it(
    both: Both, event: Any, source: str | None, whose: str
) -> None:
    door = Door(both)
    receipt = await door.send(event, source=source)
    assert len(receipt.rejected) == 1
    assert {name: told["invalid"] for name, told in door.keeper.status().items()} == {whose: 1}


async def test_without_the_list_nothing_is_taken_and_with_one_of_before_everything_is(both: Both) -> None:
    class Away:
        is_away = True

        async def quarantined(self) -> dict[str, Quarantine]:
            if self.is_away:
                raise StoreUnavailable("away")
            return {"bad": WHY}

    away = Away()
    keeper = QuarantineKeeper(away, SourceWatch(SourceRules(), ()), lambda: T0_MS)  # type: ignore[arg-type]
    intake = Intake(both.store, FakeClock(T0_MS), keeper)
    receipt = await intake.accept([raw(1), raw(2, type="stare")])
    assert [row["error"].get("retryable", False) for row in receipt.rejected] == [True, True]
    away.is_away = False
    assert (await intake.accept([raw(1, source="bad")])).quarantined == 1
    away.is_away = True
    with pytest.raises(StoreUnavailable):
        await keeper.look()
    assert (await intake.accept([raw(1, source="bad"), raw(2)])).as_dict()["quarantined"] == 1
