"""Compiled loops over a shard of people: what their events add up to, packed as `features.state` says.

The arithmetic is that of `features.state.add_to_group`, to the last bit: nothing is fused, powers are the C library's
(a base that is known when compiling would become another function).

Legend: E entries in order, those of a person side by side; U people; G counter groups; P predecessors; R recent items.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from features.compiling import compiled
from features.voice import keeps_pace

EVENT: Final = 0
ATTRIBUTES: Final = 1
ERASURE: Final = 2
NONE: Final = -1


class Entries(NamedTuple):
    """What happened, in order."""

    start: Any  # [U + 1] where each person's begin
    kind: Any  # [E] EVENT, ATTRIBUTES, ERASURE
    ts_ms: Any  # [E]
    type: Any  # [E]
    value: Any  # [E]
    item: Any  # [E] number of the item among those of the shard
    bucket: Any  # [E, G] that each group adds to; negative: the group says nothing


class UserGroups(NamedTuple):
    """Counter groups of a person, in words of four bytes: an instant (two), then the values."""

    at: Any  # [G] first word
    n_half_lives: Any  # [G]
    n_buckets: Any  # [G]
    uses_value: Any  # [G]
    start: Any  # [G] of its half-lives
    half_life_ms: Any


class Text(NamedTuple):
    """Strings of bytes side by side, as Arrow has them."""

    start: Any  # [N + 1]
    data: Any


class State(NamedTuple):
    """What a person's state is made of, beside the counters."""

    alive: Any  # [U] whether there is a state at all
    first: Any  # [U] first entry that counts: the one after the last erasure
    last_event: Any  # [U] newest event, or NONE
    attributes: Any  # [U] entry of the newest attributes, or NONE


@compiled()
def add_up(
    entries: Any, groups: Any, base: Any, pace_C4: Any, late_ms: int, out_UW: Any, state: Any, is_heard_E: Any
) -> None:
    """Counters and the rest of every person's state; and which events keep pace (`features.voice`).

    Args:
        base: 2.0
        pace_C4: See `voice.pace_of`.
        out_UW: Zeros, words of the counter blocks.
    """
    value_UW = out_UW.view(np.float32)
    for u in range(len(entries.start) - 1):
        state.alive[u], state.last_event[u], state.attributes[u] = False, NONE, NONE
        state.first[u] = entries.start[u]
        for e in range(entries.start[u], entries.start[u + 1]):
            if entries.kind[e] == ERASURE:
                out_UW[u] = np.uint32(0)
                state.alive[u], state.last_event[u], state.attributes[u] = False, NONE, NONE
                state.first[u] = e + 1
                continue
            state.alive[u] = True
            if entries.kind[e] == ATTRIBUTES:
                state.attributes[u] = e
                continue
            state.last_event[u] = e
            is_heard_E[e] = keeps_pace(out_UW[u], entries.ts_ms[e], pace_C4, late_ms)
            for g in range(len(groups.at)):
                if entries.bucket[e, g] >= 0:
                    amount = entries.value[e] if groups.uses_value[g] else 1.0
                    add(out_UW[u], value_UW[u], groups, g, entries.bucket[e, g], amount, entries.ts_ms[e], base)


@compiled()
def add(word_W: Any, value_W: Any, groups: Any, g: Any, bucket: Any, amount: Any, ts_ms: Any, base: Any) -> None:
    """Decay a group to the later of its instant and `ts_ms`, and add; a late event adds what is left of it."""
    at, n_half_lives, n_buckets = groups.at[g], groups.n_half_lives[g], groups.n_buckets[g]
    ms = np.int64(word_W[at]) | (np.int64(word_W[at + 1]) << np.int64(32))
    for h in range(n_half_lives):
        decay = 1.0
        if ms != 0:
            decay = base ** (-np.float64(abs(ts_ms - ms)) / groups.half_life_ms[groups.start[g] + h])
        for b in range(n_buckets):
            place = at + 2 + b * n_half_lives + h
            value = np.float64(value_W[place])
            if ts_ms >= ms:
                value = value * decay
            if b == bucket:
                value = value + (amount * decay if ts_ms < ms else amount)
            value_W[place] = np.float32(value)
    later = max(ms, ts_ms)
    word_W[at], word_W[at + 1] = np.uint32(later & np.int64(0xFFFFFFFF)), np.uint32(later >> np.int64(32))


@compiled()
def look_back(entries: Any, n_recent: int, window_ms: float, out_EP: Any) -> None:
    """Numbers of the distinct items that count as coming before each event, newest first; NONE where there are fewer.

    The same as `features.history.before` finds in the packed history.
    """
    for u in range(len(entries.start) - 1):
        first = entries.start[u]
        for e in range(entries.start[u], entries.start[u + 1]):
            out_EP[e] = NONE
            if entries.kind[e] == ERASURE:
                first = e + 1
            if entries.kind[e] != EVENT:
                continue
            p = n_seen = 0
            for other in range(e - 1, first - 1, -1):
                if p == out_EP.shape[1] or n_seen == n_recent:
                    break
                if entries.kind[other] != EVENT:
                    continue
                n_seen += 1
                item = entries.item[other]
                if item == entries.item[e] or entries.ts_ms[other] < entries.ts_ms[e] - window_ms:
                    continue
                is_new = True
                for earlier in range(p):
                    is_new &= out_EP[e, earlier] != item
                if is_new:
                    out_EP[e, p] = item
                    p += 1


@compiled()
def silence(entries: Any, n_recent: int, per_item: int, is_heard_E: Any) -> None:
    """Events that repeat too often are not heard: what `voice.repetitions` finds in the packed history.

    Args:
        is_heard_E: Which keep pace; those that have no voice become False.
    """
    for u in range(len(entries.start) - 1):
        first = entries.start[u]
        for e in range(entries.start[u], entries.start[u + 1]):
            if entries.kind[e] == ERASURE:
                first = e + 1
            if entries.kind[e] != EVENT:
                continue
            n_seen = n_same = 0
            for other in range(e - 1, first - 1, -1):
                if n_seen == n_recent or n_same == per_item:
                    break
                if entries.kind[other] != EVENT:
                    continue
                n_seen += 1
                n_same += entries.item[other] == entries.item[e] and entries.type[other] == entries.type[e]
            is_heard_E[e] &= n_same < per_item


@compiled()
def sizes(
    entries: Any, state: Any, items: Any, contexts: Any, attributes: Any, n_recent: int, fixed: int, out_U: Any
) -> None:
    """Bytes of each packed state; 0 where there is none.

    Args:
        fixed: Bytes of header, counter block and the numbers of the lists.
    """
    for u in range(len(out_U)):
        out_U[u] = 0
        if not state.alive[u]:
            continue
        n_bytes, n = fixed, 0
        for e in range(entries.start[u + 1] - 1, state.first[u] - 1, -1):
            if n == n_recent:
                break
            if entries.kind[e] == EVENT:
                n_bytes += 2 + size_of_recent(entries, items, e)
                n += 1
        if state.last_event[u] != NONE:
            n_bytes += contexts.start[state.last_event[u] + 1] - contexts.start[state.last_event[u]]
        if state.attributes[u] != NONE:
            n_bytes += attributes.start[state.attributes[u] + 1] - attributes.start[state.attributes[u]]
        out_U[u] = n_bytes


@compiled()
def pack(
    entries: Any, state: Any, items: Any, contexts: Any, attributes: Any, n_recent: int,
    header: Any, block_UB: Any, start_U: Any, out: Any,
) -> None:  # fmt: skip
    """Packed states, side by side."""
    for u in range(len(start_U) - 1):
        at = start_U[u]
        if start_U[u + 1] == at:
            continue
        at = copy(out, at, header, 0, len(header))
        at = copy(out, at, block_UB[u], 0, block_UB.shape[1])
        lists, n = at, 0
        at += 10
        for e in range(entries.start[u + 1] - 1, state.first[u] - 1, -1):
            if n == n_recent:
                break
            if entries.kind[e] == EVENT:
                at = number(out, at, size_of_recent(entries, items, e), 2)
                n += 1
        first, n = at, 0
        for e in range(entries.start[u + 1] - 1, state.first[u] - 1, -1):
            if n == n_recent:
                break
            if entries.kind[e] == EVENT:
                at = recent(out, at, entries, items, e)
                n += 1
        lists = number(out, number(out, lists, n, 2), at - first, 4)
        e, n_context = state.last_event[u], 0
        if e != NONE:
            n_context = contexts.start[e + 1] - contexts.start[e]
            at = copy(out, at, contexts.data, contexts.start[e], n_context)
        number(out, lists, n_context, 4)
        e = state.attributes[u]
        if e != NONE:
            copy(out, at, attributes.data, attributes.start[e], attributes.start[e + 1] - attributes.start[e])


@compiled()
def recent(out: Any, at: Any, entries: Any, items: Any, e: Any) -> Any:
    """An event among the recent ones: msgpack [item, type number, ts_ms]; returns where it ends."""
    start = items.start[entries.item[e]]
    length = items.start[entries.item[e] + 1] - start
    out[at] = 0x93
    if length < 32:
        out[at + 1] = 0xA0 | length
        at += 2
    elif length < 256:
        out[at + 1], out[at + 2] = 0xD9, length
        at += 3
    else:
        out[at + 1], out[at + 2], out[at + 3] = 0xDA, length >> 8, length & 0xFF
        at += 4
    at = copy(out, at, items.data, start, length)
    return unsigned(out, unsigned(out, at, entries.type[e]), entries.ts_ms[e])


@compiled()
def size_of_recent(entries: Any, items: Any, e: Any) -> Any:
    """Bytes of the same."""
    length = items.start[entries.item[e] + 1] - items.start[entries.item[e]]
    head = 2 if length < 32 else 3 if length < 256 else 4
    return head + length + size_of_unsigned(entries.type[e]) + size_of_unsigned(entries.ts_ms[e])


@compiled()
def unsigned(out: Any, at: Any, value: Any) -> Any:
    """A number as msgpack has it, in as few bytes as may be."""
    n_bytes = size_of_unsigned(value) - 1
    if n_bytes == 0:
        out[at] = value
        return at + 1
    out[at] = 0xCC if n_bytes == 1 else 0xCD if n_bytes == 2 else 0xCE if n_bytes == 4 else 0xCF
    for i in range(n_bytes):
        out[at + 1 + i] = (value >> (8 * (n_bytes - 1 - i))) & 0xFF
    return at + 1 + n_bytes


@compiled()
def size_of_unsigned(value: Any) -> Any:
    """Bytes of the same."""
    if value < 0x80:
        return 1
    return 2 if value < 0x100 else 3 if value < 0x10000 else 5 if value < 0x100000000 else 9


@compiled()
def number(out: Any, at: Any, value: Any, n_bytes: int) -> Any:
    """A number of this many bytes, little endian; returns where it ends."""
    for i in range(n_bytes):
        out[at + i] = (value >> (8 * i)) & 0xFF
    return at + n_bytes


@compiled()
def copy(out: Any, at: Any, data: Any, start: Any, n: Any) -> Any:
    """Bytes from elsewhere; returns where they end."""
    for i in range(n):
        out[at + i] = data[start + i]
    return at + n
