"""The ranking network: encoded inputs to one logit per candidate.

    dense features ──────────────┐
    item, attribute embeddings ──┼─► hidden ─► hidden ─► logit (+ a linear skip from all of these)
    likeness to recent items ────┤
    person and context ──────────┘  (computed once a request, added to every candidate)

What is seen of a candidate is weighed by a *gate* that the person and the moment open: who comes back after a week
looks for other things than who clicked ten seconds ago. The gate starts open, at one for every input.

*Likeness* is a handful of dot products: of the candidate with the recent items pooled by age and type, with the last
one, with the context, with a query made of all that, and an attention over the recent items that looks for the one
nearest to the candidate.

Dense features come to zero mean and unit spread by statistics of what was learned from lately, which are part of a
version. Nothing is normalised within a request or a batch, so a score depends on neither the slate nor the batch it is
in. The output layer starts at zero: an untrained network gives every candidate the same score, and its loss is log K.

`forward` says what the network is, in tensors. What scores and learns are compiled loops of the same, five times as
fast on a lone request and twice on a batch; tests hold the two together, values and gradients.

The dense parameters and the statistics are views of one flat vector (`flat`): one copy moves them. Embeddings live in
tables that the network only reads. It knows no optimizer.

Legend: B requests, K candidates, R recent items, F dense features, U user features, D embedding, H hidden, P features
of a person, J vectors that candidates are compared with, I inputs of the first layer, N rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from features.encoding import N_RECENT, Encoder, Inputs
from features.index import NOTHING
from features.schema import Schema
from learners import kernels
from learners.embeddings import EmbeddingTable
from learners.errors import DivergedStep

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Table = tuple[U64, U64, F32]

TABLES: Final = {
    "item": ("item_key", "recent_key"),
    "attribute": ("attribute_key",),
    "context": ("context_key", "user_key"),
}
OF_PEOPLE: Final = ("context",)
"""Tables of what is known of people and of the moment: a value that one person alone has is that person's."""
MEANS: Final = (("attribute", "attribute_key"), ("context", "context_key"), ("context", "user_key"))
N_DOTS: Final = 5
N_PLACES: Final = 50  # whose share in a reward is learned apart
STATISTICS: Final = ("dense_mean", "dense_variance", "user_mean", "user_variance")
SLOWEST: Final = 1e-3  # share of a batch in the statistics, once they are of a thousand batches


class Lookup(Protocol):
    """An embedding table, as far as scoring needs it."""

    @property
    def arrays(self) -> Table:
        """As `learners.kernels` take it, by the same memory."""

    def lookup(self, keys: U64, /) -> I64:
        """Rows of keys, in their shape; 0, the fallback, for absent (0) and unknown ones."""


class Loss(Protocol):
    """From scores and their mask to the gradient of the scores, which it writes into its last argument."""

    @property
    def is_relative(self) -> bool:
        """Whether it only compares candidates: its gradient adds up to zero over each slate."""

    def __call__(self, scores_BK: F32, mask_BK: NDArray[np.bool_], gradient_BK: F32, /) -> None:
        """Write the gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of the network."""

    n_embedding: int = 32
    """Width of every embedding."""
    n_hidden: int = 64
    """Width of both hidden layers."""
    seed: int = 17
    """Of the initial weights."""

    def __post_init__(self) -> None:
        for name, low, high in (("n_embedding", 1, 256), ("n_hidden", 1, 1024), ("seed", 0, 2**31)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"model.{name}: expected {low} to {high}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Everything a batch of inputs names, embedded."""

    item: Tensor  # [B, K, D] candidates by id
    candidate: Tensor  # [B, K, D] by id and attributes
    recent: Tensor  # [B, R, D]
    context: Tensor  # [B, D]
    user: Tensor  # [B, D]


@dataclass(slots=True)
class Activations:
    """What the compiled network made of a batch of inputs."""

    recent: F32  # [B, R, D]
    logit: F32  # [B, R] of the recent items' weights
    person: F32  # [B, P]
    query: F32  # [B, J, D]
    offset: F32  # [B, H]
    gate: F32  # [B, I]
    alike: F32  # [B, K, R] candidates' likeness to the recent items
    share: F32  # [B, K, R] of each in the likeness to the nearest
    seen: F32  # [B, K, I]
    first: F32  # [B, K, H] after its ReLU
    second: F32  # [B, K, H] before its bias and ReLU
    scores: F32  # [B, K]


@dataclass(slots=True)
class BatchTable:
    """The rows of an embedding table that a batch of inputs names, and their gradient; row 0 is the fallback."""

    rows: I64  # [N] of the table
    table: Table
    """As `learners.kernels` take it: index and values [N, D] of the batch."""
    gradient: F32  # [N, D]

    @property
    def values(self) -> F32:
        """[N, D] as they were looked up."""
        return self.table[2]


class RankingModel(nn.Module):
    """`score` for serving; for learning `look_up`, then `learn_from`; `observe` keeps the statistics.

    Args:
        tables: By the names of `TABLES`; by default such as learn.
    """

    enter: nn.Parameter  # [F + D + dots, H]
    enter_bias: nn.Parameter
    person: nn.Parameter  # [4 D + U, H]
    query: nn.Parameter
    gate: nn.Parameter  # [4 D + U, F + D + dots]
    middle: nn.Parameter
    middle_bias: nn.Parameter
    leave: nn.Parameter
    skip: nn.Parameter
    bias: nn.Parameter
    shown_at: nn.Parameter  # what a place in a slate adds to the logit of a reward; the first adds nothing
    place: nn.Parameter  # logit of a recent item by its place
    kind: nn.Parameter  # and by its type
    age: nn.Parameter  # and by its age
    dense_mean: Tensor  # [F] statistics of the inputs
    dense_variance: Tensor
    user_mean: Tensor
    user_variance: Tensor

    def __init__(self, schema: Schema, config: ModelConfig, tables: Mapping[str, Lookup] | None = None) -> None:
        super().__init__()
        self.config = config
        encoder = Encoder(schema)
        self.tables: dict[str, Lookup] = dict(tables or {name: EmbeddingTable(config.n_embedding) for name in TABLES})
        self._n_types = len(schema.event_types)
        spreads = []
        for name, (shape, spread) in self._shapes(len(encoder.dense_names), len(encoder.user_names)).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            spreads.append(spread)
        for name in STATISTICS:
            n = len(encoder.dense_names if name.startswith("dense") else encoder.user_names)
            self.register_buffer(name, torch.zeros(n) if name.endswith("mean") else torch.ones(n))
        self._flatten(spreads, torch.Generator().manual_seed(config.seed))

    def forward(self, inputs: Inputs, embedded: Embedded) -> Tensor:
        """Score slates, in tensors.

        Returns:
            Logits [B, K]; 0 where `inputs.mask` is False.
        """
        candidate_BKD, recent_BRD, context_BD = embedded.candidate, embedded.recent, embedded.context
        pooled_BD, last_BD, bias_BR = self._pool(inputs, recent_BRD)
        user_BU = _standard(inputs.user_dense, self.user_mean, self.user_variance)
        person_BP = torch.cat((pooled_BD, last_BD, context_BD, embedded.user, user_BU), dim=1)
        queries_BDJ = torch.stack((pooled_BD, last_BD, context_BD, person_BP @ self.query), dim=2)
        nearest_BK = _nearest(embedded.item, recent_BRD, bias_BR, inputs)
        dots = (candidate_BKD @ queries_BDJ, nearest_BK[..., None])
        dense_BKF = _standard(inputs.dense, self.dense_mean, self.dense_variance)
        seen_BKI = torch.cat((dense_BKF, candidate_BKD, *dots), dim=2)
        seen_BKI = seen_BKI * (1.0 + person_BP @ self.gate)[:, None]
        first_BKH = (seen_BKI @ self.enter + (person_BP @ self.person + self.enter_bias)[:, None]).relu()
        second_BKH = (first_BKH @ self.middle + self.middle_bias).relu()
        scores_BK = (second_BKH @ self.leave + seen_BKI @ self.skip + self.bias).squeeze(2)
        return scores_BK.masked_fill(~torch.from_numpy(inputs.mask), 0.0)

    def embed(self, inputs: Inputs, values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Embedded:
        """Embed what the inputs name, differentiably.

        Args:
            values: Embedding rows by table, [n, D].
            places: Where in them each key of an input field is found, in the field's shape.
        """
        item_BKD, recent_BRD = (embedding(places[field], values["item"]) for field in TABLES["item"])
        attribute_BKD, context_BD, user_BD = (
            mean_of_present(values[table], places[field], getattr(inputs, field)) for table, field in MEANS
        )
        return Embedded(item_BKD, item_BKD + attribute_BKD, recent_BRD, context_BD, user_BD)

    def rows_of(self, inputs: Inputs) -> dict[str, Tensor]:
        """Rows by input field, in its shape, as `embed` takes them; unknown keys have the fallback row."""
        tables = {field: self.tables[name] for name, fields in TABLES.items() for field in fields}
        return {field: torch.from_numpy(table.lookup(getattr(inputs, field))) for field, table in tables.items()}

    def score(self, inputs: Inputs) -> F32:
        """Scores [B, K] as they are now; changes nothing."""
        item, attribute, context = (self.tables[name].arrays for name in TABLES)
        return self._activate(inputs, item, attribute, context).scores

    def look_up(self, inputs: Inputs) -> dict[str, BatchTable]:
        """The rows that these inputs name, by table; unknown keys have the fallback row."""
        return {
            name: collected(self.tables[name], [getattr(inputs, field) for field in fields])
            for name, fields in TABLES.items()
        }

    def learn_from(self, inputs: Inputs, named: Mapping[str, BatchTable], loss: Loss) -> F32:
        """Scores [B, K]; changes no weight.

        Adds gradients: those of the dense parameters to `flat_gradient`, those of rows to `named`.
        """
        item, attribute, context = (named[name].table for name in TABLES)
        made = self._activate(inputs, item, attribute, context)
        dscores = np.empty_like(made.scores)
        loss(made.scores, inputs.mask, dscores)
        if not loss.is_relative:  # or it would be the rounding errors of a sum that is zero, and Adam enlarges them
            self._gradients["bias"] += dscores.sum()
        self._go_back(inputs, named, made, dscores)
        return made.scores

    def arrays_of(self, name: str) -> tuple[F32, F32]:
        """A dense parameter and its gradient, by the same memory."""
        return self._arrays[name], self._gradients[name]

    def observe(self, inputs: Inputs, n_batches: int) -> None:
        """Take a batch into the statistics.

        Args:
            n_batches: How many there were before: the first ones count by their number, later ones for the last
                thousand.
        Raises:
            DivergedStep: If it is not finite.
        """
        rate = max(1.0 / (n_batches + 1), SLOWEST)
        everybody = np.ones((1, len(inputs.user_dense)), dtype=bool)
        for name, values, mask in (("dense", inputs.dense, inputs.mask), ("user", inputs.user_dense[None], everybody)):
            mean, variance = self._arrays[f"{name}_mean"], self._arrays[f"{name}_variance"]
            found_mean, found_variance = np.empty_like(mean), np.empty_like(variance)
            kernels.moments(values, mask, mean, found_mean, found_variance)
            if not np.isfinite(found_variance).all():
                raise DivergedStep("inputs are not finite")
            step = found_mean - mean
            variance += rate * (found_variance + (1.0 - rate) * step * step - variance)
            mean += rate * step

    def met(self, named: Sequence[tuple[Inputs, NDArray[np.bool_]]]) -> dict[str, U64]:
        """What one step has met, by table: every key, but candidates that are not known; those may not exist.

        Args:
            named: The inputs of the step, and [B, K] which candidates are known.
        """
        found = {}
        for table, fields in TABLES.items():
            keys = [getattr(inputs, field).ravel() for inputs, _ in named for field in fields if field != "item_key"]
            if table == "item":
                keys += [inputs.item_key[is_known_BK] for inputs, is_known_BK in named]
            found[table] = np.concatenate(keys)
        return found

    def met_by(self, named: Sequence[tuple[Inputs, U64]]) -> dict[str, U64]:
        """Who met each of the keys that `met` gives, of the tables that know people.

        Args:
            named: The inputs of the step, and [B] whose slates these are.
        """
        return {
            table: np.concatenate(
                [
                    np.repeat(people_B, getattr(inputs, field).shape[1])
                    for inputs, people_B in named
                    for field in TABLES[table]
                ]
            )
            for table in OF_PEOPLE
        }

    def _activate(self, inputs: Inputs, item: Table, attribute: Table, context: Table) -> Activations:
        n_requests, n_candidates, n_dense = inputs.dense.shape
        n_embedding, n_hidden = self.config.n_embedding, self.config.n_hidden
        n_recent = inputs.recent_key.shape[1]
        n_inputs = n_dense + n_embedding + N_DOTS
        w = self._arrays
        made = Activations(
            recent=np.empty((*inputs.recent_key.shape, n_embedding), dtype=np.float32),
            logit=np.empty(inputs.recent_key.shape, dtype=np.float32),
            person=np.empty((n_requests, len(w["person"])), dtype=np.float32),
            query=np.empty((n_requests, N_DOTS - 1, n_embedding), dtype=np.float32),
            offset=np.empty((n_requests, n_hidden), dtype=np.float32),
            gate=np.empty((n_requests, n_inputs), dtype=np.float32),
            alike=np.empty((n_requests, n_candidates, n_recent), dtype=np.float32),
            share=np.empty((n_requests, n_candidates, n_recent), dtype=np.float32),
            seen=np.empty((n_requests, n_candidates, n_inputs), dtype=np.float32),
            first=np.empty(0, dtype=np.float32),
            second=np.empty(0, dtype=np.float32),
            scores=np.empty((n_requests, n_candidates), dtype=np.float32),
        )
        weights = ("place", "kind", "age", "query", "person", "enter_bias", "gate", "user_mean")
        kernels.people(
            *(item, context, (*(w[name] for name in weights), scales(w["user_variance"])), inputs.user_dense),
            *(inputs.recent_key, inputs.recent_type, inputs.recent_age, inputs.context_key, inputs.user_key),
            *(made.recent, made.logit, made.person, made.query, made.offset, made.gate),
        )
        kernels.see(
            *(item, attribute, w["dense_mean"], scales(w["dense_variance"])),
            *(inputs.mask, inputs.dense, inputs.item_key, inputs.attribute_key, inputs.recent_key),
            *(made.recent, made.logit, made.query, made.gate, made.alike, made.share, made.seen),
        )
        shape = n_requests, n_candidates, n_hidden
        made.first = (made.seen.reshape(-1, n_inputs) @ w["enter"]).reshape(shape)
        kernels.enter(made.first, made.offset)
        made.second = (made.first.reshape(-1, n_hidden) @ w["middle"]).reshape(shape)
        kernels.leave(
            *(inputs.mask, made.second, w["middle_bias"], w["leave"].ravel()),
            *(made.seen, w["skip"].ravel(), w["bias"], made.scores),
        )
        return made

    def _go_back(self, inputs: Inputs, named: Mapping[str, BatchTable], made: Activations, dscores_BK: F32) -> None:
        """From the gradient of the scores to that of everything but the bias; uses up `made`."""
        w, g = self._arrays, self._gradients
        n_hidden, n_inputs = self.config.n_hidden, made.seen.shape[2]
        n_recent, n_embedding = made.recent.shape[1:]
        seen_NI, first_NH, dscores_N1 = (
            made.seen.reshape(-1, n_inputs),
            made.first.reshape(-1, n_hidden),
            dscores_BK.reshape(-1, 1),
        )
        dsecond = made.second
        kernels.leave_back(inputs.mask, dsecond, w["middle_bias"], w["leave"], dscores_BK, g["middle_bias"], g["leave"])
        dsecond_NH = dsecond.reshape(-1, n_hidden)
        g["middle"] += first_NH.T @ dsecond_NH
        dfirst_NH = dsecond_NH @ w["middle"].T
        doffset_BH = np.zeros_like(made.offset)
        kernels.enter_back(made.first, dfirst_NH.reshape(made.first.shape), doffset_BH)
        g["enter"] += seen_NI.T @ dfirst_NH
        g["skip"] += seen_NI.T @ dscores_N1
        dseen_NI = dfirst_NH @ w["enter"].T
        dseen_NI += dscores_N1 * w["skip"].T
        drecent_BRD, dlogit_BR = np.zeros_like(made.recent), np.zeros_like(made.logit)
        dquery_BJD, dgate_BI = np.zeros_like(made.query), np.zeros_like(made.gate)
        item, attribute, context = (named[name] for name in TABLES)
        kernels.see_back(
            *(item.table, attribute.table, inputs.mask, inputs.item_key, inputs.attribute_key, inputs.recent_key),
            *(made.recent, made.query, made.gate, made.alike, made.share, made.seen),
            *(dseen_NI.reshape(made.seen.shape), item.gradient, attribute.gradient),
            *(drecent_BRD, dlogit_BR, dquery_BJD, dgate_BI, np.empty(n_embedding, np.float32)),
        )
        dperson_BP = doffset_BH @ w["person"].T + dquery_BJD[:, 3] @ w["query"].T + dgate_BI @ w["gate"].T
        g["enter_bias"] += doffset_BH.sum(axis=0)
        g["person"] += made.person.T @ doffset_BH
        g["query"] += made.person.T @ dquery_BJD[:, 3]
        g["gate"] += made.person.T @ dgate_BI
        # The first three queries are the first three parts of the person.
        n_first = 3 * self.config.n_embedding
        dperson_BP[:, :n_first] += dquery_BJD[:, :3].reshape(len(dperson_BP), n_first)
        kernels.people_back(
            *(item.table, context.table, inputs.recent_key, inputs.recent_type, inputs.recent_age),
            *(inputs.context_key, inputs.user_key, made.recent, made.logit, dperson_BP, drecent_BRD, dlogit_BR),
            *(item.gradient, context.gradient, g["place"], g["kind"], g["age"]),
            tuple(np.empty(n, np.float32) for n in (n_recent, n_recent)),
        )

    def _pool(self, inputs: Inputs, recent_BRD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Recent items pooled by place, age and type; the last one; and the weights' logits."""
        has_recent_BR = torch.from_numpy(inputs.recent_key != 0)
        type_BR = torch.from_numpy(inputs.recent_type)
        age_BR = torch.from_numpy(inputs.recent_age)
        n_recent = has_recent_BR.shape[1]
        logit_BR = self.place[:n_recent] + self.kind[type_BR] + self.age * age_BR
        bias_BR = logit_BR.masked_fill(~has_recent_BR, -1e9)
        weight_BR = torch.softmax(bias_BR, dim=1) * has_recent_BR
        pooled_BD = (weight_BR[:, None] @ recent_BRD).squeeze(1)
        return pooled_BD, recent_BRD[:, 0] * has_recent_BR[:, :1], bias_BR

    def _shapes(self, n_dense: int, n_user: int) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape and spread of the uniform initial values of each parameter."""
        n_embedding, n_hidden = self.config.n_embedding, self.config.n_hidden
        n_person = 4 * n_embedding + n_user
        n_seen = n_dense + n_embedding + N_DOTS
        return {
            "enter": ((n_seen, n_hidden), math.sqrt(3 / n_seen)),
            "enter_bias": ((n_hidden,), 0.1),
            "person": ((n_person, n_hidden), math.sqrt(1 / n_person)),
            "query": ((n_person, n_embedding), math.sqrt(1 / n_person)),
            "gate": ((n_person, n_seen), 0.0),
            "middle": ((n_hidden, n_hidden), math.sqrt(6 / n_hidden)),
            "middle_bias": ((n_hidden,), 0.0),
            "leave": ((n_hidden, 1), 0.0),
            "skip": ((n_seen, 1), 0.0),
            "bias": ((1,), 0.0),
            "shown_at": ((N_PLACES,), 0.0),
            "place": ((N_RECENT,), 0.0),
            "kind": ((self._n_types + 1,), 0.0),
            "age": ((1,), 0.0),
        }

    def _flatten(self, spreads: list[float], generator: torch.Generator) -> None:
        parameters, statistics = dict(self.named_parameters()), [getattr(self, name) for name in STATISTICS]
        self.n_trained = sum(parameter.numel() for parameter in parameters.values())
        self.flat = torch.empty(self.n_trained + sum(map(len, statistics)))
        self.flat_gradient = torch.zeros(self.n_trained)
        start = 0
        self._gradients: dict[str, F32] = {}
        for (parameter_name, parameter), spread in zip(parameters.items(), spreads, strict=True):
            part = slice(start, start + parameter.numel())
            self.flat[part].uniform_(-1.0, 1.0, generator=generator).mul_(spread)
            parameter.data = self.flat[part].view(parameter.shape)
            parameter.grad = self.flat_gradient[part].view(parameter.shape)
            self._gradients[parameter_name] = parameter.grad.numpy()
            start = part.stop
        for name in STATISTICS:
            part = slice(start, start + len(getattr(self, name)))
            self.flat[part] = getattr(self, name)
            self.register_buffer(name, self.flat[part])
            start = part.stop
        # The same memory for the compiled loops.
        named = (*self.named_parameters(), *self.named_buffers())
        self._arrays = {name: tensor.detach().numpy() for name, tensor in named}


def collected(table: Lookup, keys: Sequence[U64]) -> BatchTable:
    """The rows that these keys name, each once; unknown keys have the fallback row."""
    n_keys = sum(part.size for part in keys)
    n_slots = 1 << (2 * n_keys + 2).bit_length()
    slots = np.zeros((n_slots, 2), dtype=np.uint64)
    rows = np.zeros(n_keys + 1, dtype=np.int64)
    n_rows = 1
    for part in keys:
        n_rows = kernels.collect(table.arrays, part.ravel(), slots, rows, n_rows)
    *_, weight_ND = table.arrays
    values = np.empty((n_rows, weight_ND.shape[1]), dtype=np.float32)
    kernels.gather(weight_ND, rows[:n_rows], values)
    return BatchTable(rows[:n_rows], (slots, NOTHING, values), np.zeros_like(values))


def scales(variance_F: F32) -> F32:
    """What brings features to unit spread, where they vary at all."""
    scale_F: F32 = np.float32(1.0) / np.sqrt(variance_F + kernels.SMALL)
    return scale_F


def _standard(values: F32, mean: Tensor, variance: Tensor) -> Tensor:
    return (torch.from_numpy(values) - mean) / (variance + float(kernels.SMALL)).sqrt()


def _nearest(item_BKD: Tensor, recent_BRD: Tensor, bias_BR: Tensor, inputs: Inputs) -> Tensor:
    """Likeness of each candidate to the recent items, the more alike ones weighing more."""
    alike_BKR = item_BKD @ recent_BRD.transpose(1, 2)
    weight_BKR = torch.softmax(alike_BKR + bias_BR[:, None], dim=2)
    has_any_B1 = torch.from_numpy((inputs.recent_key != 0).any(axis=1, keepdims=True))
    return (weight_BKR * alike_BKR).sum(dim=2) * has_any_B1


def mean_of_present(values_ND: Tensor, places: Tensor, keys: NDArray[np.uint64]) -> Tensor:
    """Mean over the last axis of the embeddings whose key is present; zeros where none is. Absent ones cost nothing."""
    is_present = keys.reshape(math.prod(keys.shape[:-1]), keys.shape[-1]) != 0  # a schema may declare no keys at all
    starts = np.concatenate([[0], is_present.sum(axis=1).cumsum()[:-1]])
    wanted = places.flatten()[torch.from_numpy(is_present.ravel().nonzero()[0])]
    means = embedding_bag(wanted, values_ND, torch.from_numpy(starts), mode="mean")
    return means.view(*keys.shape[:-1], values_ND.shape[1])
