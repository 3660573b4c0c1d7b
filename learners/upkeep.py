"""Compiled loops that keep an embedding table: who gets a row, who keeps it, what a row learns.

A key is *met* once in a step, however often the step names it. A row's `uses` count its key's meetings, halved for
every `HALF_LIFE_S` that passes; what they are worth now is known from `met_s`, when they were last counted. Time is
that of the log, in whole seconds; so all of this follows from the log alone.

A free row's `met_s` is the number of the next free one: the list of them needs no memory, and travels with the rows.

Legend: N keys or rows, D embedding, C counters. `rows` is (weight_ND, key_N, accumulator_N, uses_N, met_s_N, flags_N,
touched_N, owner_N), `index` is (slots, old, state of the index), `state` holds the numbers that `N_ROWS` to `N_COUNTED`
name.
"""

from typing import Any, Final

import numpy as np

from features.compiling import FUSED, allocating, compiled
from features.index import AHEAD, enter, fetch_row, fetch_slot, find, leave, place_of
from learners.kernels import dot
from learners.owners import EVERYBODY, NOBODY

NOISE: Final = 0.1  # half-width of a new row's noise: enough to tell rows apart, too little to outrank counters
EPSILON: Final = np.float32(1e-8)
HALF_LIFE_S: Final = 7 * 86_400.0  # of usefulness: what was met daily for a week outweighs what was met now for one
SAMPLED: Final = 8  # rows of which the least useful goes
SWEPT: Final = 1024  # rows looked at in a step for being expired: ten million in an hour, at three steps a second
FREED: Final = 64  # rows freed by expiry in a step, at most

N_ROWS: Final = 0  # rows that were ever used; the fallback is the first
N_FREE: Final = 1
FREE: Final = 2  # the first free row; 0 for none
HAND: Final = 3  # the row that is looked at next
N_TOUCHED: Final = 4
N_COUNTED: Final = 5  # sum of the admission counters

TOUCHED: Final = np.uint32(1)
MET: Final = np.uint32(2)


@compiled()
def touch(rows: Any, state: Any, row: Any) -> None:
    """Note that a row has changed."""
    flags_N, touched_N = rows[5], rows[6]
    if not flags_N[row] & TOUCHED:
        flags_N[row] |= TOUCHED
        touched_N[state[N_TOUCHED]] = row
        state[N_TOUCHED] += 1


@compiled(fastmath=FUSED)
def adagrad(rows: Any, state: Any, row_N: Any, gradient_ND: Any, rate: Any) -> None:
    """One step of row-wise Adagrad; each row at most once."""
    weight_ND, accumulator_N = rows[0], rows[2]
    for n in range(len(row_N)):
        if n + AHEAD < len(row_N):
            fetch_row(weight_ND, row_N[n + AHEAD])
            fetch_row(accumulator_N, row_N[n + AHEAD])
        row, gradient_D = row_N[n], gradient_ND[n]
        weight_D = weight_ND[row]
        accumulator_N[row] += dot(gradient_D, gradient_D) / np.float32(len(gradient_D))
        step = rate / (np.sqrt(accumulator_N[row]) + EPSILON)
        for d in range(len(gradient_D)):
            weight_D[d] -= step * gradient_D[d]
        touch(rows, state, row)


@compiled()
def add(rows: Any, state: Any, row_N: Any, change_ND: Any, square_N: Any) -> None:
    """Add changes to rows and their accumulators; each row at most once."""
    weight_ND, accumulator_N = rows[0], rows[2]
    for n in range(len(row_N)):
        row = row_N[n]
        accumulator_N[row] += square_N[n]
        for d in range(weight_ND.shape[1]):
            weight_ND[row, d] += change_ND[n, d]
        touch(rows, state, row)


@compiled()
def noise_of(key: Any, place: int) -> Any:
    """Uniform in ±`NOISE`; depends on key and place only (splitmix64)."""
    x = key + np.uint64(place + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float32(NOISE * (2.0 * (np.float64(x ^ (x >> np.uint64(31))) / 2.0**64) - 1.0))


@allocating()
def meet(
    index: Any,
    rows: Any,
    state: Any,
    count_C: Any,
    counted_N: Any,
    limits: Any,
    key_N: Any,
    now_s: int,
) -> Any:
    """The meetings of one step: known keys are counted, unknown ones admitted, and the hand goes on.

    Args:
        count_C: Meetings of keys without a row, by hash.
        counted_N: Gets the counters that changed, as many as there are keys; -1 for all of them.
        limits: `max_rows`, `expire_s`, `admit_after`.
    Returns:
        Number of counters noted.
    """
    slots, old, index_state = index
    max_rows, expire_s, admit_after = limits
    key_N = distinct(key_N)
    row_N = np.zeros(len(key_N), dtype=np.int64)
    n_counted = 0
    for n in range(len(key_N)):
        if n + AHEAD < len(key_N):
            fetch_slot(slots, key_N[n + AHEAD])
        row_N[n] = find(slots, old, key_N[n])
    for n in range(len(key_N)):
        if n + AHEAD < len(key_N):
            fetch_row(rows[1], row_N[n + AHEAD])
        if row_N[n]:
            _count(rows, state, row_N[n], now_s)
    for n in range(len(key_N)):
        if row_N[n]:
            continue
        if admit_after > 1:
            at = _counter_of(key_N[n], count_C)
            counted_N[n_counted] = at
            n_counted += 1
            if not _is_admitted(state, count_C, at, admit_after):
                continue
        row_N[n] = _take(index, rows, state, max_rows, now_s)
        if row_N[n]:
            _begin(rows, row_N[n], key_N[n])
            enter(slots, old, index_state, key_N[n], row_N[n])
            _count(rows, state, row_N[n], now_s)
    for n in range(len(key_N)):
        rows[5][row_N[n]] &= ~MET
    _sweep(index, rows, state, expire_s, now_s)
    if 2 * state[N_COUNTED] > len(count_C):
        _halve(state, count_C)
        return -1
    return n_counted


@allocating()
def distinct(key_N: Any) -> Any:
    """Present keys in order of appearance, each once."""
    n_slots = 4
    while n_slots < 2 * len(key_N):
        n_slots *= 2
    slots, found_N, n_found = np.zeros((n_slots, 2), dtype=np.uint64), np.empty_like(key_N), 0
    for n in range(len(key_N)):
        if key_N[n] != 0:
            at = place_of(slots, key_N[n])
            if slots[at, 0] == 0:
                slots[at, 0] = found_N[n_found] = key_N[n]
                n_found += 1
    return found_N[:n_found]


@compiled()
def _worth(uses: Any, met_s: Any, now_s: int) -> Any:
    waited_s = max(now_s - np.int64(met_s), np.int64(0))
    return uses * np.exp2(np.float32(waited_s * np.float64(-1.0 / HALF_LIFE_S)))


@compiled()
def _count(rows: Any, state: Any, row: Any, now_s: int) -> None:
    """Note a meeting. The row must not go in this step."""
    uses_N, met_s_N, flags_N = rows[3], rows[4], rows[5]
    uses_N[row] = np.float32(1.0) + _worth(uses_N[row], met_s_N[row], now_s)
    met_s_N[row] = now_s
    touch(rows, state, row)
    flags_N[row] |= MET


@compiled()
def _begin(rows: Any, row: Any, key: Any) -> None:
    """A new row is the fallback plus noise of its key."""
    weight_ND = rows[0]
    rows[1][row] = key
    for d in range(weight_ND.shape[1]):
        weight_ND[row, d] = weight_ND[0, d] + noise_of(key, d)
    rows[4][row] = np.uint32(0)


@compiled()
def _take(index: Any, rows: Any, state: Any, max_rows: int, now_s: int) -> Any:
    """A row for a new key: one that is free, else one never used, else that of the least useful; 0 if none may go."""
    if not state[FREE] and state[N_ROWS] < max_rows:
        state[N_ROWS] += 1
        return state[N_ROWS] - 1
    if not state[FREE]:
        worst = _least_useful(rows, state, now_s)
        if worst:
            _free(index, rows, state, worst)
    row = state[FREE]
    if row:
        state[FREE] = np.int64(rows[4][row])
        state[N_FREE] -= 1
    return row


@compiled()
def _advance(state: Any) -> Any:
    """The row under the hand, which goes on to the next; the fallback is left out."""
    row = state[HAND] if state[HAND] < state[N_ROWS] else 1
    state[HAND] = row + 1
    return row


@compiled()
def _least_useful(rows: Any, state: Any, now_s: int) -> Any:
    """Of the rows under the hand, the least useful that was not met in this step; 0 if there is none."""
    key_N, uses_N, met_s_N, flags_N = rows[1], rows[3], rows[4], rows[5]
    worst, least = np.int64(0), np.float32(np.inf)
    for _ in range(min(SAMPLED, state[N_ROWS] - 1)):
        row = _advance(state)
        if key_N[row] != 0 and not flags_N[row] & MET:
            worth = _worth(uses_N[row], met_s_N[row], now_s)
            if worth < least:
                worst, least = row, worth
    return worst


@compiled()
def _free(index: Any, rows: Any, state: Any, row: Any) -> None:
    """Forget a row's key and all that it learned."""
    weight_ND, key_N, accumulator_N, uses_N, met_s_N, _, _, owner_N = rows
    slots, old, index_state = index
    leave(slots, old, index_state, key_N[row])
    key_N[row], uses_N[row], accumulator_N[row] = np.uint64(0), np.float32(0.0), np.float32(0.0)
    weight_ND[row] = np.float32(0.0)
    if len(owner_N):
        owner_N[row] = NOBODY
    met_s_N[row] = np.uint32(state[FREE])
    state[FREE] = row
    state[N_FREE] += 1
    touch(rows, state, row)


@compiled()
def own(index: Any, rows: Any, key_N: Any, person_N: Any) -> None:
    """Note who met keys; a row that two have met belongs to `EVERYBODY`, in whatever order they came.

    The rows were met in this step, so they are touched already.

    Args:
        person_N: Who met each key; `EVERYBODY` for several.
    """
    slots, old, _ = index
    owner_N = rows[7]
    for n in range(len(key_N)):
        row = find(slots, old, key_N[n])
        if row:
            owner_N[row] = _owner_of_both(owner_N[row], person_N[n])


@compiled(inline="always")
def _owner_of_both(one: Any, other: Any) -> Any:
    return other if one in (NOBODY, other) else EVERYBODY


@compiled()
def free(index: Any, rows: Any, state: Any, row_N: Any) -> None:
    """Forget the keys of rows, and all that they learned."""
    for n in range(len(row_N)):
        _free(index, rows, state, row_N[n])


@compiled()
def _sweep(index: Any, rows: Any, state: Any, expire_s: Any, now_s: int) -> None:
    """Free expired rows under the hand; it looks at so many and frees so many, never more."""
    key_N, met_s_N, n_freed = rows[1], rows[4], 0
    for _ in range(min(SWEPT, state[N_ROWS] - 1)):
        row = _advance(state)
        if key_N[row] != 0 and now_s - np.int64(met_s_N[row]) >= expire_s:
            _free(index, rows, state, row)
            n_freed += 1
            if n_freed == FREED:
                return


@compiled()
def _counter_of(key: Any, count_C: Any) -> Any:
    mixed = (key ^ (key >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(len(count_C) - 1))


@compiled()
def _is_admitted(state: Any, count_C: Any, at: Any, admit_after: int) -> Any:
    """Count a meeting of a key without a row; whether that was enough. The counter is then free for others."""
    if count_C[at] + 1 >= admit_after:
        state[N_COUNTED] -= count_C[at]
        count_C[at] = 0
        return True
    count_C[at] += 1
    state[N_COUNTED] += 1
    return False


@compiled()
def _halve(state: Any, count_C: Any) -> None:
    state[N_COUNTED] = 0
    for c in range(len(count_C)):
        count_C[c] >>= 1
        state[N_COUNTED] += count_C[c]
