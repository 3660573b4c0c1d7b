"""What the item features of a decision may have been, given every row that may have been looked at.

A replica reads each row by itself, so each may be of another moment; but what comes from one row is of one moment:

    count, split, is_known, age, idle, number   the candidate's row        all as one version of it gives them
    follows_last, share_last                    the last item's row        all candidates' as one version of it does
    follows_rest, share_rest                    rows of the items before   between the sums of least and of most
    n_seen, seen_idle                           the person's state         as that gives them

So nothing has to be monotone in the rows: shares fall and rise within half a second, and every version is tried. For
sums all versions of one row would have to be tried with all of another; hence an interval, but where only one of the
rows has several versions, these are tried.

Everything is compared as float16, as it is logged, and exactly: rows are loaded from the same bytes and go through the
same compiled loop as in a replica. Only the ends of an interval are put together here, and may be rounded elsewise than
the sum that a replica makes: they are moved by one unit in the last place.

Legend: K candidates, V versions, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Request
from features.history import history_of
from features.item_table import ItemTable

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Versions = Mapping[str, Sequence[bytes]]
"""Packed rows by item, the oldest first; at least one each, empty bytes for none."""

FAMILIES: Final = {
    "count": "counters",
    "split": "splits",
    "is_known": "ages",
    "age": "ages",
    "idle": "ages",
    "number": "numbers",
    "follows_last": "last",
    "share_last": "last",
    "follows_rest": "rest",
    "share_rest": "rest",
    "n_seen": "seen",
    "seen_idle": "seen",
}


def family_of(name: str) -> str:
    """The family of an item feature, by its name among `Encoder.dense_names`."""
    return FAMILIES[name.partition(":")[0].partition(".")[0]]


@dataclass(frozen=True, slots=True)
class Allowed:
    """The judgement, [K, F]."""

    served: F16
    is_allowed: NDArray[np.bool_]
    low: F16
    high: F16
    distance: F64
    """From what was served to what comes nearest; 0 where that is allowed."""


class Judge:
    """Judges the features of decisions, under one schema."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        families = [family_of(name) for name in encoder.dense_names]
        columns = {
            family: np.array([f for f, other in enumerate(families) if other == family], dtype=np.int64)
            for family in FAMILIES.values()
        }
        self._own = np.sort(np.concatenate([columns[name] for name in ("counters", "splits", "ages", "numbers")]))
        self._last, self._rest, self._seen = columns["last"], columns["rest"], columns["seen"]

    def judge(self, served_KF: F16, request: Request, versions: Versions, before: Sequence[str]) -> Allowed:
        """Judge what was served for a request.

        Args:
            versions: Of the candidates, and of the items before.
            before: The person's latest items that count, the last one first.
        """
        found = _Found.of(served_KF)
        self._judge_own(found, request, versions)
        found.settle(self._seen, self._nothing(request)[:, :, self._seen])
        self._judge_last(found, request, versions, before)
        self._judge_rest(found, request, versions, before)
        return found.allowed()

    def _judge_own(self, found: "_Found", request: Request, versions: Versions) -> None:
        """All versions of all candidates are encoded at once, as if they were so many items."""
        names = [[f"{k} {v}" for v in range(len(versions[item]))] for k, item in enumerate(request.candidates)]
        every = [name for some in names for name in some]
        rows = [row for item in request.candidates for row in versions[item]]
        table = ItemTable(self._encoder.schema, len(rows) + 2)
        table.load(every, rows)
        own = self._encoder.encode(table, [replace(request, candidates=every)]).dense[0][:, self._own]
        start = 0
        for k, some in enumerate(names):
            found.settle(self._own, own[start : start + len(some), None, :], slice(k, k + 1))
            start += len(some)

    def _judge_last(self, found: "_Found", request: Request, versions: Versions, before: Sequence[str]) -> None:
        values_VKF = self._by_version(request, versions, before[0], {}) if before else self._nothing(request)
        found.settle(self._last, values_VKF[:, :, self._last])

    def _judge_rest(self, found: "_Found", request: Request, versions: Versions, before: Sequence[str]) -> None:
        rest = before[1:]
        moved = [item for item in rest if len(versions[item]) > 1]
        if len(moved) > 1:
            alone = [self._by_version(request, versions, item, {})[:, :, self._rest] for item in rest]
            return found.bound(self._rest, *bounds_of_sums(alone))
        rows = {item: versions[item][0] for item in rest}
        values_VKF = self._by_version(request, versions, [*moved, *rest][0], rows) if rest else self._nothing(request)
        return found.settle(self._rest, values_VKF[:, :, self._rest])

    def _by_version(self, request: Request, versions: Versions, item: str, others: Mapping[str, bytes]) -> F32:
        """Features [V, K, F] as each version of one row gives them, with these others.

        All at once: as if so many people asked, each of whom acted on an item of his own in the place of this one.
        """
        rows = dict(others)
        requests = []
        for v, row in enumerate(versions[item]):
            rows[own := f"\0{v}"] = row
            recent = [(own if other == item else other, kind, ms) for other, kind, ms in request.user.recent]
            requests.append(replace(request, user=replace(request.user, history=history_of(recent))))
        return self._looked_at(requests, rows)

    def _nothing(self, request: Request) -> F32:
        return self._looked_at([request], {})

    def _looked_at(self, requests: Sequence[Request], rows: Mapping[str, bytes]) -> F32:
        """Features [V, K, F] of requests for the same candidates, with these rows alone."""
        table = ItemTable(self._encoder.schema, len(rows) + 2)
        table.load(list(rows), list(rows.values()))
        return self._encoder.encode(table, requests).dense


@dataclass(slots=True)
class _Found:
    """A judgement on its way."""

    served: F16
    is_allowed: NDArray[np.bool_]
    low: F16
    high: F16
    nearest: F16

    @classmethod
    def of(cls, served_KF: F16) -> "_Found":
        low, high, nearest = (np.zeros_like(served_KF) for _ in range(3))
        return cls(served_KF, np.zeros(served_KF.shape, dtype=bool), low, high, nearest)

    def settle(self, columns: I64, values_VKF: Any, rows: slice = slice(None)) -> None:
        """One version must give all of these; if none does, the one that differs least is what `nearest` tells."""
        values_VKF = values_VKF.astype(np.float16)
        is_equal_VKF = values_VKF == self.served[rows, columns]
        n_equal_V = is_equal_VKF.sum(axis=(1, 2))
        best = len(n_equal_V) - 1 - int(np.argmax(n_equal_V[::-1]))
        is_given = is_equal_VKF.any(axis=0)  # by some version; what no version gives is to blame, if there is such
        is_allowed = is_equal_VKF[best]
        self.is_allowed[rows, columns] = is_allowed if is_allowed.all() or is_given.all() else is_given
        self.nearest[rows, columns] = values_VKF[best]
        self.low[rows, columns], self.high[rows, columns] = values_VKF.min(axis=0), values_VKF.max(axis=0)

    def bound(self, columns: I64, low_KF: F16, high_KF: F16) -> None:
        """Everything from `low` to `high` may be."""
        served_KF = self.served[:, columns]
        self.is_allowed[:, columns] = (low_KF <= served_KF) & (served_KF <= high_KF)
        self.nearest[:, columns] = np.clip(served_KF, low_KF, high_KF)
        self.low[:, columns], self.high[:, columns] = low_KF, high_KF

    def allowed(self) -> Allowed:
        distance = np.abs(self.served.astype(np.float64) - self.nearest.astype(np.float64))
        return Allowed(self.served, self.is_allowed, self.low, self.high, distance)


def bounds_of_sums(alone: Sequence[F32]) -> tuple[F16, F16]:
    """Bounds of log(1 + sum over rows of x), from each row's log(1 + x) by version."""
    parts = [np.expm1(values_VKF.astype(np.float64)) for values_VKF in alone]
    least = np.log1p(sum(part.min(axis=0) for part in parts)).astype(np.float16)
    most = np.log1p(sum(part.max(axis=0) for part in parts)).astype(np.float16)
    return np.nextafter(least, np.float16(-np.inf)), np.nextafter(most, np.float16(np.inf))
