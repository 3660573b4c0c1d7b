"""Laws of the door: each event is judged by itself, and the receipt tells the truth about all of them."""

from typing import Any

import msgspec
import pytest

from features.clock import FakeClock
from features.decisions import new_decision
from features.errors import StoreUnavailable
from features.intake import Intake
from features.memory_store import MemoryStore
from tests.features.examples import KEYS, SCHEMA, T0_MS


def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore(SCHEMA, keys=KEYS, time=FakeClock(T0_MS))


def raw(**fields: Any) -> bytes:
    """JSON of a click, unless told otherwise."""
    return msgspec.json.encode({"type": "click", "user": "u1", "item": "a", **fields})


BAD = {
    "unknown type": ({"type": "stare"}, "$.type"),
    "no user": ({"user": ""}, "$.user"),
    "long item": ({"item": "x" * 257}, "$.item"),
    "wrong type of user": ({"user": 7}, "$.user"),
    "unknown field": ({"colour": "red"}, "$.colour"),
    "negative value": ({"value": -1}, "$.value"),
    "absurd time": ({"ts_ms": 12}, "$.ts_ms"),
    "tomorrow": ({"ts_ms": T0_MS + 86_400_000}, "$.ts_ms"),
    "not a decision": ({"decision": "d"}, "$.decision"),
    "somebody else's decision": ({"decision": new_decision("u2", KEYS)}, "$.decision"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_event_is_rejected_by_index_and_its_neighbours_accepted(name: str) -> None:
    fields, path = BAD[name]
    target = store()
    receipt = await Intake(target, FakeClock(T0_MS)).accept([raw(id="1"), raw(**fields), raw(id="2")])
    assert (receipt.accepted, receipt.duplicates) == (2, 0)
    assert [(row["index"], row["error"]["path"]) for row in receipt.rejected] == [(1, path)]
    assert len(await target.read_log({}, count=10)) == 2


async def test_the_same_event_counts_once_from_whichever_form_it_comes() -> None:
    target = store()
    intake = Intake(target, FakeClock(T0_MS))
    row = {"type": "click", "user": "u1", "item": "a", "id": "e1"}
    receipts = [
        await intake.accept([raw(id="e1")]),
        await intake.accept([row, row]),
        await intake.accept([raw(id="e1")]),
    ]
    assert [receipt.accepted for receipt in receipts] == [1, 0, 0]
    assert [receipt.duplicates for receipt in receipts] == [0, 2, 1]
    assert len(await target.read_log({}, count=10)) == 1
    assert {receipt.log_ms for receipt in receipts} == {T0_MS}


async def test_a_decision_of_ones_own_is_accepted() -> None:
    receipt = await Intake(store(), FakeClock(T0_MS)).accept([raw(decision=new_decision("u1", KEYS))])
    assert receipt.accepted == 1


async def test_rows_of_a_table_may_carry_integers_and_context() -> None:
    target = store()
    receipt = await Intake(target, FakeClock(T0_MS)).accept(
        [{"type": "click", "user": 7, "item": 9, "ts_ms": T0_MS, "device": "tv", "id": None}]
    )
    assert receipt.accepted == 1
    (entry,) = await target.read_log({}, count=10)
    assert msgspec.msgpack.decode(entry.body)[:3] == ["click", "7", "9"]


async def test_history_may_have_any_time_under_the_event_clock() -> None:
    target = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    receipt = await Intake(target, None).accept([raw(ts_ms=1_000_000)])
    assert (receipt.accepted, receipt.log_ms) == (1, 1_000_000)


class Away(MemoryStore):
    """A store that has gone."""

    async def apply(self, records: Any) -> Any:
        """Fail every record."""
        return [StoreUnavailable("gone") for _ in records]


async def test_an_outage_is_told_per_event_as_retryable() -> None:
    receipt = await Intake(Away(SCHEMA, keys=KEYS, time=FakeClock(T0_MS)), FakeClock(T0_MS)).accept([raw(), raw()])
    assert not receipt.is_confirmed
    assert [row["error"]["retryable"] for row in receipt.rejected] == [True, True]
