"""Whether two versions are the same, to the bit, and where they are not."""

from typing import Any

import msgspec
import numpy as np

from learners import snapshots
from learners.snapshots import Delta


def same(one: Delta, other: Delta) -> bool:
    """Bit for bit; prints where they differ."""
    if snapshots.pack(one) == snapshots.pack(other):
        return True
    print(*differences(one, other), sep="\n")
    return False


def differences(one: Any, other: Any, where: str = "version") -> list[str]:
    """The smallest parts that differ, by name."""
    if isinstance(one, msgspec.Struct) and isinstance(other, msgspec.Struct):
        one, other = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for name in one for found in differences(one[name], other[name], f"{where}.{name}")]
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _of_arrays(one, other, where)
    is_same = msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)  # NaN is NaN
    return [] if is_same else [f"{where}: {one!r:.200} and {other!r:.200}"]


def _of_arrays(one: Any, other: Any, where: str) -> list[str]:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return [f"{where}: {one.dtype} {one.shape} and {other.dtype} {other.shape}"]
    if one.tobytes() == other.tobytes():
        return []
    at = np.flatnonzero((one != other).ravel())
    first = f", first [{at[0]}]: {one.ravel()[at[0]]} and {other.ravel()[at[0]]}" if len(at) else " but for bits"
    return [f"{where}: {len(at)} of {one.size}{first}"]
