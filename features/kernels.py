"""Compiled loops of the encoder: what touches every candidate of every request.

Plain functions over arrays, compiled by numba at their first call and cached on disk beside this file. They write into
`out` arrays of zeros that the caller owns, allocate next to nothing, and know neither schema nor items.

Legend: B requests, K candidates, N item records, P predecessors, S successors, H successor half-lives, G counter
groups, V counter values, R recent items, F dense features.
"""

from typing import Any, Final

import numpy as np
from numba import njit

EMPTY: Final = -1
DAY_MS: Final = 86_400_000


@njit(cache=True, error_model="numpy")
def counters(
    rows_BK: Any, now_B: Any, column_BV: Any, ms_NG: Any, value_NW: Any, group_V: Any, decay_V: Any, out_BKF: Any
) -> None:
    """log(1 + counter decayed to the request's instant) in the first V features.

    Args:
        column_BV: Which value of a record each request looks at; negative: none, the feature stays 0.
        decay_V: 1 / half-life, per ms.
    """
    for b in range(rows_BK.shape[0]):
        for k in range(rows_BK.shape[1]):
            row = rows_BK[b, k]
            for v in range(len(group_V)):
                column = column_BV[b, v]
                if column < 0:
                    continue
                value = value_NW[row, column]
                if value != 0.0:
                    age_ms = np.float32(min(ms_NG[row, group_V[v]] - now_B[b], 0))
                    out_BKF[b, k, v] = log_of_one_more(value * np.exp2(age_ms * decay_V[v]))


@njit(cache=True, error_model="numpy")
def ages(rows_BK: Any, now_B: Any, first_N: Any, last_N: Any, no_age: float, start: int, out_BKF: Any) -> None:
    """Three features from `start`: whether the item is known, its age, and how long ago it was last acted on."""
    for b in range(rows_BK.shape[0]):
        for k in range(rows_BK.shape[1]):
            row = rows_BK[b, k]
            if first_N[row] > 0:
                out_BKF[b, k, start] = 1.0
                out_BKF[b, k, start + 1] = damped(now_B[b] - first_N[row])
                out_BKF[b, k, start + 2] = damped(now_B[b] - last_N[row])
            else:
                out_BKF[b, k, start + 2] = no_age


@njit(cache=True, error_model="numpy")
def numbers(rows_BK: Any, number_NM: Any, start: int, out_BKF: Any) -> None:
    """Numeric attributes on a signed log scale from `start`; absent ones (NaN) stay 0."""
    for b in range(rows_BK.shape[0]):
        for k in range(rows_BK.shape[1]):
            for m in range(number_NM.shape[1]):
                out_BKF[b, k, start + m] = signed_log(number_NM[rows_BK[b, k], m])


@njit(cache=True, error_model="numpy")
def gather(rows_BK: Any, key_NA: Any, out_BKA: Any) -> None:
    """Each candidate's attribute keys."""
    for b in range(rows_BK.shape[0]):
        for k in range(rows_BK.shape[1]):
            for a in range(key_NA.shape[1]):
                out_BKA[b, k, a] = key_NA[rows_BK[b, k], a]


@njit(cache=True, error_model="numpy")
def recency(now_B: Any, recent_BR: Any, recent_ms_BR: Any, out_BR: Any) -> None:
    """How long ago each recent item was; 0 where there is none."""
    for b in range(recent_BR.shape[0]):
        for r in range(recent_BR.shape[1]):
            if recent_BR[b, r] != 0:
                out_BR[b, r] = damped(now_B[b] - recent_ms_BR[b, r])


@njit(cache=True, error_model="numpy")
def seen(key_BK: Any, now_B: Any, recent_BR: Any, recent_ms_BR: Any, no_age: float, start: int, out_BKF: Any) -> None:
    """Two features from `start`: how often the recent items hold the candidate, log(1 + n), and how long ago last."""
    n_candidates = key_BK.shape[1]
    slots = new_slots(n_candidates)
    for b in range(key_BK.shape[0]):
        keys = key_BK[b]
        fill(slots, keys)
        out_BKF[b, :, start + 1] = no_age
        for r in range(recent_BR.shape[1]):
            k = find(slots, keys, recent_BR[b, r])
            if k >= 0:
                out_BKF[b, k, start] += 1.0
                idle = damped(now_B[b] - recent_ms_BR[b, r])
                out_BKF[b, k, start + 1] = min(out_BKF[b, k, start + 1], idle)
        for k in range(n_candidates):
            if out_BKF[b, k, start] > 0.0:
                out_BKF[b, k, start] = log_of_one_more(out_BKF[b, k, start])


@njit(cache=True, error_model="numpy")
def person(
    word_BW: Any,
    now_B: Any,
    instant_U: Any,
    value_U: Any,
    decay_U: Any,
    number_BM: Any,
    recent_BR: Any,
    recent_ms_BR: Any,
    no_age: float,
    out_BU: Any,
) -> None:
    """A user's decayed counters, number of recent items, time since the last one, time of day, and numbers.

    Args:
        word_BW: Packed counters as words of four bytes.
        instant_U: First of the two words that hold the instant of each counter; `value_U` the word of its value.
    """
    n_counters, n_recent = len(value_U), recent_BR.shape[1]
    value_BW = word_BW.view(np.float32)
    for b in range(len(now_B)):
        for u in range(n_counters):
            value = value_BW[b, value_U[u]]
            if value != 0.0:
                early, late = np.int64(word_BW[b, instant_U[u]]), np.int64(word_BW[b, instant_U[u] + 1])
                age_ms = min((late << 32 | early) - now_B[b], 0)
                out_BU[b, u] = log_of_one_more(np.float32(value * np.exp2(age_ms * decay_U[u])))
        n_known = 0
        for r in range(n_recent):
            n_known += recent_BR[b, r] != 0
        day = now_B[b] % DAY_MS * (2.0 * np.pi / DAY_MS)
        out_BU[b, n_counters] = n_known / n_recent
        out_BU[b, n_counters + 1] = damped(now_B[b] - recent_ms_BR[b, 0]) if n_known else no_age
        out_BU[b, n_counters + 2] = np.sin(day)
        out_BU[b, n_counters + 3] = np.cos(day)
        for m in range(number_BM.shape[1]):
            out_BU[b, n_counters + 4 + m] = signed_log(number_BM[b, m])


@njit(cache=True, error_model="numpy")
def successions(
    key_BK: Any,
    now_B: Any,
    rows_BP: Any,
    key_NS: Any,
    ms_NS: Any,
    value_NSH: Any,
    decay_H: Any,
    start: int,
    out_BKF: Any,
) -> None:
    """Four features per half-life from `start`: what followed the user's latest items.

    Columns: weight after the last item, after the ones before it, share of the last one's whole, mean share of the
    others'; weights and shares as log(1 + 10 x).
    """
    n_before, n_half_lives = rows_BP.shape[1], len(decay_H)
    weight_SH = np.zeros((key_NS.shape[1], n_half_lives), dtype=np.float32)
    total_H = np.zeros(n_half_lives, dtype=np.float32)
    slots = new_slots(key_BK.shape[1])
    for b in range(key_BK.shape[0]):
        keys = key_BK[b]
        fill(slots, keys)
        for p in range(n_before):
            row = rows_BP[b, p]
            total_H[:] = 0.0
            for s in range(key_NS.shape[1]):
                if key_NS[row, s] != 0:
                    age_ms = np.float32(min(ms_NS[row, s] - now_B[b], 0))
                    for h in range(n_half_lives):
                        weight_SH[s, h] = value_NSH[row, s, h] * np.exp2(age_ms * decay_H[h])
                        total_H[h] += weight_SH[s, h]
            is_earlier = 1 if p > 0 else 0
            divisor = max(n_before - 1, 1) if p > 0 else 1
            for s in range(key_NS.shape[1]):
                k = find(slots, keys, key_NS[row, s])
                if k >= 0:
                    for h in range(n_half_lives):
                        share = weight_SH[s, h] / max(total_H[h], np.float32(1e-9)) / np.float32(divisor)
                        out_BKF[b, k, start + is_earlier * n_half_lives + h] += weight_SH[s, h]
                        out_BKF[b, k, start + (2 + is_earlier) * n_half_lives + h] += share
        for k in range(key_BK.shape[1]):
            for f in range(start, start + 4 * n_half_lives):
                if out_BKF[b, k, f] != 0.0:
                    out_BKF[b, k, f] = log_of_one_more(np.float32(10.0) * out_BKF[b, k, f])


@njit(cache=True)
def log_of_one_more(value: Any) -> Any:
    """log(1 + x) of a float32, to an absolute error of 1e-7: a third of the time of the C library's log1p."""
    return np.log(np.float32(1.0) + value)


@njit(cache=True)
def signed_log(value: Any) -> Any:
    """log(1 + |x|) with the sign of x; 0 for NaN."""
    size = log_of_one_more(abs(value))
    return size if value > 0 else -size if value < 0 else np.float32(0.0)


@njit(cache=True, error_model="numpy")
def damped(age_ms: int) -> Any:
    """log(1 + seconds) / 10; the future has age 0."""
    return log_of_one_more(np.float32(max(age_ms, 0) / 1000.0)) / np.float32(10.0)


@njit(cache=True)
def new_slots(n: int) -> Any:
    """An empty hash index for `n` keys: places by open addressing, at most half full."""
    size = 8
    while size < 2 * n:
        size *= 2
    return np.empty(size, dtype=np.int64)


@njit(cache=True)
def fill(slots: Any, keys: Any) -> None:
    """Index the keys; of one that is repeated the first place counts, absent ones (0) have none."""
    slots[:] = EMPTY
    for place in range(len(keys)):
        if keys[place] != 0:
            at = keys[place] & np.uint64(len(slots) - 1)
            while slots[at] != EMPTY and keys[slots[at]] != keys[place]:
                at = (at + np.uint64(1)) & np.uint64(len(slots) - 1)
            if slots[at] == EMPTY:
                slots[at] = place


@njit(cache=True)
def find(slots: Any, keys: Any, key: Any) -> Any:
    """Place of a key; `EMPTY` if it is none of them, or absent."""
    if key == 0:
        return EMPTY
    at = key & np.uint64(len(slots) - 1)
    while slots[at] != EMPTY:
        if keys[slots[at]] == key:
            return slots[at]
        at = (at + np.uint64(1)) & np.uint64(len(slots) - 1)
    return EMPTY
