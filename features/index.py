"""An index from 64-bit keys to rows that grows a little at a time and forgets.

Open addressing with linear probing in `slots`, an array [S, 2] of key and row, S a power of two; at most half full. A
slot whose key is 0 is free. Key and row lie side by side, so that finding a row costs one cache miss. A key that goes
is not marked as gone: what was pushed behind it moves up (backward shift), so finding never slows down with age.

When half of it is full, a larger `slots` takes new keys and the old one is emptied from its front, a few slots for
every key that enters. Meanwhile both are asked. The larger one is made before it is needed, and its memory taken from
the machine bit by bit. So no call waits for all keys to move, nor for a hundred megabytes to be zeroed.

The price is 32 to 64 bytes a key, half as much again while it moves. Compiled as `features.compiling` says.

Legend: N keys, S slots. `state` is (number of keys, slots of the old array that are empty for good).
"""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from features.compiling import compiled

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: any pattern of keys leaves one of places
AHEAD: Final = 8  # keys or rows whose memory is asked for before they are needed
LINE: Final = 64  # bytes
N_KEYS: Final = 0
N_MOVED: Final = 1
PACE: Final = 4  # old slots emptied for each key that enters: twice what must be, before the new array is half full
PACE_AT_LEAST: Final = 64
READY_PACE: Final = 32  # slots made ready for each key: twice what must be between three eighths full and half


def _prefetch(context: Any, address: Any) -> Any:
    """Ask for a line of memory without waiting for it; as numba wants its intrinsics, by type and by code."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer_type, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer_type, word, word, word])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        how = (ir.Constant(word, value) for value in (0, 3, 1))  # to read, and to keep; data
        builder.call(prefetch, [builder.inttoptr(args[0], pointer_type), *how])
        return context.get_dummy_value()

    return types.void(types.intp), build


_fetch: Any = intrinsic(_prefetch)


@compiled()
def fetch_row(array: Any, row: Any) -> None:
    """Ask for a row of an array, without waiting for it."""
    start = array.ctypes.data + np.int64(row) * array.strides[0]
    for at in range(0, array.strides[0], LINE):
        _fetch(start + at)


@compiled()
def fetch_slot(slots: Any, key: Any) -> None:
    """Ask for the slot where a key would be, without waiting for it."""
    _fetch(slots.ctypes.data + np.int64(_home_of(key, np.uint64(len(slots) - 1))) * 16)


@compiled(inline="always")
def _home_of(key: Any, last: Any) -> Any:
    return (key * SPREAD >> np.uint64(32)) & last


@compiled()
def place_of(slots: Any, key: Any) -> Any:
    """Where a key is, or the free slot where it would be."""
    last = np.uint64(len(slots) - 1)
    at = _home_of(key, last)
    while slots[at, 0] != 0 and slots[at, 0] != key:
        at = (at + np.uint64(1)) & last
    return at


@compiled()
def find(slots: Any, old: Any, key: Any) -> Any:
    """Row of a key; 0 for an absent or unknown one."""
    if key == 0:
        return np.int64(0)
    at = place_of(slots, key)
    if slots[at, 0] != 0:
        return np.int64(slots[at, 1])
    if len(old):
        at = place_of(old, key)
        if old[at, 0] != 0:
            return np.int64(old[at, 1])
    return np.int64(0)


@compiled()
def enter(slots: Any, old: Any, state: Any, key: Any, row: Any) -> None:
    """Enter a present key, or change its row; there must be room for it."""
    at = place_of(slots, key)
    if slots[at, 0] == 0 and len(old):
        before = place_of(old, key)
        if old[before, 0] != 0:
            old[before, 1] = np.uint64(row)
            return
    state[N_KEYS] += slots[at, 0] == 0
    slots[at, 0] = key
    slots[at, 1] = np.uint64(row)


@compiled()
def leave(slots: Any, old: Any, state: Any, key: Any) -> None:
    """Forget a key, if it is known."""
    at = place_of(slots, key)
    if slots[at, 0] != 0:
        _close_up(slots, at)
        state[N_KEYS] -= 1
    elif len(old):
        at = place_of(old, key)
        if old[at, 0] != 0:
            _close_up(old, at)
            state[N_KEYS] -= 1


@compiled()
def _close_up(slots: Any, hole: Any) -> None:
    """Free a slot. What was pushed past it moves up, or it would not be found any more."""
    last = np.uint64(len(slots) - 1)
    at = hole
    while True:
        at = (at + np.uint64(1)) & last
        if slots[at, 0] == 0:
            break
        home = _home_of(slots[at, 0], last)
        if ((at - home) & last) >= ((at - hole) & last):
            slots[hole, 0], slots[hole, 1] = slots[at, 0], slots[at, 1]
            hole = at
    slots[hole, 0] = np.uint64(0)


@compiled()
def move(slots: Any, old: Any, state: Any, n_steps: int) -> None:
    """Empty the old array further, from its front.

    Slots before the place reached stay empty: what moves up when a key goes, moves up to that key's slot at most.
    """
    for _ in range(n_steps):
        at = state[N_MOVED]
        if at == len(old):
            return
        if old[at, 0] == 0:
            state[N_MOVED] += 1
            continue
        place = place_of(slots, old[at, 0])
        slots[place, 0], slots[place, 1] = old[at, 0], old[at, 1]
        _close_up(old, np.uint64(at))


@compiled()
def get(slots: Any, old: Any, key_N: Any, out_N: Any) -> None:
    """Rows of keys; 0 for absent and unknown ones."""
    for n in range(len(key_N)):
        out_N[n] = find(slots, old, key_N[n])


@compiled()
def put(slots: Any, old: Any, state: Any, key_N: Any, row_N: Any) -> None:
    """Enter keys with their rows; absent keys (0) are left out."""
    for n in range(len(key_N)):
        if key_N[n] != 0:
            enter(slots, old, state, key_N[n], row_N[n])


@compiled()
def drop(slots: Any, old: Any, state: Any, key_N: Any) -> None:
    """Forget keys; absent and unknown ones are left out."""
    for n in range(len(key_N)):
        if key_N[n] != 0:
            leave(slots, old, state, key_N[n])


NOTHING: Final = np.zeros((0, 2), dtype=np.uint64)


class KeyIndex:
    """`reserve` before `put`; who enters keys in a compiled loop of his own does the same.

    Args:
        n_expected: Keys that there is room for without growing.
    """

    def __init__(self, n_expected: int) -> None:
        self.slots = self._slots_for(n_expected)
        self.old = self._next = NOTHING
        self._n_ready = 0
        self.state = np.zeros(2, dtype=np.int64)
        self._n_before = 0

    def __len__(self) -> int:
        """Number of keys."""
        return int(self.state[N_KEYS])

    def get(self, keys: U64) -> I64:
        """Rows, in the shape of the keys; 0 for absent and unknown ones."""
        rows = np.empty(keys.size, dtype=np.int64)
        get(self.slots, self.old, keys.ravel(), rows)
        return rows.reshape(keys.shape)

    def put(self, keys_N: U64, rows_N: NDArray[np.integer]) -> None:
        """Enter keys with their rows; absent ones are left out."""
        self.reserve(len(keys_N))
        put(self.slots, self.old, self.state, keys_N, rows_N.astype(np.int64))

    def drop(self, keys_N: U64) -> None:
        """Forget keys; absent and unknown ones are left out."""
        drop(self.slots, self.old, self.state, keys_N)

    def reserve(self, n_more: int) -> None:
        """Have room for this many keys more; moves some of what is still to move."""
        n_entered, self._n_before = max(len(self) - self._n_before, 0), len(self)
        n_wanted = len(self) + n_more
        self._move(PACE_AT_LEAST + PACE * n_entered)
        if not len(self.old) and 8 * n_wanted > 3 * len(self.slots):
            self._prepare(PACE_AT_LEAST + READY_PACE * n_entered)
        if 2 * n_wanted > len(self.slots):
            self._move(2 * len(self.old))  # all of it: only where more keys come at once than there were
            is_enough = len(self._next) >= 2 * n_wanted
            self.old, self.slots = self.slots, self._next if is_enough else self._slots_for(n_wanted)
            self._next, self._n_ready, self.state[N_MOVED] = NOTHING, 0, 0

    def _prepare(self, n_slots: int) -> None:
        if not len(self._next):
            self._next = self._slots_for(len(self.slots))
        self._next[self._n_ready : self._n_ready + n_slots] = 0
        self._n_ready += n_slots

    def _move(self, n_steps: int) -> None:
        if len(self.old):
            move(self.slots, self.old, self.state, n_steps)
            if self.state[N_MOVED] == len(self.old):
                self.old = NOTHING

    @staticmethod
    def _slots_for(n_keys: int) -> U64:
        n_slots = 1 << (2 * max(n_keys, 1) - 1).bit_length()
        return np.zeros((n_slots, 2), dtype=np.uint64)
