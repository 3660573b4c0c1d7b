"""Compiled loops over candidates and item rows: what is known of a slate, and what an event does to the rows.

`look` fills in the features of one request's candidates, `fold` adds one event to the rows of its item and of the items
before it. A replica looks for many requests (`look_all`), a projector folds many events (`fold_all`), a learner does
both in turn (`look_then_fold`): each slate as it was just before its event. So there is one arithmetic for all.

Plain functions over arrays, compiled as `features.compiling` says. They write into `out` arrays of zeros that the
caller owns, and know neither schema nor ids.

Legend: B requests, E events, K candidates, N item rows, P predecessors, S successors, H successor half-lives, G counter
groups, V counter values of a row, C counter features, R recent items, A attribute keys, M numbers, F dense features.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from features.compiling import allocating, compiled

UNKNOWN: Final = 0  # row of the item nobody has heard of
EMPTY: Final = -1
NO_BUCKET: Final = -1  # a group decays, but there is nothing to add to
UNCHANGED: Final = -2  # an event of this type says nothing to a group
DAY_MS: Final = 86_400_000
LOG_2: Final = float(np.log(2.0))
LAST: Final = 64
POWERS: Any = np.append(0.5 ** np.arange(LAST), 0.0)  # of a half; the last one stands for all that follow
NO_AGE: Final = np.float32(2.0)  # where there is nothing to have an age: that of 15 years


class Items(NamedTuple):
    """Columns of an item table."""

    key: Any  # [N]
    first_ms: Any  # [N] 0: never acted on
    last_ms: Any  # [N]
    ms: Any  # [N, G] instants of the counters
    value: Any  # [N, V]
    attribute_key: Any  # [N, A]
    number: Any  # [N, M]
    next_key: Any  # [N, S]
    next_ms: Any  # [N, S]
    next_value: Any  # [N, S, H]


class Groups(NamedTuple):
    """Where the counters of a row stand, and how they decay; group g has values `start[g]` to `start[g + 1]`."""

    start: Any  # [G + 1]
    n_half_lives: Any  # [G]
    half_life_ms: Any  # [V]
    uses_value: Any  # [G]
    next_half_life_ms: Any  # [H]


class Changes(NamedTuple):
    """Events on their way into the rows."""

    row: Any  # [E] of the item; `UNKNOWN`: it takes nothing
    key: Any  # [E] of the item
    ts_ms: Any  # [E]
    value: Any  # [E]
    bucket: Any  # [E, G] which bucket of a group counts it; or `NO_BUCKET`, `UNCHANGED`
    before: Any  # [E, P] rows of the items before it, the latest first; `UNKNOWN`: none


class Asked(NamedTuple):
    """Requests, as far as the features of candidates depend on them."""

    now_ms: Any  # [B]
    column: Any  # [B, C] which value of a row a request looks at; negative: none
    before: Any  # [B, P] rows of the person's latest items
    recent_key: Any  # [B, R]
    recent_ms: Any  # [B, R]


class Layout(NamedTuple):
    """Where features stand."""

    group: Any  # [C] group of a counter feature
    decay_per_ms: Any  # [C] 1 / half-life
    next_decay_per_ms: Any  # [H]
    follows: Any
    """Where the features of succession begin."""
    ages: Any
    seen: Any
    numbers: Any


class Out(NamedTuple):
    """What is filled in."""

    mask: Any  # [B, K]
    dense: Any  # [B, K, F]
    attribute_key: Any  # [B, K, A]


@allocating()
def look_all(asked: Any, items: Any, layout: Any, row_BK: Any, key_BK: Any, out: Any) -> None:
    """Features of all candidates that the mask names; the others stay zeros."""
    slots, place = new_slots(row_BK.shape[1]), new_places(items)
    for b in range(len(row_BK)):
        look(b, asked, items, layout, row_BK[b], key_BK[b], slots, place, out)


@compiled()
def fold_all(changes: Any, items: Any, groups: Any) -> None:
    """Fold events, one after the other."""
    for e in range(len(changes.row)):
        fold(e, changes, items, groups)


@allocating()
def look_then_fold(
    slate_E: Any,
    asked: Any,
    changes: Any,
    items: Any,
    layout: Any,
    groups: Any,
    row_BK: Any,
    key_BK: Any,
    out: Any,
    last_ms_E: Any,
) -> None:
    """Each event's slate, if it has one, as it was known just before it; then the event.

    Args:
        slate_E: Number of each event's slate; negative: it has none.
        out: Gets the mask too: a candidate that stands earlier in its slate is masked.
        last_ms_E: Gets when each event's item was acted on before.
    """
    slots, place = new_slots(row_BK.shape[1]), new_places(items)
    for e in range(len(slate_E)):
        b = slate_E[e]
        last_ms_E[e] = items.last_ms[changes.row[e]]
        if b >= 0:
            mask_first(key_BK[b], out.mask[b])
            look(b, asked, items, layout, row_BK[b], key_BK[b], slots, place, out)
        fold(e, changes, items, groups)


@compiled()
def look(b: Any, asked: Any, items: Any, layout: Any, row_K: Any, key_K: Any, slots: Any, place: Any, out: Any) -> None:
    """Features of one request's candidates.

    Args:
        slots, place: Used on the way.
    """
    mask_K, dense_KF = out.mask[b], out.dense[b]
    now_ms, recent_key_R, recent_ms_R = asked.now_ms[b], asked.recent_key[b], asked.recent_ms[b]
    fill(slots, key_K)
    counters(row_K, mask_K, now_ms, asked.column[b], items, layout, dense_KF)
    successions(slots, key_K, now_ms, asked.before[b], items, layout, place, dense_KF)
    ages(row_K, mask_K, now_ms, items, layout.ages, dense_KF)
    seen(slots, key_K, now_ms, recent_key_R, recent_ms_R, layout.seen, dense_KF)
    numbers(row_K, items.number, layout.numbers, dense_KF)
    for k in range(len(row_K)):
        for a in range(out.attribute_key.shape[2]):
            out.attribute_key[b, k, a] = items.attribute_key[row_K[k], a]
        if not mask_K[k]:
            dense_KF[k] = np.float32(0.0)


@compiled()
def counters(row_K: Any, mask_K: Any, now_ms: Any, column_C: Any, items: Any, layout: Any, out_KF: Any) -> None:
    """log(1 + counter decayed to the request's instant) in the first features."""
    for k in range(len(row_K)):
        if mask_K[k]:
            row = row_K[k]
            for c in range(len(column_C)):
                value = items.value[row, column_C[c]] if column_C[c] >= 0 else np.float32(0.0)
                if value != 0.0:
                    age_ms = np.float32(min(items.ms[row, layout.group[c]] - now_ms, 0))
                    out_KF[k, c] = log_of_one_more(value * np.exp2(age_ms * layout.decay_per_ms[c]))


@compiled()
def ages(row_K: Any, mask_K: Any, now_ms: Any, items: Any, start: Any, out_KF: Any) -> None:
    """Three features from `start`: whether the item is known, its age, and how long ago it was last acted on."""
    for k in range(len(row_K)):
        row = row_K[k]
        if items.first_ms[row] > 0 and mask_K[k]:
            out_KF[k, start] = 1.0
            out_KF[k, start + 1] = damped(now_ms - items.first_ms[row])
            out_KF[k, start + 2] = damped(now_ms - items.last_ms[row])
        else:
            out_KF[k, start + 2] = NO_AGE


@compiled()
def numbers(row_K: Any, number_NM: Any, start: Any, out_KF: Any) -> None:
    """Numeric attributes on a signed log scale from `start`; absent ones (NaN) stay 0."""
    for k in range(len(row_K)):
        for m in range(number_NM.shape[1]):
            out_KF[k, start + m] = signed_log(number_NM[row_K[k], m])


@compiled()
def seen(slots: Any, key_K: Any, now_ms: Any, recent_key_R: Any, recent_ms_R: Any, start: Any, out_KF: Any) -> None:
    """Two features from `start`: how often the recent items hold the candidate, log(1 + n), and how long ago last."""
    out_KF[:, start + 1] = NO_AGE
    for r in range(len(recent_key_R)):
        k = find(slots, key_K, recent_key_R[r])
        if k >= 0:
            out_KF[k, start] += np.float32(1.0)
            out_KF[k, start + 1] = min(out_KF[k, start + 1], damped(now_ms - recent_ms_R[r]))
    for k in range(len(key_K)):
        if out_KF[k, start] > 0.0:
            out_KF[k, start] = log_of_one_more(out_KF[k, start])


@compiled()
def successions(
    slots: Any, key_K: Any, now_ms: Any, before_P: Any, items: Any, layout: Any, place: Any, out_KF: Any
) -> None:
    """Four features per half-life: what followed the person's latest items.

    Weight after the last item, after the ones before it, share of the last one's whole, mean share of the others';
    weights and shares as log(1 + 10 x).

    Args:
        place: Used on the way: weights [S, H] of the successors of one item, and their sums [H].
    """
    n_before, n_half_lives, start = len(before_P), len(layout.next_decay_per_ms), layout.follows
    n_places = items.next_key.shape[1]
    weight_SH, total_H = place
    for p in range(n_before):
        row = before_P[p]
        if row == UNKNOWN:
            continue
        total_H[:] = 0.0
        for s in range(n_places):
            if items.next_key[row, s] != 0:
                age_ms = np.float32(min(items.next_ms[row, s] - now_ms, 0))
                for h in range(n_half_lives):
                    weight_SH[s, h] = items.next_value[row, s, h] * np.exp2(age_ms * layout.next_decay_per_ms[h])
                    total_H[h] += weight_SH[s, h]
        is_earlier = 1 if p > 0 else 0
        divisor = max(n_before - 1, 1) if p > 0 else 1
        for s in range(n_places):
            k = find(slots, key_K, items.next_key[row, s])
            if k >= 0:
                for h in range(n_half_lives):
                    share = weight_SH[s, h] / max(total_H[h], np.float32(1e-9)) / np.float32(divisor)
                    out_KF[k, start + is_earlier * n_half_lives + h] += weight_SH[s, h]
                    out_KF[k, start + (2 + is_earlier) * n_half_lives + h] += share
    for k in range(len(key_K)):
        for f in range(start, start + 4 * n_half_lives):
            if out_KF[k, f] != 0.0:
                out_KF[k, f] = log_of_one_more(np.float32(10.0) * out_KF[k, f])


@compiled()
def fold(e: Any, changes: Any, items: Any, groups: Any) -> None:
    """Add one event to its item, and to what followed the items before it (the k-th with weight 1 / k)."""
    ts_ms = changes.ts_ms[e]
    if changes.row[e] != UNKNOWN:
        count(changes.row[e], ts_ms, changes.value[e], changes.bucket[e], items, groups)
    for p in range(changes.before.shape[1]):
        if changes.before[e, p] != UNKNOWN:
            follow(changes.before[e, p], changes.key[e], ts_ms, 1.0 / (p + 1), items, groups.next_half_life_ms)


@compiled()
def count(row: Any, ts_ms: Any, value: Any, bucket_G: Any, items: Any, groups: Any) -> None:
    """Add to the item's counters; a group decays to the later of its instant and the event's."""
    first_ms = items.first_ms[row]
    items.first_ms[row] = min(first_ms, ts_ms) if first_ms > 0 else ts_ms
    items.last_ms[row] = max(items.last_ms[row], ts_ms)
    for g in range(len(bucket_G)):
        if bucket_G[g] == UNCHANGED:
            continue
        start, stop, n_half_lives = groups.start[g], groups.start[g + 1], groups.n_half_lives[g]
        ahead_ms = float(items.ms[row, g] - ts_ms)  # positive for a late event
        amount = value if groups.uses_value[g] else 1.0
        for h in range(n_half_lives):
            decay = np.exp2(-abs(ahead_ms) / groups.half_life_ms[start + h])
            if ahead_ms < 0.0:
                for v in range(start + h, stop, n_half_lives):
                    items.value[row, v] = np.float32(items.value[row, v] * decay)
            if bucket_G[g] >= 0:
                at = start + bucket_G[g] * n_half_lives + h
                items.value[row, at] = np.float32(items.value[row, at] + amount * (decay if ahead_ms > 0.0 else 1.0))
        items.ms[row, g] = max(items.ms[row, g], ts_ms)


@compiled()
def follow(row: Any, key: Any, ts_ms: Any, weight: float, items: Any, half_life_ms_H: Any) -> None:
    """Add to what followed an item; a new successor takes a free place, or that of the weakest."""
    place = place_among(row, key, ts_ms, items, half_life_ms_H)
    if items.next_key[row, place] != key:
        items.next_key[row, place] = key
        items.next_ms[row, place] = ts_ms
        items.next_value[row, place] = np.float32(0.0)
    ahead_ms = items.next_ms[row, place] - ts_ms  # positive for a late event
    for h in range(len(half_life_ms_H)):
        value, decay = items.next_value[row, place, h], np.exp2(-abs(ahead_ms) / half_life_ms_H[h])
        added = value + weight * decay if ahead_ms > 0 else value * decay + weight
        items.next_value[row, place, h] = np.float32(added)
    items.next_ms[row, place] = max(items.next_ms[row, place], ts_ms)


@compiled()
def place_among(row: Any, key: Any, ts_ms: Any, items: Any, half_life_ms_H: Any) -> Any:
    """Place of a successor; of the first free one, or else of the weakest.

    Weak by the shortest half-life: by a longer one, yesterday's successors would lock out those of the last hour.
    """
    n_places = items.next_key.shape[1]
    for s in range(n_places):
        if items.next_key[row, s] == key:
            return s
    shortest = 0
    for h in range(1, len(half_life_ms_H)):
        if half_life_ms_H[h] < half_life_ms_H[shortest]:
            shortest = h
    per_ms, weakest, least = 1.0 / half_life_ms_H[shortest], 0, np.inf
    for s in range(n_places):
        if items.next_key[row, s] == 0:
            return s
        value, halvings = items.next_value[row, s, shortest], max(ts_ms - items.next_ms[row, s], 0) * per_ms
        # Mostly it is enough to know that 2^-h >= 1 - h log 2, or that it is more than half of 2^-floor(h).
        if value * max(1.0 - LOG_2 * halvings, POWERS[min(np.int64(halvings) + 1, LAST)]) >= least:
            continue
        strength = value * np.exp2(-halvings)
        if strength < least:
            weakest, least = s, strength
    return weakest


@compiled()
def mask_first(key_K: Any, out_K: Any) -> None:
    """True where a key stands for the first time."""
    for k in range(len(key_K)):
        out_K[k] = True
        for other in range(k):
            if key_K[other] == key_K[k]:
                out_K[k] = False
                break


@compiled()
def recency(now_B: Any, recent_BR: Any, recent_ms_BR: Any, out_BR: Any) -> None:
    """How long ago each recent item was; 0 where there is none."""
    for b in range(recent_BR.shape[0]):
        for r in range(recent_BR.shape[1]):
            if recent_BR[b, r] != 0:
                out_BR[b, r] = damped(now_B[b] - recent_ms_BR[b, r])


@compiled()
def person(
    word_BW: Any,
    now_B: Any,
    instant_U: Any,
    value_U: Any,
    decay_U: Any,
    number_BM: Any,
    recent_BR: Any,
    recent_ms_BR: Any,
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
        out_BU[b, n_counters + 1] = damped(now_B[b] - recent_ms_BR[b, 0]) if n_known else NO_AGE
        out_BU[b, n_counters + 2] = np.sin(day)
        out_BU[b, n_counters + 3] = np.cos(day)
        for m in range(number_BM.shape[1]):
            out_BU[b, n_counters + 4 + m] = signed_log(number_BM[b, m])


@compiled()
def log_of_one_more(value: Any) -> Any:
    """log(1 + x) of a float32, to an absolute error of 1e-7: a third of the time of the C library's log1p."""
    return np.log(np.float32(1.0) + value)


@compiled()
def signed_log(value: Any) -> Any:
    """log(1 + |x|) with the sign of x; 0 for NaN."""
    size = log_of_one_more(abs(value))
    return size if value > 0 else -size if value < 0 else np.float32(0.0)


@compiled()
def damped(age_ms: int) -> Any:
    """log(1 + seconds) / 10; the future has age 0."""
    return log_of_one_more(np.float32(max(age_ms, 0) / 1000.0)) / np.float32(10.0)


@allocating()
def new_places(items: Any) -> Any:
    """Room for the weights [S, H] of an item's successors, and their sums [H]."""
    _, n_places, n_half_lives = items.next_value.shape
    return np.empty((n_places, n_half_lives), dtype=np.float32), np.empty(n_half_lives, dtype=np.float32)


@allocating()
def new_slots(n: int) -> Any:
    """An empty hash index for `n` keys: places by open addressing, at most half full."""
    size = 8
    while size < 2 * n:
        size *= 2
    return np.empty(size, dtype=np.int64)


@compiled()
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


@compiled()
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
