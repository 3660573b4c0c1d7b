"""The one encoder: state + context + now -> arrays. Serving, learning and evaluation all call it.

A replica asks `encode` for requests as of what its item table knows. A learner asks `live_through` for events: each
slate as it was known just before its event, which is folded at once, so that nothing leaks from the future and no row
is ever copied. Every counter is decayed to the instant of its request. The same rows give the same inputs in both.

The loops over candidates are in `features.kernels`. Ids reach the model as 64-bit keys; what they mean is the model's
affair. A key of 0 is absent.

Legend: B requests, K candidates, R recent items, P predecessors, V counter values, C context fields, A attribute keys,
F dense features, U user features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import kernels
from features.history import Arrays, arrays_of
from features.item_table import UNKNOWN, ItemTable, Past, attribute_inputs
from features.schema import Group, Schema, bucket, duration, hash64, known_hash64
from features.state import UserState

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


class Encoder:
    """`encode` requests, `live_through` events, or `recall` decisions, under one schema. Stateless but for tables made
    from the schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._plain, self._split = _values(schema)
        groups = schema.item_groups
        order = [g for g in groups if g.counter.split is None] + [g for g in groups if g.counter.split is not None]
        group_C = [g.index for g in order for _ in g.half_lives_ms]
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
        self.dense_names = self._name_dense(order)
        self.user_names = self._name_user()
        at_ages = len(group_C) + 4 * len(schema.successor_half_lives_s)
        self._layout = kernels.Layout(
            np.array(group_C, dtype=np.int64),
            1.0 / np.array([ms for g in order for ms in g.half_lives_ms], dtype=np.float32),
            0.001 / np.array(schema.successor_half_lives_s, dtype=np.float32),
            *(len(group_C), at_ages, at_ages + 3, at_ages + 5),
        )

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
        inputs, asked, out = self._prepare(requests, _past(table, requests), key_BK, mask_BK, table.columns)
        kernels.look_all(asked, table.columns, self._layout, rows_BK, key_BK, out)
        return inputs

    def live_through(
        self,
        table: ItemTable,
        changes: kernels.Changes,
        slate_E: I64,
        requests: Sequence[Request],
        seen: Arrays,
        rows_BK: I64,
        key_BK: U64,
    ) -> tuple[Inputs, I64]:
        """Fold events; and model inputs of the slates that some of them have, as of just before the event.

        Args:
            changes: The events, as `ItemTable.changes` gives them.
            slate_E: Number of each event's slate; negative: none.
            requests: What was known of the people just before the events; their candidates are not looked at.
            seen: Of these people, as `ItemTable.changes` gives it.
            rows_BK: Of each slate's candidates. Those that stand earlier in their slate are masked.
        Returns:
            The inputs, and when each event's item was acted on before [E] (0: never).
        """
        mask_BK, last_ms_E = np.zeros(rows_BK.shape, dtype=bool), np.empty(len(slate_E), dtype=np.int64)
        past = table.past(seen, changes.ts_ms[slate_E >= 0])
        inputs, asked, out = self._prepare(requests, past, key_BK, mask_BK, table.columns)
        kernels.look_then_fold(
            *(slate_E, asked, changes, table.columns, self._layout, table.groups, rows_BK, key_BK, out, last_ms_E)
        )
        table.note_touched(changes)
        return inputs, last_ms_E

    def recall(self, table: ItemTable, requests: Sequence[Request], dense: Sequence[F32]) -> Inputs:
        """Model inputs of requests that were answered before, with the dense features that were looked at then.

        Args:
            dense: [K, F] of each request's candidates.
        """
        n_candidates = max(len(request.candidates) for request in requests)
        shape = len(requests), n_candidates
        mask_BK, key_BK = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.uint64)
        rows_BK = np.zeros(shape, dtype=np.int64)
        inputs, _, _ = self._prepare(requests, _past(table, requests), key_BK, mask_BK, table.columns)
        for b, request in enumerate(requests):
            n = len(request.candidates)
            mask_BK[b, :n] = True
            key_BK[b, :n] = list(map(known_hash64, request.candidates))
            rows_BK[b, :n] = table.find(request.candidates)
            inputs.dense[b, :n] = dense[b]
        inputs.attribute_key[:] = table.attribute_key[rows_BK]
        return inputs

    def _prepare(
        self,
        requests: Sequence[Request],
        past: Past,
        key_BK: U64,
        mask_BK: NDArray[np.bool_],
        items: kernels.Items,
    ) -> tuple[Inputs, kernels.Asked, kernels.Out]:
        """Inputs but for what is known of candidates; what that depends on; and where it belongs."""
        contexts = [request.context for request in requests]
        now_B = np.array([request.now_ms for request in requests], dtype=np.int64)
        user_dense_BU, user_key_BA, recent = self._users(requests, past.seen, now_B)
        recent_age_BR = np.zeros(recent.key.shape, dtype=np.float32)
        kernels.recency(now_B, recent.key, recent.ms, recent_age_BR)
        dense_BKF = np.zeros((*key_BK.shape, len(self.dense_names)), dtype=np.float32)
        attribute_BKA = np.empty((*key_BK.shape, items.attribute_key.shape[1]), dtype=np.uint64)
        inputs = Inputs(
            mask_BK,
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
        asked = kernels.Asked(now_B, self._choose(contexts), past.before, recent.key, recent.ms)
        return inputs, asked, kernels.Out(mask_BK, dense_BKF, attribute_BKA)

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
        chosen = np.empty((len(contexts), len(self._layout.group)), dtype=np.int64)
        at = len(self._plain)
        chosen[:, :at] = self._plain
        for group, options in self._split:
            n = options.shape[1]
            for b, context in enumerate(contexts):
                place = bucket(group, context)
                chosen[b, at : at + n] = options[-1 if place is None else place]
            at += n
        return chosen

    def _users(self, requests: Sequence[Request], seen: Arrays, now_B: I64) -> tuple[F32, U64, Arrays]:
        n = len(requests)
        inputs = [
            attribute_inputs(self.schema.user_attributes, request.user.attributes)
            if request.user.attributes
            else self._no_attributes
            for request in requests
        ]
        no_keys, no_numbers = self._no_attributes
        key_BA = np.array([keys for keys, _ in inputs], np.uint64).reshape(n, len(no_keys))
        number_BM = np.array([numbers for _, numbers in inputs], np.float32).reshape(n, len(no_numbers))
        recent = seen.newest(N_RECENT)
        recent.type[recent.key != 0] += 1
        return self._user_dense(requests, number_BM, recent, now_B), key_BA, recent

    def _context_keys(self, contexts: Sequence[dict[str, Any]]) -> U64:
        rows = [
            [
                known_hash64(f"{name}={context[name]}") if context.get(name) is not None else 0
                for name in self.schema.context
            ]
            for context in contexts
        ]
        return np.array(rows, dtype=np.uint64).reshape(len(contexts), len(self.schema.context))

    def _user_dense(self, requests: Sequence[Request], number_BM: F32, recent: Arrays, now_B: I64) -> F32:
        packed = b"".join(request.user.counters for request in requests)
        word_BW = np.frombuffer(packed, np.uint32).reshape(len(requests), self.schema.user_block_bytes // 4)
        dense_BU = np.zeros((len(requests), len(self.user_names)), dtype=np.float32)
        layout = self._user_instant, self._user_value, self._user_decay_per_ms
        kernels.person(word_BW, now_B, *layout, number_BM, recent.key, recent.ms, dense_BU)
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


def _past(table: ItemTable, requests: Sequence[Request]) -> Past:
    """What is known of those who ask."""
    now_B = np.array([request.now_ms for request in requests], dtype=np.int64)
    seen = arrays_of([request.user.history for request in requests], table.schema.n_recent)
    return table.past(seen, now_B)


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
