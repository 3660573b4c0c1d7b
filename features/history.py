"""A person's recent items as they are packed in a state, and many of them at once as arrays.

What ranks and learns needs keys, types and times of whole batches: compiled loops read them out of the packed bytes.
Ids themselves are wanted rarely; `History.items` has them.

    per item   msgpack [item, type number, ts_ms], newest first, side by side

Legend: B people, W items at most, P predecessors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.compiling import compiled
from features.decoding import decoder
from features.errors import CorruptState
from features.hashing import LONGEST, xxh3_64
from features.schema import hash64

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Recent = tuple[str, int, int]
"""(item, type number, ts_ms)"""

BROKEN: Final = -1
ANY_TYPE: Final = 1 << 31
_decode = decoder(msgspec.msgpack, list[Recent])
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class History:
    """Recent items of a person, newest first."""

    n: int
    packed: bytes
    latest_ms: int
    """When the newest was acted on; 0 for nothing."""

    def __len__(self) -> int:
        return self.n

    def items(self) -> list[Recent]:
        """Taken apart.

        Raises:
            CorruptState: If the bytes do not parse.
        """
        try:
            # A msgpack array but for its header: array16 with their number.
            return _decode(b"\xdc" + self.n.to_bytes(2, "big") + self.packed)
        except msgspec.DecodeError as error:
            raise CorruptState(f"recent items: {error}") from None


NOTHING: Final = History(0, b"", 0)


class Arrays(NamedTuple):
    """Many histories, [B, W]; keys of 0 where there is nothing."""

    key: U64
    type: I64
    ms: I64

    @classmethod
    def zeros(cls, n_people: int, width: int) -> "Arrays":
        """Nothing yet."""
        shape = n_people, width
        return cls(np.zeros(shape, np.uint64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def of(self, which_B: NDArray[np.bool_]) -> "Arrays":
        """Those of some people."""
        return Arrays(self.key[which_B], self.type[which_B], self.ms[which_B])

    def newest(self, width: int) -> "Arrays":
        """The first `width` columns; zeros where there are fewer."""
        found = Arrays.zeros(len(self.key), width)
        for array_BW, out_BW in zip(self, found, strict=True):
            out_BW[:, : array_BW.shape[1]] = array_BW[:, :width]
        return found


def history_of(items: Sequence[Recent]) -> History:
    """Packed."""
    return History(len(items), b"".join(map(_encode, items)), items[0][2] if items else 0)


def checked(n: int, packed: bytes, n_types: int) -> History:
    """The history of `n` items that these bytes are.

    Args:
        n_types: Types of events that there are.
    Raises:
        CorruptState: If they are not.
    """
    if not n and not packed:
        return NOTHING
    latest_ms, is_plain = _check(np.frombuffer(packed, np.uint8), n, n_types)
    if latest_ms == BROKEN:
        raise CorruptState(f"recent items: expected {n} entries in {len(packed)} bytes")
    found = History(n, packed, latest_ms)
    if not is_plain:
        found.items()  # only that tells whether it is UTF-8; later nobody expects that it is not
    return found


def arrays_of(histories: Sequence[History], width: int) -> Arrays:
    """The newest `width` items of each."""
    data, start_B = joined([history.packed for history in histories])
    n_B = np.fromiter(map(len, histories), np.int64, len(histories))
    found, _ = read(data, start_B[:-1], start_B[1:], n_B, width, ANY_TYPE)
    return found


def joined(parts: Sequence[bytes]) -> tuple[NDArray[np.uint8], I64]:
    """All bytes, and where each part starts [B + 1]; the last is where the last one ends."""
    start_B = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=start_B[1:])
    return np.frombuffer(b"".join(parts), np.uint8), start_B


def read(
    data: NDArray[np.uint8], start_B: I64, end_B: I64, n_B: I64, width: int, n_types: int
) -> tuple[Arrays, NDArray[np.bool_]]:
    """Packed histories that stand somewhere in these bytes.

    Args:
        n_B: Their items; negative for what is known to be none.
        n_types: Types of events that there are.
    Returns:
        The newest `width` items of each, and which ones are histories; of the others there is nothing.
    """
    found, is_read_B = Arrays.zeros(len(n_B), width), np.empty(len(n_B), dtype=bool)
    if _read(data, start_B, end_B, n_B, n_types, found, is_read_B):
        for b in np.flatnonzero((found.type < 0).any(axis=1)).tolist():
            _read_strange(History(int(n_B[b]), data[start_B[b] : end_B[b]].tobytes(), 0), b, found, is_read_B)
    return found, is_read_B


def _read_strange(history: History, b: int, found: Arrays, is_read_B: NDArray[np.bool_]) -> None:
    """Fill in the ids that are too long to be hashed in the loop, or may be no UTF-8."""
    try:
        items = history.items()
    except CorruptState:
        is_read_B[b] = False
        found.key[b], found.type[b], found.ms[b] = 0, 0, 0
        return
    for w in np.flatnonzero(found.type[b] < 0).tolist():
        item, found.type[b, w], _ = items[w]
        found.key[b, w] = hash64(item)


@compiled()
def before(ms_B: Any, own_B: Any, key_BW: Any, ms_BW: Any, window_ms: Any, out_BP: Any) -> None:
    """Keys of the distinct items, newest first, that count as coming before an item at an instant.

    Args:
        own_B: Keys of the items, which do not come before themselves; 0: of no item.
        out_BP: Zeros; gets the keys.
    """
    for b in range(len(ms_B)):
        p = 0
        for w in range(key_BW.shape[1]):
            key = key_BW[b, w]
            if key == 0 or p == out_BP.shape[1]:
                break
            if key == own_B[b] or ms_BW[b, w] < ms_B[b] - window_ms:
                continue
            is_new = True
            for earlier in range(p):
                is_new &= out_BP[b, earlier] != key
            if is_new:
                out_BP[b, p] = key
                p += 1


@compiled()
def _check(data: Any, n: int, n_types: int) -> Any:
    """The time of the first of `n` entries, if these bytes are that and nothing else; and whether all ids are ASCII."""
    latest_ms = at = 0
    is_plain = True
    for entry in range(n):
        start, length, _, ms, at = next_entry(data, at, len(data), n_types)
        if at == BROKEN:
            return BROKEN, False
        is_plain &= _is_ascii(data, start, length)
        if entry == 0:
            latest_ms = ms
    return (latest_ms if at == len(data) else BROKEN), is_plain


@compiled()
def _read(data: Any, start_B: Any, end_B: Any, n_B: Any, n_types: int, found: Any, is_read_B: Any) -> Any:
    """Read histories; a type of -1 where the id is too long to be hashed here, or not ASCII. Returns how many."""
    key_BW, type_BW, ms_BW = found.key, found.type, found.ms
    n_strange, width = 0, key_BW.shape[1]
    for b in range(len(n_B)):
        at = start_B[b] if n_B[b] >= 0 else BROKEN
        for w in range(n_B[b]):
            start, length, kind, ms, at = next_entry(data, at, end_B[b], n_types)
            if at == BROKEN:
                break
            if w >= width:
                continue
            ms_BW[b, w] = ms
            if length > LONGEST or not _is_ascii(data, start, length):
                type_BW[b, w] = -1
                n_strange += 1
            else:
                key = xxh3_64(data, start, length)
                key_BW[b, w] = key if key else np.uint64(1)
                type_BW[b, w] = kind
        is_read_B[b] = at == end_B[b]
        if not is_read_B[b]:
            for w in range(width):
                n_strange -= type_BW[b, w] == -1
                key_BW[b, w], type_BW[b, w], ms_BW[b, w] = np.uint64(0), 0, 0
    return n_strange


@compiled()
def _is_ascii(data: Any, start: Any, length: Any) -> Any:
    """Whether bytes are ASCII."""
    every = np.uint8(0)
    for at in range(start, start + length):
        every |= data[at]
    return every < 0x80


@compiled()
def next_entry(data: Any, at: Any, end: Any, n_types: int) -> Any:
    """Where the id of an entry starts, its bytes, type, time, and where the next entry starts; there `BROKEN` if it is
    none."""
    if at + 2 > end or data[at] != 0x93:
        return 0, 0, 0, 0, BROKEN
    start, length = at + 2, np.int64(data[at + 1])
    if 0xA0 <= length <= 0xBF:
        length -= 0xA0
    elif length == 0xD9 and start < end:
        length = np.int64(data[start])
        start += 1
    elif length == 0xDA and start + 1 < end:
        length = np.int64(data[start]) * 256 + np.int64(data[start + 1])
        start += 2
    else:
        return 0, 0, 0, 0, BROKEN
    kind, at = _number(data, start + length, end)
    ms, at = _number(data, at, end)
    if not 0 <= kind < n_types or ms < 0:  # as one of 64 bits becomes
        at = BROKEN
    return start, length, kind, ms, at


@compiled()
def _number(data: Any, at: Any, end: Any) -> Any:
    """An unsigned number, and where it ends; there `BROKEN` if it is none."""
    if at == BROKEN or at >= end:
        return 0, BROKEN
    first = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    n_bytes = 1 << (first - 0xCC)
    if not 0xCC <= first <= 0xCF or at + 1 + n_bytes > end:
        return 0, BROKEN
    found = np.int64(0)
    for i in range(n_bytes):
        found = found * 256 + np.int64(data[at + 1 + i])
    return found, at + 1 + n_bytes
