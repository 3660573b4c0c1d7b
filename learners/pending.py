"""Events on their way to becoming a batch.

They wait as they are. When the batch is taken, one compiled pass lives through them: the slate of an event that is
learned from (its item and the negatives drawn for it) is encoded as it was known just before the event; then the event
is folded into the item table. So the table is behind by what is pending; who changes it by anything else says
`live_through` first.

It knows neither the log nor the network.

Legend: B slates, E events, K candidates, N negatives.
"""

import logging
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Inputs, Request
from features.errors import FeatureError
from features.events import LoggedEvent
from features.history import Arrays
from features.item_table import UNKNOWN, ItemTable
from features.schema import hash64
from features.state import histories_in, history_in
from learners.sampling import NegativeSampler

logger = logging.getLogger(__name__)


class PendingBatch:
    """`add` events until it is time, then `take` their inputs."""

    def __init__(self, encoder: Encoder, table: ItemTable, sampler: NegativeSampler) -> None:
        self._encoder = encoder
        self._table = table
        self._sampler = sampler
        self._events: list[LoggedEvent] = []
        self._states: list[bytes] = []
        self._slates: list[int] = []
        """Number of each event's slate among those that wait; -1: it has none."""
        self._requests: list[Request] = []
        self._lived: list[Inputs] = []
        self._sources: list[str | None] = []
        self._people: list[int] = []
        self._n_slates = 0
        self.n_drawn = 0
        """Slates that negatives were drawn for, ever: draws depend on it."""
        self.n_passed_over = 0
        """Events that turned out to have no state."""

    def __len__(self) -> int:
        """Number of slates."""
        return self._n_slates

    def add(self, event: LoggedEvent, state: bytes, request: Request | None = None) -> None:
        """Take in the next event.

        Args:
            state: Of who it happened to, from just before it, packed. It may turn out to be none, later, of an event
                that has no slate: that one is passed over.
            request: What would have been asked just before it, whatever the candidates; None: the event has no slate.
        """
        self._events.append(event)
        self._states.append(state)
        if request is None:
            self._slates.append(-1)
            return
        self._slates.append(len(self._requests))
        self._requests.append(request)
        self._sources.append(event.source)
        self._people.append(hash64(event.user))
        self._n_slates += 1

    def live_through(self) -> None:
        """Encode the slates of the events that wait, and fold the events."""
        if not self._events:
            return
        table = self._table
        seen = self._histories()
        if not self._events:
            return  # none of them had a state
        changes = table.changes(self._events, seen, lambda e: history_in(self._states[e], table.schema).items())
        slate_E = np.array(self._slates)
        has_slate_E = slate_E >= 0
        rows_BN, stand_in_BN = self._sampler.draw(self.n_drawn, len(self._requests))
        rows_BK = np.column_stack((changes.row[has_slate_E], rows_BN))
        stand_in_BK = np.column_stack((changes.key[has_slate_E], stand_in_BN))
        key_BK = np.where(rows_BK == UNKNOWN, stand_in_BK, table.key[rows_BK])
        inputs, last_ms_E = self._encoder.live_through(
            *(table, changes, slate_E, self._requests, seen.of(has_slate_E), rows_BK, key_BK)
        )
        self._sampler.meet(table, changes.row, last_ms_E, changes.ts_ms)
        self.n_drawn += len(self._requests)
        if self._requests:
            self._lived.append(inputs)
        self._events, self._states, self._slates, self._requests = [], [], [], []

    def _histories(self) -> Arrays:
        """Of those whom the events that wait happened to; events whose state is none wait no longer."""
        seen, is_read_E = histories_in(self._states, self._table.schema)
        if is_read_E.all():
            return seen
        for e in np.flatnonzero(~is_read_E)[::-1].tolist():
            try:
                history_in(self._states[e], self._table.schema)
            except FeatureError as error:
                logger.error("an event at %d ms is passed over: %s", self._events[e].ts_ms, error)
            del self._events[e], self._states[e], self._slates[e]
            self.n_passed_over += 1
        return seen.of(is_read_E)

    def take(self) -> tuple[Inputs | None, list[str | None], list[int]]:
        """All slates; all events are folded.

        Returns:
            Inputs [B, K], the positive as candidate 0, None if there are none; the source of each slate's event; and
            the hash of whom it happened to.
        """
        self.live_through()
        lived, self._lived = self._lived, []
        sources, self._sources = self._sources, []
        people, self._people = self._people, []
        self._n_slates = 0
        return joined(lived) if lived else None, sources, people


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Inputs of several lists of requests, one after the other; slates of one length."""
    if len(parts) == 1:
        return parts[0]
    columns: list[NDArray[np.generic]] = [
        np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Inputs)
    ]
    return Inputs(*columns)  # type: ignore[arg-type]
