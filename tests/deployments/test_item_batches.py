"""Laws of sending items: what may succeed later is sent again, for a minute; the rest is told, or ends it."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from deployments.client import Headrace, HeadraceError
from deployments.errors import ClusterError
from deployments.item_batches import BATCH, DELAYS_S, ItemSender, StoppedError, batches
from deployments.openapi_bodies import MAX_ROWS
from features.catalogue import CatalogueRow, Rejected
from tests.deployments.item_door import Item, opened


class Client:
    """Stands where the client stands: answers by a script of receipts, of errors, or of what to reject."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    def items(self, items: Mapping[str, Item]) -> Item:
        """Answer as the script says, at its end with success."""
        self.asked.append(list(items))
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return {"accepted": len(items) - len(answer), "rejected": answer}


class Pauses:
    """Waits for nothing, and remembers."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.delays_s: list[float] = []
        self.said: list[str] = []
        self._stop_at = stop_at

    def __call__(self, delay_s: float) -> bool:
        """As `threading.Event.wait`."""
        self.delays_s.append(delay_s)
        return len(self.delays_s) == self._stop_at


def rows(*items: str) -> dict[str, CatalogueRow]:
    return {item: CatalogueRow(number, item, {}, {}) for number, item in enumerate(items)}


def sender(client: Client, pauses: Pauses) -> ItemSender:
    return ItemSender(client, pauses, pauses.said.append)  # type: ignore[arg-type]


def test_what_met_with_503_or_a_lost_connection_is_sent_again() -> None:
    pauses = Pauses()
    with opened({0: "away", 1: "away", 3: "lost"}) as door, Headrace(door.url) as client:
        sending = ItemSender(client, pauses, pauses.said.append)
        assert sending.send(rows("a", "b")) == []
        assert sending.send(rows("c")) == []
    assert door.posts == [["a", "b"], ["a", "b"], ["a", "b"], ["c"], ["c"]]
    assert pauses.delays_s == [*DELAYS_S[:2], DELAYS_S[0]]
    assert pauses.said[0] == "again in 0.25 s: 503 unreadable: no backend" and pauses.said[-1] == ""
    assert door.items() == {"a": {}, "b": {}, "c": {}}


def test_only_what_may_succeed_later_is_sent_again_and_progress_renews_patience() -> None:
    away = {"code": "store_unavailable", "message": "gone", "retryable": True}
    bad = {"code": "invalid", "message": "Expected more", "path": "$.attributes.price"}
    client = Client([{"index": 0, "error": away}, {"index": 1, "error": bad}, {"index": 2, "error": away}])
    client.answers += [HeadraceError(503, {"error": away, "rejected": [{"index": 0, "error": away}]})]
    client.answers += [HeadraceError(422, {"error": bad, "rejected": [{"index": 0, "error": bad}]})]
    pauses = Pauses()
    refused = sender(client, pauses).send(rows("a", "b", "c", "d"))
    assert client.asked == [["a", "b", "c", "d"], ["a", "c"], ["a"]]
    assert [(row.id, error) for row, error in refused] == [("b", bad), ("a", bad)]
    assert pauses.delays_s == [DELAYS_S[0]] * 2


def test_patience_ends_after_a_minute_without_progress() -> None:
    client = Client(*[HeadraceError(429, {"error": {"code": "overloaded", "message": "full"}})] * 100)
    pauses = Pauses()
    with pytest.raises(ClusterError, match="gave up after 56 s of asking again: 429 overloaded: full"):
        sender(client, pauses).send(rows("a"))
    assert pauses.delays_s == [*DELAYS_S]


@pytest.mark.parametrize("error", [HeadraceError(404, {}), httpx.ConnectError("refused")])
def test_what_waiting_does_not_change_ends_it_at_once(error: Exception) -> None:
    client, pauses = Client(error), Pauses()
    with pytest.raises(type(error)):
        sender(client, pauses).send(rows("a"))
    assert pauses.delays_s == []


def test_the_user_can_stop_the_waiting() -> None:
    client = Client([], httpx.ReadTimeout("late"), httpx.ReadTimeout("late"))
    pauses = Pauses(stop_at=2)
    sending = sender(client, pauses)
    assert sending.send(rows("a")) == []
    with pytest.raises(StoppedError):
        sending.send(rows("b"))
    assert client.asked == [["a"], ["b"], ["b"]]


def test_bad_rows_fill_batches_too() -> None:
    bad = [Rejected(number, "no", "", {}) for number in range(2500)]
    assert [batch.n_rows for batch in batches(bad)] == [1000, 1000, 500]
    assert BATCH <= MAX_ROWS
