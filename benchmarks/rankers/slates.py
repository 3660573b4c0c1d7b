"""Streaming features of slates: what a good engineer would hand to a learner that takes one example at a time.

The stream is lived through once. Each event that follows another in its session, as a query does, becomes an example
before it is folded: its own item and some negatives, each described by what was known strictly before its instant.
`steps` hands out the examples that came since the last query, then that query's candidates, described in the same way.
Sessions' first events are folded only: learned from, they teach that co-occurrence is worth little.

Negatives look like what will be asked. Every 256 events a pool of 99 distinct items is drawn by the root of their
counts, with so many from each stratum (acted on within the hour, the day, longer ago, never) as events had their item
in it; an event takes its negatives from there. Counts are those of the stratum's own time: drawn by the counts of all
time, the negatives of the hour are old ones, and age is learned to speak against an item. An item that nobody has acted
on yet is described by nothing, so none has to be known.

An example's context is that of the event before in its session, as a query's is.

Legend: E events, N slots of an example (the positive first), K candidates, F features, I items, C context columns,
B values of all context columns, S strata, H half-lives.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from benchmarks.rankers.pairs import Pairs, add_counts, add_pair, pairs
from benchmarks.rankers.stream import F64, HOUR_MS, I32, I64, Stream

HALF_LIVES_S: Final = (30.0, 120.0, 600.0, 1800.0, 7200.0, 21600.0, 86400.0)
LATELY, IN_ALL = 3, 6  # the half-lives whose counts draw negatives: of the last hour's items, and of others
LEAST: Final = 1e-6  # a count that has faded away still draws
PAIR_HALF_LIVES_S: Final = (2700.0, 43200.0, np.inf)
SPLIT_HALF_LIFE_S: Final = 3600.0
STEPS: Final = 10  # last events of a session that are looked at
ANY: Final = -1  # stands for all that followed an item
POOL: Final = 99
POOL_EVENTS: Final = 256
CHUNK: Final = 8192  # events handed out at once, at most

F32 = npt.NDArray[np.float32]


class Known(NamedTuple):
    """All that was folded."""

    count_IH: F64
    total_I: F64
    first_ms_I: I64
    last_ms_I: I64
    split_IB: F64
    split_ms_IB: I64
    follows: Pairs
    seen: Pairs
    last_S: I64
    before_E: I64
    n_positive_S: F64


class Told(NamedTuple):
    """The stream's own arrays, and what is constant."""

    ts_ms_E: I64
    user_E: I32
    session_E: I32
    item_E: I32
    context_EC: I32
    first_value_C: I64
    rate_per_ms_H: F64
    split_rate_per_ms: float


class Step(NamedTuple):
    """Examples in time order, then perhaps a query."""

    n_events: int
    """How many events are folded by now."""
    slates_ENF: F32
    contexts_EC: I32
    query: int
    """Its number; -1 where only examples were handed out."""
    query_KF: F32
    context_C: I32
    """-1 where nothing is known of the session."""


def feature_names(stream: Stream) -> list[str]:
    """What each feature is, all as log2(1 + x); shares in thousandths."""
    return [
        *(f"count_{half_life_s:g}s" for half_life_s in HALF_LIVES_S), "total", "age", "since_last",
        *(f"split_{column}" for column in range(len(stream.n_values_C))),
        *(f"after_last_{half_life_s:g}s" for half_life_s in PAIR_HALF_LIVES_S),
        *(f"after_rest_{half_life_s:g}s" for half_life_s in PAIR_HALF_LIVES_S),
        *(f"share_of_last_{half_life_s:g}s" for half_life_s in PAIR_HALF_LIVES_S),
        "before_last", "seen",
    ]  # fmt: skip


class Slates:
    """Lives through a stream.

    Args:
        n_negatives: Of every event.
        rng: Draws the negatives.
    """

    def __init__(self, stream: Stream, n_negatives: int, rng: np.random.Generator) -> None:
        self._stream = stream
        self._n_negatives = n_negatives
        self._rng = rng
        first_value_C = np.concatenate([[0], np.cumsum(stream.n_values_C)]).astype(np.int64)
        rates = np.log(2.0) / (1000.0 * np.array(HALF_LIVES_S))
        self._told = Told(
            stream.ts_ms_E, stream.user_E, stream.session_E, stream.item_E, stream.context_EC, first_value_C,
            rates, np.log(2.0) / (1000.0 * SPLIT_HALF_LIFE_S),
        )  # fmt: skip
        n_items, n_splits = stream.n_items, int(first_value_C[-1])
        self._known = Known(
            count_IH=np.zeros((n_items, len(rates))),
            total_I=np.zeros(n_items),
            first_ms_I=np.zeros(n_items, np.int64),
            last_ms_I=np.zeros(n_items, np.int64),
            split_IB=np.zeros((n_items, n_splits)),
            split_ms_IB=np.zeros((n_items, n_splits), np.int64),
            follows=pairs(2 * STEPS * stream.n_events, PAIR_HALF_LIVES_S),
            seen=pairs(stream.n_events, [np.inf]),
            last_S=np.full(stream.n_sessions, -1),
            before_E=np.full(stream.n_events, -1),
            n_positive_S=np.ones(4),
        )
        self._pool = np.full(POOL, -1)
        self._n_features = len(feature_names(stream))

    def steps(self) -> Iterator[Step]:
        """Examples and queries, in time order; events after the last query are left out."""
        at = 0
        for query, until in enumerate(self._stream.until_Q.tolist()):
            while until - at > CHUNK:
                yield self._step(at, at + CHUNK, -1)
                at += CHUNK
            yield self._step(at, until, query)
            at = until

    def _step(self, start: int, end: int, query: int) -> Step:
        stream = self._stream
        slates_ENF = np.zeros((end - start, 1 + self._n_negatives, self._n_features), np.float32)
        contexts_EC = np.zeros((end - start, len(stream.n_values_C)), np.int32)
        n = _examples(self._told, self._known, self._pool, self._rng, start, end, slates_ENF, contexts_EC)
        candidates_K = stream.candidates_QK[query] if query >= 0 else np.zeros(0, np.int32)
        query_KF = np.zeros((len(candidates_K), self._n_features), np.float32)
        context_C = np.full(len(stream.n_values_C), -1, np.int32)
        if query >= 0:
            _describe(
                self._told, self._known, stream.asked_ms_Q[query], stream.asker_Q[query], stream.visit_Q[query],
                candidates_K, context_C, query_KF,
            )  # fmt: skip
        return Step(end, slates_ENF[:n], contexts_EC[:n], query, query_KF, context_C)


@njit(cache=True)
def _examples(
    told: Told, known: Known, pool: Any, rng: Any, start: int, end: int, slates_ENF: Any, contexts_EC: Any
) -> int:
    """Describe the events from start to end, and fold them; those of one instant are all described before.

    Returns:
        How many became examples.
    """
    folded, n_examples = start, 0
    slots_N = np.zeros(slates_ENF.shape[1], np.int32)
    for e in range(start, end):
        while told.ts_ms_E[folded] < told.ts_ms_E[e]:
            _fold(told, known, folded)
            folded += 1
        if e % POOL_EVENTS == 0:
            _draw(told, known, told.ts_ms_E[e], rng, pool)
        if known.last_S[told.session_E[e]] < 0:
            continue
        item = slots_N[0] = told.item_E[e]
        n_drawn = 1
        while n_drawn < len(slots_N):
            drawn = pool[rng.integers(0, len(pool))]
            if drawn != item:
                slots_N[n_drawn] = drawn
                n_drawn += 1
        _describe(
            told, known, told.ts_ms_E[e], told.user_E[e], told.session_E[e], slots_N, contexts_EC[n_examples],
            slates_ENF[n_examples],
        )  # fmt: skip
        n_examples += 1
    for e in range(folded, end):
        _fold(told, known, e)
    return n_examples


@njit(cache=True)
def _stratum(known: Known, item: int, now_ms: int) -> int:
    if known.total_I[item] == 0:
        return 3
    since_ms = now_ms - known.last_ms_I[item]
    return 0 if since_ms < HOUR_MS else 1 if since_ms < 24 * HOUR_MS else 2


@njit(cache=True)
def _draw(told: Told, known: Known, now_ms: int, rng: Any, pool: Any) -> None:
    """Fill the pool; -1 stands for an item that nobody has acted on, and for one that a stratum lacks.

    Source: Efraimidis and Spirakis, 2006: the largest keys log(u) / weight are a weighted draw without replacement.
    """
    n_items = len(known.total_I)
    key_I, stratum_I = np.full(n_items, -np.inf), np.zeros(n_items, np.int64)
    for item in range(n_items):
        stratum_I[item] = _stratum(known, item, now_ms)
        if stratum_I[item] < 3:
            h = LATELY if stratum_I[item] == 0 else IN_ALL
            faded = np.exp(told.rate_per_ms_H[h] * (known.last_ms_I[item] - now_ms))
            key_I[item] = np.log(rng.random()) / np.sqrt(known.count_IH[item, h] * faded + LEAST)
    pool[:] = -1
    filled = 0
    for stratum in range(3):
        n_slots = round(len(pool) * known.n_positive_S[stratum] / known.n_positive_S.sum())
        members = np.flatnonzero(stratum_I == stratum)
        best = members[np.argsort(-key_I[members])[: min(n_slots, len(pool) - filled)]]
        pool[filled : filled + len(best)] = best
        filled += len(best)


@njit(cache=True)
def _fold(told: Told, known: Known, e: int) -> None:
    item, now_ms, session = told.item_E[e], told.ts_ms_E[e], told.session_E[e]
    known.n_positive_S[_stratum(known, item, now_ms)] += 1
    if known.total_I[item] == 0:
        known.first_ms_I[item] = now_ms
    for h in range(len(told.rate_per_ms_H)):
        faded = np.exp(told.rate_per_ms_H[h] * (known.last_ms_I[item] - now_ms))
        known.count_IH[item, h] = known.count_IH[item, h] * faded + 1.0
    known.total_I[item] += 1.0
    known.last_ms_I[item] = now_ms
    for c in range(told.context_EC.shape[1]):
        b = told.first_value_C[c] + told.context_EC[e, c]
        faded = np.exp(told.split_rate_per_ms * (known.split_ms_IB[item, b] - now_ms))
        known.split_IB[item, b] = known.split_IB[item, b] * faded + 1.0
        known.split_ms_IB[item, b] = now_ms
    known.before_E[e] = before = known.last_S[session]
    known.last_S[session] = e
    for _ in range(STEPS):
        if before < 0:
            break
        if told.item_E[before] != item:
            add_pair(known.follows, told.item_E[before], item, now_ms, 1.0)
            add_pair(known.follows, told.item_E[before], ANY, now_ms, 1.0)
        before = known.before_E[before]
    add_pair(known.seen, told.user_E[e], item, now_ms, 1.0)


@njit(cache=True)
def _describe(
    told: Told, known: Known, now_ms: int, user: int, session: int, item_K: Any, context_C: Any, out_KF: Any
) -> None:
    """Write the features of items for one person, and the context of the session's last event, where there is one."""
    last = known.last_S[session]
    if last >= 0:
        context_C[:] = told.context_EC[last]
    n_halves = len(told.rate_per_ms_H)
    any_H = np.zeros(len(PAIR_HALF_LIVES_S))
    if last >= 0:
        add_counts(known.follows, told.item_E[last], ANY, now_ms, 1.0, any_H)
    for k in range(len(item_K)):
        item, out_F = item_K[k], out_KF[k]
        out_F[:] = 0.0
        if item < 0 or known.total_I[item] == 0:
            continue
        since_ms = now_ms - known.last_ms_I[item]
        for h in range(n_halves):
            out_F[h] = known.count_IH[item, h] * np.exp(-told.rate_per_ms_H[h] * since_ms)
        at = n_halves
        out_F[at] = known.total_I[item]
        out_F[at + 1] = (now_ms - known.first_ms_I[item]) / 1000.0
        out_F[at + 2] = since_ms / 1000.0
        at += 3
        for c in range(len(context_C)):
            if context_C[c] >= 0:
                b = told.first_value_C[c] + context_C[c]
                faded = np.exp(told.split_rate_per_ms * (known.split_ms_IB[item, b] - now_ms))
                out_F[at + c] = known.split_IB[item, b] * faded
        at += len(context_C)
        if last >= 0:
            _describe_pairs(told, known, now_ms, last, item, any_H, out_F[at:])
        add_counts(known.seen, user, item, now_ms, 1.0, out_F[len(out_F) - 1 :])
        for f in range(len(out_F)):
            out_F[f] = np.log2(1.0 + out_F[f])


@njit(cache=True)
def _describe_pairs(told: Told, known: Known, now_ms: int, last: int, item: int, any_H: Any, out_F: Any) -> None:
    """How often an item followed the session's last one, the others, its share of the first, and what it led to."""
    n_halves = len(any_H)
    add_counts(known.follows, told.item_E[last], item, now_ms, 1.0, out_F[:n_halves])
    before = known.before_E[last]
    for _ in range(1, STEPS):
        if before < 0:
            break
        add_counts(known.follows, told.item_E[before], item, now_ms, 1.0, out_F[n_halves : 2 * n_halves])
        before = known.before_E[before]
    for h in range(n_halves):
        out_F[2 * n_halves + h] = 1000.0 * out_F[h] / (1.0 + any_H[h])
    led_to_H = np.zeros(n_halves)
    add_counts(known.follows, item, told.item_E[last], now_ms, 1.0, led_to_H)
    out_F[3 * n_halves] = led_to_H[n_halves - 1]
