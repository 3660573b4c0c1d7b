"""Sending a catalogue through the front door: rows to batches, batches to `POST /v1/items`, refusals back to rows.

    for batch in batches(catalogue.rows()):
        refused = sender.send(batch.items)      # returns when every other item of it is durable

Attributes replace those of before, so a request whose answer got lost is sent again. What helps later (a store that is
away, too much load, no connection) is waited for, a minute without any progress at most.

The module does not know files, nor what has been loaded before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from deployments.client import Headrace, HeadraceError
from deployments.errors import ClusterError
from deployments.gate import MAX_BODY_BYTES
from features.catalogue import CatalogueRow, Rejected, encode

BATCH: Final = 1000  # rows of a request; the route takes no more
ENVELOPE_BYTES: Final = 64  # what a body has beside its items, and some to spare
DELAYS_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0, *[8.0] * 6)
"""Pauses before a request is sent again: 56 s, in which a store or a node that was lost is back."""


class StoppedError(Exception):
    """The user ended the waiting."""


@dataclass(slots=True)
class Batch:
    """Consecutive rows that are settled together."""

    items: dict[str, CatalogueRow] = field(default_factory=dict)
    """To be sent. Of rows with the same id the last one stands here."""
    rejected: list[Rejected] = field(default_factory=list)
    n_rows: int = 0
    n_bytes: int = 0
    """Size of what is sent and of what is shown of rejected rows; a limit of both."""

    def add(self, row: CatalogueRow | Rejected, n_bytes: int) -> None:
        """Append a row."""
        self.n_rows += 1
        self.n_bytes += n_bytes
        if isinstance(row, Rejected):
            self.rejected.append(row)
        else:
            self.items[row.id] = row


def batches(rows: Iterable[CatalogueRow | Rejected]) -> Iterator[Batch]:
    """Divide rows so that each batch is one request; an item that none can hold is rejected."""
    limit_bytes = MAX_BODY_BYTES - ENVELOPE_BYTES
    batch = Batch()
    for row in rows:
        n_bytes = _size_bytes(row)
        if isinstance(row, CatalogueRow) and n_bytes > limit_bytes:
            reason = f"Expected at most {limit_bytes} bytes of JSON, got {n_bytes}"
            row = Rejected(row.number, reason, "", {"id": row.id})  # noqa: PLW2901
        if batch.n_rows == BATCH or (batch.n_rows and batch.n_bytes + n_bytes > limit_bytes):
            yield batch
            batch = Batch()
        batch.add(row, n_bytes)
    if batch.n_rows:
        yield batch


def _size_bytes(row: CatalogueRow | Rejected) -> int:
    shown = row.values if isinstance(row, Rejected) else {"id": row.id, "attributes": row.attributes}
    return len(encode(shown)) + 1  # the comma


class ItemSender:
    """Sends items until each is durable or refused.

    Args:
        pause: Waits so many seconds; True: the user wants to stop.
        say: Told why there is a pause; the empty text when it is over.
    """

    def __init__(self, client: Headrace, pause: Callable[[float], bool], say: Callable[[str], None]) -> None:
        self._client = client
        self._pause = pause
        self._say = say
        self._has_answered = False

    def send(self, items: Mapping[str, CatalogueRow]) -> list[tuple[CatalogueRow, dict[str, Any]]]:
        """Send the items of one batch.

        Returns:
            Rows that were refused for good, with `code`, `message` and perhaps `path`.
        Raises:
            StoppedError: If the user stops while something is waited for; some items of the batch may be durable.
            ClusterError: If there was no progress for a minute.
            HeadraceError: If the answer is one that waiting does not change.
            httpx.TransportError: If there is no answer to the very first request.
        """
        refused: list[tuple[CatalogueRow, dict[str, Any]]] = []
        waiting = list(items.values())
        delays = iter(DELAYS_S)
        while waiting:
            judged = [(waiting[rejection["index"]], rejection["error"]) for rejection in self._rejections(waiting)]
            again = [(row, error) for row, error in judged if error.get("retryable")]
            refused += [(row, error) for row, error in judged if not error.get("retryable")]
            if len(again) < len(waiting):
                delays = iter(DELAYS_S)
            if again:
                self._wait(next(delays, None), again[0][1])
            waiting = [row for row, _ in again]
        return refused

    def _rejections(self, rows: list[CatalogueRow]) -> list[dict[str, Any]]:
        """Send once; what became of the rest, `{"index", "error"}`. What all share is said of each."""
        try:
            rejected: list[dict[str, Any]] = self._client.items({row.id: row.attributes for row in rows})["rejected"]
            self._has_answered = True
            return rejected
        except HeadraceError as error:
            self._has_answered = True
            if "rejected" in error.body:
                return list(error.body["rejected"])
            if not error.retryable:
                raise
            reason = str(error)
        except httpx.TransportError as error:
            if not self._has_answered:
                raise
            reason = f"no answer: {error}"
        return [{"index": index, "error": {"message": reason, "retryable": True}} for index in range(len(rows))]

    def _wait(self, delay_s: float | None, error: Mapping[str, Any]) -> None:
        if delay_s is None:
            raise ClusterError(f"gave up after {sum(DELAYS_S):.0f} s of asking again: {error['message']}")
        self._say(f"again in {delay_s:g} s: {error['message']}")
        is_over = self._pause(delay_s)
        self._say("")
        if is_over:
            raise StoppedError
