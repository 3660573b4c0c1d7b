"""A recorded stream and its queries as arrays: what every rival ranks from.

Users, sessions, items and context values are numbered from 0, so that a rival's state is arrays. Where events or
queries name no session, a person's events are one. Every column of the events that is not one of the known ones is
context.

The one rule of time is here: `until_Q` says how many events are strictly before a query. A rival may fold exactly
those. The true items are not here.

Legend: E events, Q queries, K candidates, C context columns.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

HOUR_MS: Final = 3_600_000
NOT_CONTEXT: Final = frozenset({"ts_ms", "type", "user", "session", "item", "id", "decision", "value"})

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Events in time order, and queries in time order."""

    ts_ms_E: I64
    user_E: I32
    session_E: I32
    item_E: I32
    context_EC: I32
    n_values_C: I64
    """How many values each context column has."""
    asked_ms_Q: I64
    until_Q: I64
    asker_Q: I32
    visit_Q: I32
    """The query's user and session."""
    candidates_QK: I32
    n_users: int
    n_sessions: int
    n_items: int

    @property
    def n_events(self) -> int:
        """How many events."""
        return len(self.ts_ms_E)

    def ages_ms(self, item_Q: I32) -> I64:
        """Time of each query since the first event of an item; -1 where that had none before (*cold*)."""
        first_ms_I = np.full(self.n_items, np.iinfo(np.int64).max)
        np.minimum.at(first_ms_I, self.item_E, self.ts_ms_E)
        return np.where(first_ms_I[item_Q] < self.asked_ms_Q, self.asked_ms_Q - first_ms_I[item_Q], -1)


def as_stream(events: pa.Table, queries: pa.Table) -> Stream:
    """Number what is in two tables in time order.

    Args:
        events: `ts_ms, user, item`, optional `session`; other columns are context.
        queries: `ts_ms, user, candidates`, optional `session`.
    Raises:
        ValueError: If slates are not all of one length, or there is none.
    """
    n_candidates = set(pc.list_value_length(queries["candidates"]).to_pylist())
    if len(n_candidates) != 1:
        raise ValueError(f"candidates: expected slates of one length, got {sorted(n_candidates)[:5] or 'no query'}")
    ts_ms_E, asked_ms_Q = events["ts_ms"].to_numpy(), queries["ts_ms"].to_numpy()
    session = "session" if "session" in events.column_names and "session" in queries.column_names else "user"
    user_E, asker_Q, n_users = _numbered(events["user"], queries["user"])
    session_E, visit_Q, n_sessions = _numbered(events[session], queries[session])
    item_E, candidate, n_items = _numbered(events["item"], pc.list_flatten(queries["candidates"]))
    contexts = [_numbered(events[name])[::2] for name in events.column_names if name not in NOT_CONTEXT]
    return Stream(
        ts_ms_E=ts_ms_E,
        user_E=user_E,
        session_E=session_E,
        item_E=item_E,
        context_EC=np.stack([codes for codes, _ in contexts], axis=1) if contexts else np.zeros((len(user_E), 0), "i4"),
        n_values_C=np.array([n for _, n in contexts], dtype=np.int64),
        asked_ms_Q=asked_ms_Q,
        until_Q=np.searchsorted(ts_ms_E, asked_ms_Q, side="left"),
        asker_Q=asker_Q,
        visit_Q=visit_Q,
        candidates_QK=candidate.reshape(queries.num_rows, -1),
        n_users=n_users,
        n_sessions=n_sessions,
        n_items=n_items,
    )


def _numbered(known: pa.ChunkedArray, asked: Any = None) -> tuple[I32, I32, int]:
    """Codes of two columns in one numbering, and how many there are; a null is a value of its own."""
    parts = [known.cast(known.type)] if asked is None else [known, asked.cast(known.type)]
    chunks = [chunk for part in parts for chunk in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])]
    if pa.types.is_dictionary(known.type):
        chunks = [chunk.cast(known.type.value_type) for chunk in chunks]
    coded = pa.chunked_array(chunks).combine_chunks().dictionary_encode(null_encoding="encode")
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    return codes[: len(known)], codes[len(known) :], len(coded.dictionary)
