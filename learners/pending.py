"""Events on their way to becoming a batch: each with its slate as it was known just before the event.

A slate is the event's item and the negatives drawn for it. Adding an event copies, byte for byte, the rows of the
candidates and the successors of the user's latest items; that is all that has to be done before the event is folded.
Everything else (choosing counters by context, hashing, decay) is done once a batch by the encoder.

It knows neither the log nor the network.

Legend: B requests, K candidates, P predecessors, S successors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Request, Slates
from features.item_table import UNKNOWN, ItemTable
from features.schema import hash64


class PendingBatch:
    """`add` events until it is time, then `take` their slates."""

    def __init__(self, encoder: Encoder, table: ItemTable, size: int, n_negatives: int) -> None:
        self._encoder = encoder
        self._table = table
        self._requests: list[Request] = []
        self._key_BK = np.zeros((size, 1 + n_negatives), dtype=np.uint64)
        self._fixed_BK = np.zeros(self._key_BK.shape, table.fixed.dtype)
        span = encoder.schema.successor_span
        self._successors_BPS = np.zeros((size, span, encoder.schema.n_successors), table.successors.dtype)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request, item: str, rows: NDArray[np.int64], stand_in_keys: NDArray[np.uint64]) -> None:
        """Gather one event's slate as of now.

        Args:
            request: What was known of the person just before the event; its candidates are not looked at.
            item: What it happened to.
            rows: Of the negatives.
            stand_in_keys: Keys of those negatives whose row is `UNKNOWN`.
        """
        table, b = self._table, len(self._requests)
        row = table.rows.get(item, UNKNOWN)
        rows_K = np.concatenate(([row], rows))
        key_K = self._key_BK[b]
        key_K[:] = table.key[rows_K]
        key_K[1:][rows == UNKNOWN] = stand_in_keys[rows == UNKNOWN]
        key_K[0] = key_K[0] or hash64(item)
        _copy(table.fixed, rows_K, self._fixed_BK[b])
        rows_P = np.array(self._encoder.rows_before(table, request.user.recent, request.now_ms))
        _copy(table.successors, rows_P, self._successors_BPS[b])
        self._requests.append(request)

    def take(self) -> Slates:
        """The slates of all pending events, to be assembled before the next `add`.

        The positive is candidate 0, repeated candidates are masked.
        """
        n = len(self._requests)
        key_BK = self._key_BK[:n].copy()
        items, successors = (
            copies[:n].reshape(-1, *copies.shape[2:]) for copies in (self._fixed_BK, self._successors_BPS)
        )
        rows_BK, rows_BP = np.arange(key_BK.size).reshape(n, -1), np.arange(len(successors)).reshape(n, -1)
        requests, self._requests = self._requests, []
        return Slates(requests, ~_is_repeated(key_BK), key_BK, items, rows_BK, successors, rows_BP)


def _copy(table: NDArray[Any], rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    # As opaque records: numpy copies structured ones field by field, at ten times the price.
    opaque = np.dtype((np.void, table.dtype.itemsize * (table.shape[1] if table.ndim > 1 else 1)))
    flat = out.reshape(-1).view(opaque) if table.ndim == 1 else out.reshape(len(rows), -1).view(opaque)[:, 0]
    source = table.view(opaque) if table.ndim == 1 else table.view(opaque)[:, 0]
    flat[:] = source[rows]


def _is_repeated(key_BK: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether a candidate stands earlier in its slate."""
    order = np.argsort(key_BK, axis=1, kind="stable")
    ordered = np.take_along_axis(key_BK, order, axis=1)
    is_repeated = np.zeros(key_BK.shape, dtype=bool)
    np.put_along_axis(is_repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return is_repeated
