"""The one encoder: state + context + now -> arrays. Serving, learning and evaluation all call it.

Two halves. `gather` copies what is known at this instant out of the item table (a learner gathers each event's slate
before it folds the event, so nothing leaks from the future). `assemble` turns gathered slates into model inputs, all at
once; it decays every counter to the instant of its request. It looks at nothing but what was gathered, so the same
slates give the same inputs wherever they are assembled.

Ids reach the model as 64-bit keys; what they mean is the model's affair. A key of 0 is absent.

Legend: B requests, K candidates, R recent items, P predecessors, S successors, H successor half-lives, G counter
groups, V counter values, C context fields, A attribute keys, M attribute numbers, F dense features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.item_table import UNKNOWN, ItemTable, attribute_inputs
from features.schema import Schema, bucket, duration, hash64
from features.state import Recent, UserState

NO_AGE: Final = 2.0  # where there is nothing to have an age: that of 15 years
N_RECENT: Final = 20  # recent items the model attends to; more cost time and were not seen to help
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(slots=True)
class Slates:
    """What was known about requests and their candidates when they were gathered; arrays by request."""

    now_ms: I64  # [B]
    mask: NDArray[np.bool_]  # [B, K] real candidates
    key: U64  # [B, K]
    first_ms: I64  # [B, K]
    last_ms: I64  # [B, K]
    ms: I64  # [B, K, G]
    value: F32  # [B, K, V] the values chosen by the request's context
    has_value: NDArray[np.bool_]  # [B, V]
    attribute_key: U64  # [B, K, A]
    number: F32  # [B, K, M]
    predecessor_ms: I64  # [B, P, S]
    predecessor_key: U64  # [B, P, S] successors of the user's latest items
    predecessor_value: F32  # [B, P, S, H]
    user_ms: I64  # [B, G]
    user_value: F32  # [B, V]
    user_key: U64  # [B, A]
    user_number: F32  # [B, M]
    recent_key: U64  # [B, R] newest first
    recent_type: I64  # [B, R]
    recent_ms: I64  # [B, R]
    context_key: U64  # [B, C]

    def __len__(self) -> int:
        return len(self.now_ms)


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


def concatenate(slates: Sequence[Slates]) -> Slates:
    """Stack slates of equal width K."""
    if len(slates) == 1:
        return slates[0]
    return Slates(*(np.concatenate([getattr(slate, field.name) for slate in slates]) for field in fields(Slates)))


@dataclass(frozen=True, slots=True)
class Request:
    """One request to encode: who asks, when, in which context, about which candidates."""

    user: UserState
    context: dict[str, Any]
    now_ms: int
    candidates: Sequence[str]


class Encoder:
    """Gathers and assembles under one schema. Stateless but for tables derived from the schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._plain, self._split = _values(schema)
        groups = schema.item_groups
        plain_half_lives = [h for g in groups if g.counter.split is None for h in g.half_lives_ms]
        split_half_lives = [h for g in groups if g.counter.split is not None for h in g.half_lives_ms]
        self._decay_per_ms = 1.0 / np.array(plain_half_lives + split_half_lives, dtype=np.float32)
        order = [g for g in groups if g.counter.split is None] + [g for g in groups if g.counter.split is not None]
        self._group = np.array([g.index for g in order for _ in g.half_lives_ms], dtype=np.int64)
        self._user_half_life_ms = np.array(
            [h for g in schema.user_groups for _ in range(g.counter.n_buckets) for h in g.half_lives_ms]
        )
        self._user_group = np.repeat(
            np.arange(len(schema.user_groups)), [group.n_values for group in schema.user_groups]
        ).astype(np.int64)
        self._user_block = np.dtype(
            [(f"f{g.index}", [("ms", "<i8"), ("value", "<f4", (g.n_values,))]) for g in schema.user_groups]
        )
        self._successor_decay_per_ms = 0.001 / np.array(schema.successor_half_lives_s, dtype=np.float32)
        self.dense_names = self._name_dense(order)
        self.user_names = self._name_user()

    def encode(self, table: ItemTable, requests: Sequence[Request]) -> Inputs:
        """Gather and assemble in one go, as a serving replica does; slates are padded to the longest."""
        n_candidates = max(len(request.candidates) for request in requests)
        rows_BK = np.zeros((len(requests), n_candidates), dtype=np.int64)
        mask_BK = np.zeros_like(rows_BK, dtype=bool)
        key_BK = np.zeros_like(rows_BK, dtype=np.uint64)
        for b, request in enumerate(requests):
            n = len(request.candidates)
            rows_BK[b, :n] = table.find(request.candidates)
            mask_BK[b, :n] = True
            key_BK[b, :n] = table.key[rows_BK[b, :n]]
            for k in np.flatnonzero(key_BK[b, :n] == 0):
                key_BK[b, k] = hash64(request.candidates[int(k)])
        return self.assemble(self.gather(table, requests, rows_BK, key_BK, mask_BK))

    def gather(
        self,
        table: ItemTable,
        requests: Sequence[Request],
        rows_BK: I64,
        key_BK: U64,
        mask_BK: NDArray[np.bool_],
    ) -> Slates:
        """Copy all that is known right now about the requests' users and the candidates in `rows_BK`.

        Args:
            rows_BK: Rows of the table; `UNKNOWN` for padding and for items it has not seen.
            key_BK: 64-bit keys of the candidates, known or not; 0 for padding.
        """
        rows_BP = np.stack([self.predecessor_rows(table, request.user.recent, request.now_ms) for request in requests])
        return self.slates(table.fixed[rows_BK], table.successors[rows_BP], requests, key_BK, mask_BK)

    def predecessor_rows(self, table: ItemTable, recent: Sequence[Recent], now_ms: int) -> I64:
        """Rows [P] of the items whose successors matter to a user at an instant; padded with `UNKNOWN`."""
        rows_P = np.zeros(self.schema.successor_span, dtype=np.int64)
        for place, item in enumerate(table.predecessors(recent, now_ms)):
            rows_P[place] = table.rows.get(item, UNKNOWN)
        return rows_P

    def slates(
        self,
        fixed_BK: NDArray[np.void],
        successors_BPS: NDArray[np.void],
        requests: Sequence[Request],
        key_BK: U64,
        mask_BK: NDArray[np.bool_],
    ) -> Slates:
        """Put together what was copied out of a table: records of candidates, and successor records of predecessors.

        The copying is all that must happen at the right moment; so a learner copies row by row and calls this once a
        batch.
        """
        contexts = [request.context for request in requests]
        chosen_BV, has_value_BV = self._choose(contexts)
        value_BKV = np.empty((*key_BK.shape, len(self._decay_per_ms)), dtype=np.float32)
        n_plain, n_slots = len(self._plain), key_BK.shape[1]
        value_BKV[..., :n_plain] = fixed_BK["value"].take(self._plain, axis=2)
        rows, slots = np.arange(len(requests))[:, None, None], np.arange(n_slots)[:, None]
        value_BKV[..., n_plain:] = fixed_BK["value"][rows, slots, chosen_BV[:, None, n_plain:]]
        return Slates(
            np.array([request.now_ms for request in requests], dtype=np.int64),
            mask_BK,
            key_BK,
            fixed_BK["first_ms"],
            fixed_BK["last_ms"],
            fixed_BK["ms"],
            value_BKV,
            has_value_BV,
            fixed_BK["attribute_key"],
            fixed_BK["number"],
            successors_BPS["ms"],
            successors_BPS["key"],
            successors_BPS["value"],
            *self._users([request.user for request in requests]),
            self._context_keys(contexts),
        )

    def assemble(self, slates: Slates) -> Inputs:
        """Turn gathered slates into model inputs; every counter decayed to its request's instant."""
        numbers = np.nan_to_num(np.log1p(np.abs(slates.number)) * np.sign(slates.number))
        parts = (self._counters(slates), self._successions(slates), _ages(slates), *_seen(slates), numbers)
        dense_BKF = np.concatenate(parts, axis=2, dtype=np.float32)
        if not slates.mask.all():
            dense_BKF[~slates.mask] = 0.0
        age_s = np.maximum(slates.now_ms[:, None] - slates.recent_ms, 0) / 1000.0
        has_recent = slates.recent_key != 0
        return Inputs(
            slates.mask,
            dense_BKF,
            self._user_dense(slates),
            slates.key,
            slates.attribute_key,
            slates.recent_key,
            slates.recent_type,
            np.where(has_recent, np.log1p(age_s) / 10.0, 0.0).astype(np.float32),
            slates.context_key,
            slates.user_key,
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

    def _choose(self, contexts: Sequence[dict[str, Any]]) -> tuple[I64, NDArray[np.bool_]]:
        chosen = np.zeros((len(contexts), len(self._decay_per_ms)), dtype=np.int64)
        has_value = np.ones(chosen.shape, dtype=bool)
        chosen[:, : len(self._plain)] = self._plain
        at = len(self._plain)
        for group in self._split:
            n = len(group.half_lives_ms)
            for b, context in enumerate(contexts):
                place = bucket(group, context)
                if place is None:
                    has_value[b, at : at + n] = False
                else:
                    chosen[b, at : at + n] = group.start + place * n + np.arange(n)
            at += n
        return chosen, has_value

    def _users(self, users: Sequence[UserState]) -> tuple[I64, F32, U64, F32, U64, I64, I64]:
        names = self._user_block.names or ()
        packed = b"".join(user.counters for user in users)
        block = np.frombuffer(packed, self._user_block) if names else np.zeros(0, self._user_block)
        n = len(users)
        ms = np.stack([block[name]["ms"] for name in names], axis=1) if names else np.zeros((n, 0), np.int64)
        value = (
            np.concatenate([block[name]["value"] for name in names], axis=1)
            if names
            else np.zeros((n, 0), dtype=np.float32)
        )
        keys, numbers = zip(
            *(attribute_inputs(self.schema.user_attributes, user.attributes) for user in users), strict=True
        )
        recent_key = np.zeros((n, N_RECENT), dtype=np.uint64)
        recent_type = np.zeros((n, N_RECENT), dtype=np.int64)
        recent_ms = np.zeros((n, N_RECENT), dtype=np.int64)
        for b, user in enumerate(users):
            latest = user.recent[:N_RECENT]
            if latest:
                items, types, instants = zip(*latest, strict=True)
                recent_key[b, : len(latest)] = [hash64(item) for item in items]
                recent_type[b, : len(latest)] = types
                recent_type[b, : len(latest)] += 1
                recent_ms[b, : len(latest)] = instants
        return ms, value, np.stack(keys), np.stack(numbers), recent_key, recent_type, recent_ms

    def _context_keys(self, contexts: Sequence[dict[str, Any]]) -> U64:
        rows = [
            [hash64(f"{name}={context[name]}") if context.get(name) is not None else 0 for name in self.schema.context]
            for context in contexts
        ]
        return np.array(rows, dtype=np.uint64).reshape(len(contexts), len(self.schema.context))

    def _counters(self, slates: Slates) -> F32:
        """In float32 from the age on: half of the time of float64, and errors below those of the stored values."""
        age_ms = np.minimum(slates.ms - slates.now_ms[:, None, None], 0).astype(np.float32)
        decayed = np.exp2(age_ms.take(self._group, axis=2) * self._decay_per_ms)
        decayed *= slates.value
        decayed *= slates.has_value[:, None, :]
        counters: F32 = np.log1p(decayed, out=decayed)
        return counters

    def _successions(self, slates: Slates) -> F32:
        """How much followed the user's last item and the ones before it: log weights, and shares of the whole.

        Few candidates are successors at all, so all but the totals is computed for those alone.
        """
        age_ms = np.minimum(slates.predecessor_ms - slates.now_ms[:, None, None], 0).astype(np.float32)
        weight_BPSH = slates.predecessor_value * np.exp2(age_ms[..., None] * self._successor_decay_per_ms)
        total_BPH = np.maximum(weight_BPSH.sum(axis=2), 1e-9)
        _, n_before, n_successors, n_half_lives = weight_BPSH.shape
        at, source = matches(slates.key, slates.predecessor_key.reshape(len(slates), -1))
        is_earlier = (source // n_successors % n_before > 0).astype(np.int64)
        weight_MH = weight_BPSH.reshape(-1, n_half_lives)[source]
        share_MH = weight_MH / total_BPH.reshape(-1, n_half_lives)[source // n_successors]
        share_MH[is_earlier > 0] /= max(n_before - 1, 1)
        # Columns: weight after the last item, after the others, share of the last one's, mean share of the others'.
        sums = np.zeros((slates.key.size, 4, n_half_lives), dtype=np.float32)
        np.add.at(sums, (at, is_earlier), weight_MH)
        np.add.at(sums, (at, 2 + is_earlier), share_MH)
        rows = np.unique(at)
        sums[rows] = np.log1p(10.0 * sums[rows])
        return sums.reshape(*slates.key.shape, -1)

    def _user_dense(self, slates: Slates) -> F32:
        age_ms = np.minimum(slates.user_ms[:, self._user_group] - slates.now_ms[:, None], 0)
        counters = np.log1p(slates.user_value * np.exp2(age_ms / self._user_half_life_ms))
        n_recent = (slates.recent_key != 0).sum(axis=1, keepdims=True) / N_RECENT
        idle_s = np.maximum(slates.now_ms[:, None] - slates.recent_ms[:, :1], 0) / 1000.0
        idle = np.where(slates.recent_key[:, :1] != 0, np.log1p(idle_s) / 10.0, NO_AGE)
        day = slates.now_ms[:, None] % 86_400_000 * (2 * np.pi / 86_400_000)
        numbers = np.nan_to_num(np.log1p(np.abs(slates.user_number)) * np.sign(slates.user_number))
        return np.concatenate([counters, n_recent, idle, np.sin(day), np.cos(day), numbers], axis=1, dtype=np.float32)

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


def matches(key_BK: U64, other_BN: U64) -> tuple[I64, I64]:
    """Where a request's other keys are among its own: flat places in `key_BK` and in `other_BN`; absent ones nowhere.

    Of a key that a request repeats, the first place counts.
    """
    present = np.flatnonzero(other_BN)
    # The request's number is mixed into the keys, so that one sorted search serves the whole batch.
    mix = np.arange(1, len(key_BK) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    wanted = other_BN.ravel()[present] ^ mix[present // other_BN.shape[1]]
    by = wanted.argsort()  # neighbours find their places in warm memory, at a third of the time
    wanted, present = wanted[by], present[by]
    keys = (key_BK ^ mix[:, None]).ravel()
    order = keys.argsort(kind="stable")
    keys = keys[order]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    is_found = keys[place] == wanted
    return order[place[is_found]], present[is_found]


def _values(schema: Schema) -> tuple[I64, list[Any]]:
    plain = [g for g in schema.item_groups if g.counter.split is None]
    split = [g for g in schema.item_groups if g.counter.split is not None]
    places = [np.arange(g.start, g.start + g.n_values) for g in plain]
    return np.concatenate(places) if places else np.zeros(0, dtype=np.int64), split


def _ages(slates: Slates) -> F32:
    is_known = slates.first_ms > 0
    now_ms = slates.now_ms[:, None]
    age = np.where(is_known, np.log1p(np.maximum(now_ms - slates.first_ms, 0) / 1000.0) / 10.0, 0.0)
    idle = np.where(is_known, np.log1p(np.maximum(now_ms - slates.last_ms, 0) / 1000.0) / 10.0, NO_AGE)
    ages: F32 = np.stack([is_known, age, idle], axis=2).astype(np.float32)
    return ages


def _seen(slates: Slates) -> tuple[F32, F32]:
    """How often the user's recent items hold the candidate, and how long ago it was last."""
    at, source = matches(slates.key, slates.recent_key)
    count = np.zeros(slates.key.size, dtype=np.float32)
    idle = np.full(slates.key.size, NO_AGE, dtype=np.float32)
    np.add.at(count, at, 1.0)
    idle_s = (
        np.maximum(slates.now_ms[source // slates.recent_key.shape[1]] - slates.recent_ms.ravel()[source], 0) / 1000.0
    )
    np.minimum.at(idle, at, (np.log1p(idle_s) / 10.0).astype(np.float32))
    return np.log1p(count).reshape(*slates.key.shape, 1), idle.reshape(*slates.key.shape, 1)
