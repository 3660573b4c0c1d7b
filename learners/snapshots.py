"""What a learner has learned, as a value: everything, or what changed since a version.

`pack` makes bytes of it (`learners.packing`); one of another schema is refused by `check_schema`. A full snapshot is a
delta whose `base` is None, and `merge` lays a delta over it. Replicas get editions instead (`learners.editions`).

A row whose key is 0 is free. Who takes a delta forgets the key that a row had before.

The module does not know what weights mean, nor how they travel.

Legend: N rows, D embedding.
"""

from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.schema import Schema
from learners.errors import CorruptSnapshot, ForeignSnapshot, StaleSnapshot
from learners.packing import Packing

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]


class Progress(msgspec.Struct, array_like=True):
    """How far the log is learned from."""

    positions: dict[int, tuple[int, int]]
    """Newest entry read, (ms, seq) by partition."""
    trained_through_ms: int
    n_events: int
    n_examples: int
    metrics: dict[str, float]
    """Progressive validation, by name."""


class Upkeep(msgspec.Struct, array_like=True):
    """What only a learner needs of an embedding table; see `learners.embeddings`."""

    accumulators: F32  # [N]
    uses: F32  # [N]
    met_s: U32  # [N]
    hand: int
    n_free: int
    free: int
    n_counted: int
    places: U32
    """Of the counters that follow; none if these are all."""
    counts: NDArray[np.uint8]


class Rows(msgspec.Struct, array_like=True):
    """Rows of one embedding table, ascending."""

    rows: U32  # [N]
    keys: NDArray[np.uint64]  # [N]; 0 where a row is free, and of the fallback
    values: F32  # [N, D]
    max_rows: int
    """Of the table."""
    upkeep: Upkeep | None
    """None in what is public."""
    owners: NDArray[np.uint64] | None = None
    """[N] who alone has met a row's key (`learners.owners`); None where nobody says, and by an earlier release."""


class Look(msgspec.Struct, array_like=True):
    """What was found when a stratum of items was looked through; see `learners.sampling`."""

    rows: U32
    cumulative: NDArray[np.float64]


class Strata(msgspec.Struct, array_like=True):
    """What of a sampler goes on, beside what its strata met."""

    rows: U32
    """Of the items whose stratum follows; none if these are all."""
    stratum: NDArray[np.int8]
    n_since: list[float]
    """Positives since each was looked through."""
    looks: dict[int, Look]
    """By stratum."""


class Private(msgspec.Struct, array_like=True):
    """What only a learner needs in order to go on."""

    weights: F32
    """As they are trained; those of the version are their running mean."""
    mean: F32
    square: F32
    n_steps: int
    n_skipped: int
    progressive: list[float]
    drift: list[float]
    mean_since: int
    """Step with which the mean that serves began."""
    lateness: list[float]
    lift: float
    """Of the bias of what serves, by now; see `lifted`."""
    met: list[float]
    """Of the sampler."""
    n_drawn: int
    """Slates that negatives were drawn for."""
    items: dict[str, bytes]
    """Packed item rows; ids in the order of their rows."""
    strata: Strata | None = None
    """None of several learners, and in what an earlier release wrote: then all are looked through anew."""
    lifted: float | None = None
    """How much of `lift` is in the bias yet: a step may have found more. None, by an earlier release: all of it."""


class Delta(msgspec.Struct, array_like=True):
    """What changed between version `base` and `version`; everything, when `base` is None."""

    version: int
    base: int | None
    fingerprint: int
    """Of the schema."""
    model: dict[str, int]
    """The network's configuration, for a replica to build it."""
    weights: F32
    """All dense parameters and statistics, flat."""
    tables: dict[str, Rows]
    progress: Progress
    private: Private | None


_packing = Packing(b"HRSNAP\x00\x05", Delta)
pack, unpack = _packing.pack, _packing.unpack


def check_schema(delta: Delta, schema: Schema) -> None:
    """Refuse a delta of another schema.

    Raises:
        ForeignSnapshot: If it is.
    """
    if delta.fingerprint != schema.fingerprint:
        raise ForeignSnapshot(
            f"version {delta.version}: made under schema {delta.fingerprint:016x}, expected {schema.fingerprint:016x}; "
            f"bring that schema back or start without its versions"
        )


def private_of(full: Delta, schema: Schema) -> Private:
    """What a learner goes on from.

    Raises:
        ForeignSnapshot: If it is of another schema, or no learner's full snapshot.
    """
    check_schema(full, schema)
    if full.base is not None or full.private is None:
        raise ForeignSnapshot(f"version {full.version}: expected a learner's full snapshot, got a part of one")
    return full.private


def merge(full: Delta, delta: Delta) -> Delta:
    """Lay a delta over a full snapshot, in place where there is room.

    Returns:
        The full snapshot at the delta's version; use `full` no more.
    Raises:
        StaleSnapshot: If the delta stands on another version.
        ForeignSnapshot: If it is of another schema or network.
        CorruptSnapshot: If its tables are not what tables can be.
    """
    if full.base is not None or delta.base != full.version:
        raise StaleSnapshot(f"version {delta.version} stands on {delta.base}, not on {full.version}; take a full one")
    if (delta.fingerprint, delta.model, set(delta.tables)) != (full.fingerprint, full.model, set(full.tables)):
        raise ForeignSnapshot(f"version {delta.version} is of another schema or network than {full.version}")
    for name, part in delta.tables.items():
        _check_rows(name, part)
    return Delta(
        delta.version,
        None,
        full.fingerprint,
        full.model,
        delta.weights,
        {name: _merge_rows(full.tables[name], part) for name, part in delta.tables.items()},
        delta.progress,
        _merge_private(full.private, delta.private),
    )


def _check_rows(name: str, part: Rows) -> None:
    """Refuse rows that are not one for one, or lie beyond the table: there would be as much memory as they say."""
    columns: list[NDArray[Any]] = [part.keys, part.values]
    if part.upkeep is not None:
        columns += [part.upkeep.accumulators, part.upkeep.uses, part.upkeep.met_s]
    lengths = {len(column) for column in columns}
    is_within = not len(part.rows) or int(part.rows.max()) < part.max_rows
    if lengths != {len(part.rows)} or part.values.ndim != 2 or not is_within:
        raise CorruptSnapshot(
            f"table {name!r}: expected {len(part.rows)} rows below {part.max_rows} and as many of all"
        )


def _merge_private(full: Private | None, delta: Private | None) -> Private | None:
    if full is None or delta is None:
        return None
    full.items.update(delta.items)
    return msgspec.structs.replace(delta, items=full.items, strata=merge_strata(full.strata, delta.strata))


def merge_strata(full: Strata | None, part: Strata | None) -> Strata | None:
    """All of them after what was taken; use `full` no more."""
    if full is None or part is None:
        return None
    at = part.rows.astype(np.int64)
    n_rows = max(len(full.stratum), int(at[-1]) + 1 if len(at) else 0)
    stratum = _laid(full.stratum, part=part.stratum, n_rows=n_rows, at=at)
    return Strata(full.rows, stratum, part.n_since, full.looks | part.looks)


def _merge_rows(full: Rows, part: Rows) -> Rows:
    """A row that was freed, or has another key now, has nothing left of before."""
    at = part.rows.astype(np.int64)
    n_rows = max(len(full.rows), int(at[-1]) + 1 if len(at) else 0)
    laid = partial(_laid, n_rows=n_rows, at=at)
    upkeep = None
    if full.upkeep is not None and part.upkeep is not None:
        before, after = full.upkeep, part.upkeep
        upkeep = msgspec.structs.replace(
            after,
            accumulators=laid(before.accumulators, part=after.accumulators),
            uses=laid(before.uses, part=after.uses),
            met_s=laid(before.met_s, part=after.met_s),
            places=before.places,
            counts=_merge_counts(before, after),
        )
    rows, keys = laid(full.rows, part=part.rows), laid(full.keys, part=part.keys)
    owners = None
    if full.owners is not None or part.owners is not None:
        owners = laid(_owners(full), part=_owners(part))
    return Rows(rows, keys, laid(full.values, part=part.values), part.max_rows, upkeep, owners)


def _owners(rows: Rows) -> NDArray[np.uint64]:
    """Nobody's, where an earlier release wrote it."""
    return np.zeros(len(rows.rows), dtype=np.uint64) if rows.owners is None else rows.owners


def _merge_counts(full: Upkeep, part: Upkeep) -> NDArray[np.uint8]:
    if len(part.counts) == len(full.counts):
        return part.counts
    counts = _grown(full.counts, len(full.counts))
    counts[part.places] = part.counts
    return counts


def _laid(array: NDArray[Any], *, part: NDArray[Any], n_rows: int, at: NDArray[np.int64]) -> NDArray[Any]:
    array = _grown(array, n_rows)
    array[at] = part
    return array


def _grown(array: NDArray[Any], n_rows: int) -> NDArray[Any]:
    """A writable array of `n_rows` that begins with `array`: a longer view of its own buffer if that has room."""
    buffer = array.base
    if isinstance(buffer, np.ndarray) and buffer.flags.writeable and len(buffer) >= n_rows:
        return buffer[:n_rows]
    buffer = np.empty((2 * n_rows, *array.shape[1:]), dtype=array.dtype)
    buffer[: len(array)] = array
    return buffer[:n_rows]
