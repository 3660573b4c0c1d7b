"""What replicas have of the model, and what they get next.

    draft(full) ─► an edition ─► judged, sent ─► settle
                      │
                      └─► dropped: the next draft holds what this one would have brought

A publisher knows what replicas have, to the last byte: a `draft` is the difference between that and a version. What has
moved most comes first; what does not fit into so many bytes comes with the editions after it, unless it moves back.
Nobody waits for a dense weight, nor for a key that is gone.

A key that replicas have no row of stands on the fallback there; how far it has moved is counted from that.

No Ray, no torch. Price: all rows once, as bytes.

Legend: N rows of a table, D embedding, M rows that may differ.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from learners.editions import F32, I8, U64, Head, Part, Place, cut, restored, rounded
from learners.snapshots import Delta, Rows

I64 = NDArray[np.int64]
EDITION_BYTES: Final = 4 << 20  # of rows: 95,000 with embeddings of 32
FALLBACK: Final = 0  # row of the keys that have none


@dataclass(slots=True)
class Change:
    """What an edition does to a table."""

    rows: I64  # [M] that come, ascending
    keys: U64  # [M]
    scales: F32  # [M]
    codes: I8  # [M, D]
    moved: F32  # [M] squares of how far
    gone: I64  # rows of which the key is gone
    fallback: F32  # [D]
    is_finite: bool
    """Whether these rows, and the fallback, were."""
    n_left: int = 0
    """Rows that differ and did not fit."""

    @property
    def row_bytes(self) -> int:
        """Of one row, in a part."""
        return self.keys.itemsize + self.scales.itemsize + int(self.codes.shape[1])

    def keep(self, fits_M: NDArray[np.bool_]) -> None:
        """Leave out the rows that do not fit."""
        self.n_left = int(len(fits_M) - np.count_nonzero(fits_M))
        if self.n_left:
            for name in ("rows", "keys", "scales", "codes", "moved"):
                setattr(self, name, getattr(self, name)[fits_M])


@dataclass(slots=True)
class Draft:
    """An edition that may become one."""

    head: Head
    changes: dict[str, Change]
    after: Place
    """What replicas had when it was drafted."""

    @property
    def is_finite(self) -> bool:
        """Whether all weights were; rows that were not come as zeros."""
        return bool(np.isfinite(self.head.weights).all()) and all(one.is_finite for one in self.changes.values())

    @property
    def parts(self) -> list[Part]:
        """Its rows."""
        return [
            part
            for name, change in self.changes.items()
            for part in cut(name, change.keys, change.scales, change.codes)
        ]

    @property
    def n_left(self) -> int:
        """Rows that differ and did not fit."""
        return sum(change.n_left for change in self.changes.values())


@dataclass(slots=True)
class _Table:
    """What replicas have of a table, by the learner's rows; a row without a key they do not have."""

    keys: U64
    scales: F32
    codes: I8
    fallback: F32
    may_differ: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.may_differ = np.zeros(len(self.keys), dtype=bool)

    def grow(self, n_rows: int) -> None:
        """Have room for this many rows."""
        n_more = max(n_rows, 2 * len(self.keys)) - len(self.keys)
        if n_rows <= len(self.keys):
            return
        for name in ("keys", "scales", "codes", "may_differ"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((n_more, *array.shape[1:]), dtype=array.dtype)]))


class Publisher:
    """`note` what a commit has touched; `draft`, then `settle` if it is sent. No two drafts have one number.

    Args:
        origin: Of the editions' numbers.
        max_bytes: Of the rows of an edition that is not whole.
    """

    def __init__(self, origin: str, max_bytes: int) -> None:
        self.place = Place(origin, 0)
        """Of the newest edition that was settled; number 0: there is none."""
        self.version = 0
        """That replicas have."""
        self._n_drafts = 0
        self._max_bytes = max_bytes
        self._head: Head | None = None
        self._tables: dict[str, _Table] = {}

    def note(self, delta: Delta) -> None:
        """What this delta has touched may differ from now on."""
        for name, part in delta.tables.items():
            if name in self._tables:
                self._mark(self._tables[name], part.rows.astype(np.int64))

    def note_all(self, full: Delta) -> None:
        """Anything may differ: another version is in the place of what was."""
        for name, rows in full.tables.items():
            if name in self._tables:
                self._mark(self._tables[name], np.arange(max(len(rows.rows), len(self._tables[name].keys))))

    def draft(self, full: Delta, *, is_limited: bool = True) -> Draft:
        """How replicas come from what they have to this version.

        Args:
            full: A whole version.
            is_limited: Whether `max_bytes` applies; a version that is gone back to comes whole.
        """
        is_first = self._head is None or self._head.model != full.model
        self._n_drafts += 1
        if is_first:
            self._tables = {name: _nothing(rows) for name, rows in full.tables.items()}
            self.note_all(full)
        budget = self._max_bytes if is_limited and not is_first else None
        changes = {name: _change(self._tables[name], rows) for name, rows in full.tables.items()}
        if budget is not None:
            _keep_most_moved(list(changes.values()), budget)
        head = Head(
            Place(self.place.origin, self._n_drafts),
            None if is_first else self.place,
            full.version,
            full.fingerprint,
            full.model,
            full.progress.trained_through_ms,
            {name: rows.max_rows for name, rows in full.tables.items()},
            full.weights,
            {name: change.fallback for name, change in changes.items()},
            {name: self._tables[name].keys[change.gone] for name, change in changes.items()},
        )
        return Draft(head, changes, self.place)

    def draft_gone(self, full: Delta) -> Draft | None:
        """What replicas have, without the keys that a whole version does not have; None if there are none."""
        if self._head is None or self._head.model != full.model:
            return None
        draft = self.draft(full, is_limited=False)
        for change in draft.changes.values():
            change.keep(np.zeros(len(change.rows), dtype=bool))
        if not any(len(change.gone) for change in draft.changes.values()):
            return None
        before = self._head
        draft.head = Head(
            *(draft.head.place, self.place, before.version, before.fingerprint, before.model),
            *(before.trained_through_ms, before.max_rows, before.weights, before.fallbacks, draft.head.gone),
        )
        for name, change in draft.changes.items():
            change.fallback = before.fallbacks[name]
        return draft

    def settle(self, draft: Draft) -> None:
        """Replicas have this now."""
        for name, change in draft.changes.items():
            table = self._tables[name]
            table.keys[change.gone], table.scales[change.gone], table.codes[change.gone] = 0, 0.0, 0
            table.keys[change.rows] = change.keys
            table.scales[change.rows], table.codes[change.rows] = change.scales, change.codes
            table.fallback = change.fallback
        self.place, self.version = draft.head.place, draft.head.version
        self._head = msgspec.structs.replace(draft.head, gone={})  # what is gone is not kept either

    def whole(self) -> tuple[Head, list[Part]]:
        """All that replicas have, as an edition at the place of the newest one.

        Raises:
            RuntimeError: If they have nothing.
        """
        if self._head is None:
            raise RuntimeError("nothing is published yet")
        head, found = self._head, []
        for name, table in self._tables.items():
            rows = np.flatnonzero(table.keys)
            found += list(cut(name, table.keys[rows], table.scales[rows], table.codes[rows]))
        nothing = {name: np.zeros(0, dtype=np.uint64) for name in self._tables}
        return Head(
            *(head.place, None, head.version, head.fingerprint, head.model, head.trained_through_ms),
            *(head.max_rows, head.weights, head.fallbacks, nothing),
        ), found

    @staticmethod
    def _mark(table: _Table, rows: I64) -> None:
        if len(rows):
            table.grow(int(rows[-1]) + 1)
            table.may_differ[rows] = True


def _nothing(rows: Rows) -> _Table:
    n, width = len(rows.rows), rows.values.shape[1]
    return _Table(
        np.zeros(n, dtype=np.uint64),
        np.zeros(n, dtype=np.float32),
        np.zeros((n, width), dtype=np.int8),
        np.zeros(width, dtype=np.float32),
    )


def _change(table: _Table, rows: Rows) -> Change:
    """All that replicas do not have as it is."""
    at = np.flatnonzero(table.may_differ)
    at = at[at != FALLBACK]
    keys = np.zeros(len(at), dtype=np.uint64)
    is_in = at < len(rows.rows)
    keys[is_in] = rows.keys[at[is_in]]
    before = table.keys[at]
    gone = at[(before != 0) & (before != keys)]
    is_there = keys != 0
    at, keys, is_known = at[is_there], keys[is_there], (before == keys)[is_there]
    values = rows.values[at]
    scales, codes = rounded(values)
    differs = ~is_known | (scales != table.scales[at]) | (codes != table.codes[at]).any(axis=1)
    at, keys, is_known, values = at[differs], keys[differs], is_known[differs], values[differs]
    step = values - np.where(is_known[:, None], restored(table.scales[at], table.codes[at]), table.fallback)
    table.may_differ[:] = False
    table.may_differ[gone] = table.may_differ[at] = True  # until it is settled, and found to be the same
    moved = np.einsum("nd,nd->n", step, step)
    fallback = rows.values[FALLBACK].copy()
    is_finite = bool(np.isfinite(moved).all() and np.isfinite(fallback).all())
    return Change(at, keys, scales[differs], codes[differs], moved, gone, fallback, is_finite)


def _keep_most_moved(changes: list[Change], max_bytes: int) -> None:
    """Leave out what does not fit, the least moved of all tables first."""
    sizes = np.concatenate([np.full(len(change.rows), change.row_bytes) for change in changes])
    if sizes.sum() <= max_bytes:
        return
    order = np.argsort(-np.concatenate([change.moved for change in changes]), kind="stable")
    fits = np.empty(len(order), dtype=bool)
    fits[order] = np.cumsum(sizes[order]) <= max_bytes
    ends = np.cumsum([len(change.rows) for change in changes])
    for change, some in zip(changes, np.split(fits, ends[:-1]), strict=True):
        change.keep(some)
