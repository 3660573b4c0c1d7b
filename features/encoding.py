"""The one encoder: state + context + now -> arrays. Serving, learning and evaluation all call it.

`Slates` say where that stands which is known of requests and candidates; `assemble` turns them into model inputs, all
at once, and decays every counter to the instant of its request. It looks at nothing else, so the same records give the
same inputs wherever they are assembled: a replica points into its own item table, a learner at copies it made of each
slate just before it folded the event, so that nothing leaks from the future.

The loops over candidates are in `features.kernels`. Ids reach the model as 64-bit keys; what they mean is the model's
affair. A key of 0 is absent.

Legend: B requests, K candidates, N records, R recent items, P predecessors, S successors, G counter groups, V counter
values, C context fields, A attribute keys, F dense features, U user features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import kernels
from features.item_table import UNKNOWN, ItemTable, attribute_inputs
from features.schema import Group, Schema, bucket, duration, hash64
from features.state import Recent, UserState

NO_AGE: Final = 2.0  # where there is nothing to have an age: that of 15 years
N_RECENT: Final = 20  # recent items the model attends to; more cost time and were not seen to help
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Request:
    """One request to encode: who asks, when, in which context, about which candidates."""

    user: UserState
    context: dict[str, Any]
    now_ms: int
    candidates: Sequence[str]


@dataclass(slots=True)
class Slates:
    """Requests, and where what is known about their candidates stands: nothing of it may change until `assemble`."""

    requests: Sequence[Request]
    mask: NDArray[np.bool_]  # [B, K] real candidates
    key: U64  # [B, K]
    items: NDArray[np.void]  # [N] records as in `ItemTable.fixed`
    rows: I64  # [B, K] into them
    successors: NDArray[np.void]  # [N, S] as in `ItemTable.successors`
    before: I64  # [B, P] rows of the user's latest items in them


@dataclass(slots=True)
class Inputs:
    """What the model sees. Padded candidates are zeros with `mask` False."""

    mask: NDArray[np.bool_]  # [B, K]
    dense: F32  # [B, K, F] see `Encoder.dense_names`
    user_dense: F32  # [B, U] see `Encoder.user_names`
    item_key: U64  # [B, K]
    attribute_key: U64  # [B, K, A]
    recent_key: U64  # [B, R]
    recent_type: I64  # [B, R] 0 is absent, types count from 1
    recent_age: F32  # [B, R] log(1 + seconds) / 10
    context_key: U64  # [B, C]
    user_key: U64  # [B, A]


@dataclass(slots=True)
class _RecentArrays:
    """The users' recent items; arrays [B, R], newest first."""

    key: U64
    type: I64
    ms: I64


class Encoder:
    """`encode` requests, or `assemble` slates, under one schema. Stateless but for tables derived from the schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._plain, self._split = _values(schema)
        groups = schema.item_groups
        plain_half_lives = [h for g in groups if g.counter.split is None for h in g.half_lives_ms]
        split_half_lives = [h for g in groups if g.counter.split is not None for h in g.half_lives_ms]
        self._decay_per_ms = 1.0 / np.array(plain_half_lives + split_half_lives, dtype=np.float32)
        order = [g for g in groups if g.counter.split is None] + [g for g in groups if g.counter.split is not None]
        self._group = np.array([g.index for g in order for _ in g.half_lives_ms], dtype=np.int64)
        # The counter block of a user's state in words of four bytes: a group is an instant (two), then its values.
        self._user_instant = np.array(
            [g.offset // 4 for g in schema.user_groups for _ in range(g.n_values)], dtype=np.int64
        )
        self._user_value = np.array(
            [g.offset // 4 + 2 + place for g in schema.user_groups for place in range(g.n_values)], dtype=np.int64
        )
        half_lives_ms = [h for g in schema.user_groups for _ in range(g.counter.n_buckets) for h in g.half_lives_ms]
        self._user_decay_per_ms = 1.0 / np.array(half_lives_ms, dtype=np.float64)
        self._no_attributes = attribute_inputs(schema.user_attributes, {})
        self._successor_decay_per_ms = 0.001 / np.array(schema.successor_half_lives_s, dtype=np.float32)
        self.dense_names = self._name_dense(order)
        self.user_names = self._name_user()
        at_ages = len(self._group) + 4 * len(schema.successor_half_lives_s)
        self._starts = {"follows": len(self._group), "ages": at_ages, "seen": at_ages + 3, "numbers": at_ages + 5}

    def encode(self, table: ItemTable, requests: Sequence[Request], found: Sequence[I64] | None = None) -> Inputs:
        """Model inputs as of what the table knows right now; slates are padded to the longest.

        Args:
            found: Rows of each request's candidates, if the caller knows them already.
        """
        if found is None:
            found = [table.find(request.candidates) for request in requests]
        n_candidates = max(map(len, found))
        rows_BK = np.zeros((len(requests), n_candidates), dtype=np.int64)
        mask_BK = np.zeros(rows_BK.shape, dtype=bool)
        for b, rows in enumerate(found):
            rows_BK[b, : len(rows)] = rows
            mask_BK[b, : len(rows)] = True
        key_BK = table.key[rows_BK]
        for b, rows in enumerate(found):
            if np.count_nonzero(rows) < len(rows):  # `UNKNOWN` is 0
                for k in np.flatnonzero(rows == UNKNOWN).tolist():
                    key_BK[b, k] = hash64(requests[b].candidates[k])
        before_BP = np.array([self.rows_before(table, request.user.recent, request.now_ms) for request in requests])
        return self.assemble(Slates(requests, mask_BK, key_BK, table.fixed, rows_BK, table.successors, before_BP))

    def rows_before(self, table: ItemTable, recent: Sequence[Recent], now_ms: int) -> list[int]:
        """Rows [P] of the items whose successors matter to a user at an instant; padded with `UNKNOWN`."""
        rows = [table.rows.get(item, UNKNOWN) for item in table.predecessors(recent, now_ms)]
        return rows + [UNKNOWN] * (self.schema.successor_span - len(rows))

    def assemble(self, slates: Slates) -> Inputs:
        """Model inputs; every counter decayed to its request's instant."""
        requests, rows_BK, key_BK = slates.requests, slates.rows, slates.key
        contexts = [request.context for request in requests]
        now_B = np.array([request.now_ms for request in requests], dtype=np.int64)
        user_dense_BU, user_key_BA, recent = self._users(requests, now_B)
        items, successors, at = slates.items, slates.successors, self._starts
        dense_BKF = np.zeros((*rows_BK.shape, len(self.dense_names)), dtype=np.float32)
        chosen_BV = self._choose(contexts)
        kernels.counters(
            rows_BK, now_B, chosen_BV, items["ms"], items["value"], self._group, self._decay_per_ms, dense_BKF
        )
        kernels.successions(
            key_BK,
            now_B,
            slates.before,
            successors["key"],
            successors["ms"],
            successors["value"],
            self._successor_decay_per_ms,
            at["follows"],
            dense_BKF,
        )
        kernels.ages(rows_BK, now_B, items["first_ms"], items["last_ms"], NO_AGE, at["ages"], dense_BKF)
        kernels.seen(key_BK, now_B, recent.key, recent.ms, NO_AGE, at["seen"], dense_BKF)
        kernels.numbers(rows_BK, items["number"], at["numbers"], dense_BKF)
        if np.count_nonzero(slates.mask) < slates.mask.size:
            dense_BKF[~slates.mask] = 0.0
        attribute_BKA = np.empty((*rows_BK.shape, items["attribute_key"].shape[1]), dtype=np.uint64)
        kernels.gather(rows_BK, items["attribute_key"], attribute_BKA)
        recent_age_BR = np.zeros(recent.key.shape, dtype=np.float32)
        kernels.recency(now_B, recent.key, recent.ms, recent_age_BR)
        return Inputs(
            slates.mask,
            dense_BKF,
            user_dense_BU,
            key_BK,
            attribute_BKA,
            recent.key,
            recent.type,
            recent_age_BR,
            self._context_keys(contexts),
            user_key_BA,
        )

    def popularity(self, inputs: Inputs) -> F32:
        """The prior that ranks when there is no model: log(1 + decayed count) of all types, at the middle half-life."""
        at = self._popularity_columns()
        prior: F32 = np.log1p(np.expm1(inputs.dense[..., at]).sum(axis=-1))
        return prior

    def _popularity_columns(self) -> list[int]:
        columns: dict[float, list[int]] = {}
        for index, name in enumerate(self.dense_names):
            kind, _, half_life = name.rpartition(".")
            if kind.startswith("count:"):
                columns.setdefault(float(half_life.rstrip("s")), []).append(index)
        ordered = sorted(columns)
        return columns[ordered[(len(ordered) - 1) // 2]] if ordered else []

    def _choose(self, contexts: Sequence[dict[str, Any]]) -> I64:
        """Columns [B, V] of the counter values that a context chooses; -1 where it has no value for a split."""
        chosen = np.empty((len(contexts), len(self._decay_per_ms)), dtype=np.int64)
        at = len(self._plain)
        chosen[:, :at] = self._plain
        for group, options in self._split:
            n = options.shape[1]
            for b, context in enumerate(contexts):
                place = bucket(group, context)
                chosen[b, at : at + n] = options[-1 if place is None else place]
            at += n
        return chosen

    def _users(self, requests: Sequence[Request], now_B: I64) -> tuple[F32, U64, _RecentArrays]:
        n = len(requests)
        inputs = [
            attribute_inputs(self.schema.user_attributes, request.user.attributes)
            if request.user.attributes
            else self._no_attributes
            for request in requests
        ]
        key_BA, number_BM = np.array([keys for keys, _ in inputs]), np.array([numbers for _, numbers in inputs])
        shape = (n, N_RECENT)
        recent = _RecentArrays(np.zeros(shape, np.uint64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        for b, request in enumerate(requests):
            latest = request.user.recent[:N_RECENT]
            if latest:
                recent.key[b, : len(latest)] = [_key_of(item) for item, _, _ in latest]
                recent.type[b, : len(latest)] = [kind + 1 for _, kind, _ in latest]
                recent.ms[b, : len(latest)] = [ms for _, _, ms in latest]
        return self._user_dense(requests, number_BM, recent, now_B), key_BA, recent

    def _context_keys(self, contexts: Sequence[dict[str, Any]]) -> U64:
        rows = [
            [_key_of(f"{name}={context[name]}") if context.get(name) is not None else 0 for name in self.schema.context]
            for context in contexts
        ]
        return np.array(rows, dtype=np.uint64).reshape(len(contexts), len(self.schema.context))

    def _user_dense(self, requests: Sequence[Request], number_BM: F32, recent: _RecentArrays, now_B: I64) -> F32:
        packed = b"".join(request.user.counters for request in requests)
        word_BW = np.frombuffer(packed, np.uint32).reshape(len(requests), -1)
        dense_BU = np.zeros((len(requests), len(self.user_names)), dtype=np.float32)
        layout = self._user_instant, self._user_value, self._user_decay_per_ms
        kernels.person(word_BW, now_B, *layout, number_BM, recent.key, recent.ms, NO_AGE, dense_BU)
        return dense_BU

    def _name_dense(self, order: Sequence[Any]) -> tuple[str, ...]:
        names = []
        for group in order:
            prefix = "count" if group.counter.split is None else "split"
            names += [f"{prefix}:{group.counter.name}.{duration(seconds)}" for seconds in group.counter.half_lives_s]
        for what in ("follows_last", "follows_rest", "share_last", "share_rest"):
            names += [f"{what}.{duration(seconds)}" for seconds in self.schema.successor_half_lives_s]
        names += ["is_known", "age", "idle", "n_seen", "seen_idle"]
        names += [f"number:{a.name}" for a in self.schema.item_attributes if a.kind == "number"]
        return tuple(names)

    def _name_user(self) -> tuple[str, ...]:
        names = [
            f"count:{g.counter.name}[{place}].{duration(seconds)}"
            for g in self.schema.user_groups
            for place in range(g.counter.n_buckets)
            for seconds in g.counter.half_lives_s
        ]
        names += ["n_recent", "idle", "day_sin", "day_cos"]
        names += [f"number:{a.name}" for a in self.schema.user_attributes if a.kind == "number"]
        return tuple(names)


_key_of = lru_cache(maxsize=1 << 16)(hash64)  # the same few items come up in everybody's last minutes


def _values(schema: Schema) -> tuple[I64, list[tuple[Group, I64]]]:
    """Columns of the plain counters' values, and of each split counter's by bucket; the row after the last is -1."""
    groups = [(group, np.arange(group.start, group.start + group.n_values)) for group in schema.item_groups]
    plain = [columns for group, columns in groups if group.counter.split is None]
    split = [
        (group, np.vstack([columns.reshape(group.counter.n_buckets, -1), np.full(len(group.half_lives_ms), -1)]))
        for group, columns in groups
        if group.counter.split is not None
    ]
    return np.concatenate(plain) if plain else np.zeros(0, dtype=np.int64), split
