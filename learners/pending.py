"""Events on their way to becoming a batch.

They wait as they are. When the batch is taken, one compiled pass lives through them: each event's slate (its item and
the negatives drawn for it) is encoded as it was known just before the event, then the event is folded into the item
table. So the table is behind by what is pending; who changes it by anything else says `live_through` first.

It knows neither the log nor the network.

Legend: B events, K candidates.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Inputs, Request
from features.events import LoggedEvent
from features.item_table import UNKNOWN, ItemTable
from features.state import Recent
from learners.sampling import NegativeSampler


class PendingBatch:
    """`add` events until it is time, then `take` their inputs."""

    def __init__(self, encoder: Encoder, table: ItemTable, sampler: NegativeSampler) -> None:
        self._encoder = encoder
        self._table = table
        self._sampler = sampler
        self._requests: list[Request] = []
        self._events: list[tuple[LoggedEvent, Sequence[Recent]]] = []
        self._number = 0
        self._lived: list[Inputs] = []
        self._n_lived = 0

    def __len__(self) -> int:
        return self._n_lived + len(self._events)

    def add(self, request: Request, event: LoggedEvent, number: int) -> None:
        """Take in the next event.

        Args:
            request: What was known of the person just before the event; its candidates are not looked at.
            number: Of the event in the stream; decides what is drawn for it.
        """
        if not self._events:
            self._number = number
        self._requests.append(request)
        self._events.append((event, request.user.recent))

    def live_through(self) -> None:
        """Encode the slates of the events that wait, and fold the events."""
        if not self._events:
            return
        changes, before_BP = self._table.changes(self._events)
        rows_BN, stand_in_BN = self._sampler.draw(self._number, len(self._events))
        rows_BK = np.column_stack((changes.row, rows_BN))
        key_BK = np.where(rows_BK == UNKNOWN, np.column_stack((changes.key, stand_in_BN)), self._table.key[rows_BK])
        inputs, last_ms_B = self._encoder.live_through(
            *(self._table, self._requests, changes, before_BP, rows_BK, key_BK)
        )
        self._sampler.meet(changes.row, last_ms_B, changes.ts_ms)
        self._n_lived += len(self._events)
        self._lived.append(inputs)
        self._requests, self._events = [], []

    def take(self) -> Inputs:
        """Inputs of all pending events, which are folded. The positive is candidate 0."""
        self.live_through()
        lived, self._lived, self._n_lived = self._lived, [], 0
        return lived[0] if len(lived) == 1 else joined(lived)


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Inputs of several lists of requests, one after the other; slates of one length."""
    columns: list[NDArray[np.generic]] = [
        np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Inputs)
    ]
    return Inputs(*columns)  # type: ignore[arg-type]
