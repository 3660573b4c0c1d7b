"""The ranking network: encoded inputs to one logit per candidate.

    dense features ──────────────┐
    item, attribute embeddings ──┼─► hidden ─► hidden ─► logit (+ a linear skip from dense features)
    likeness to recent items ────┤
    person and context ──────────┘  (computed once a request, added to every candidate)

What is seen of a candidate is weighed by a *gate* that the person and the moment open: who comes back after a week
looks for other things than who clicked ten seconds ago. The gate starts open, at one for every input.

*Likeness* is a handful of dot products: of the candidate with the recent items pooled by age and type, with the last
one, with the context, with a query made of all that, and an attention over the recent items that looks for the one
nearest to the candidate.

The output layer starts at zero: an untrained network gives every candidate the same score, and its loss is log K.
Nothing is normalised across candidates or requests, so a score depends on neither the slate nor the batch it is in.

The dense parameters are views of one flat vector (`flat`): one copy moves them. Embeddings live in tables that the
network only reads. It knows no optimizer.

Legend: B requests, K candidates, R recent items, F dense features, U user features, D embedding, H hidden.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from features.encoding import N_RECENT, Encoder, Inputs
from features.schema import Schema
from learners import kernels
from learners.embeddings import EmbeddingTable

TABLES: Final = {
    "item": ("item_key", "recent_key"),
    "attribute": ("attribute_key",),
    "context": ("context_key", "user_key"),
}
MEANS: Final = (("attribute", "attribute_key"), ("context", "context_key"), ("context", "user_key"))
N_DOTS: Final = 5
COUNT_SCALE: Final = 0.25  # log counts reach 10: this brings them to where the other inputs are


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


class RankingModel(nn.Module):
    """`score` for serving; for learning `look_up`, gather the rows as leaves, `embed`, `forward`, train the leaves."""

    enter: nn.Parameter  # [F + D + dots, H]
    enter_bias: nn.Parameter
    person: nn.Parameter  # [4 D + U, H]
    query: nn.Parameter
    gate: nn.Parameter  # [4 D + U, F + D + dots]
    middle: nn.Parameter
    middle_bias: nn.Parameter
    leave: nn.Parameter
    skip: nn.Parameter
    place: nn.Parameter  # logit of a recent item by its place
    kind: nn.Parameter  # and by its type
    age: nn.Parameter  # and by its age

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        encoder = Encoder(schema)
        self.tables = {name: EmbeddingTable(config.n_embedding) for name in TABLES}
        is_count = [name.startswith(("count:", "split:", "follows")) for name in encoder.dense_names]
        n_others = config.n_embedding + N_DOTS
        self._scale_F = np.where(is_count, COUNT_SCALE, 1.0).astype(np.float32)
        self._scale_I1 = torch.where(torch.tensor([*is_count, *[False] * n_others]), COUNT_SCALE, 1.0)[:, None]
        self._n_types = len(schema.event_types)
        spreads = []
        for name, (shape, spread) in self._shapes(len(encoder.dense_names), len(encoder.user_names)).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            spreads.append(spread)
        self._flatten(spreads, torch.Generator().manual_seed(config.seed))

    def forward(self, inputs: Inputs, embedded: Embedded) -> Tensor:
        """Score slates.

        Returns:
            Logits [B, K]; 0 where `inputs.mask` is False.
        """
        candidate_BKD, recent_BRD, context_BD = embedded.candidate, embedded.recent, embedded.context
        pooled_BD, last_BD, bias_BR = self._pool(inputs, recent_BRD)
        person = (pooled_BD, last_BD, context_BD, embedded.user, torch.from_numpy(inputs.user_dense))
        person_BP = torch.cat(person, dim=1)
        queries_BDJ = torch.stack((pooled_BD, last_BD, context_BD, person_BP @ self.query), dim=2)
        nearest_BK = _nearest(embedded.item, recent_BRD, bias_BR, inputs)
        dots = (candidate_BKD @ queries_BDJ, nearest_BK[..., None])
        seen_BKI = torch.cat((torch.from_numpy(inputs.dense), candidate_BKD, *dots), dim=2)
        seen_BKI = seen_BKI * (1.0 + person_BP @ self.gate)[:, None]
        n_requests, n_candidates, n_seen = seen_BKI.shape
        # The counts' scale goes to the weights, which are few; sums and ReLUs happen in place.
        hidden_BKH = seen_BKI @ (self.enter * self._scale_I1)
        hidden_BKH.add_((person_BP @ self.person + self.enter_bias)[:, None]).relu_()
        hidden_NH = (hidden_BKH.view(-1, self.config.n_hidden) @ self.middle).add_(self.middle_bias).relu_()
        skipped_N = torch.mv(seen_BKI.view(-1, n_seen), (self.skip * self._scale_I1).squeeze(1))
        scores_BK = torch.addmv(skipped_N, hidden_NH, self.leave.squeeze(1)).view(n_requests, n_candidates)
        return scores_BK if inputs.mask.all() else scores_BK.masked_fill(~torch.from_numpy(inputs.mask), 0.0)

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

    def look_up(self, inputs: Inputs) -> dict[str, NDArray[np.int64]]:
        """Rows by input field; unknown and absent keys have the fallback row."""
        tables = {field: self.tables[name] for name, fields in TABLES.items() for field in fields}
        return {field: table.lookup(getattr(inputs, field)) for field, table in tables.items()}

    def score(self, inputs: Inputs) -> NDArray[np.float32]:
        """Scores [B, K] as they are now; changes nothing. What `forward` gives, at a quarter of the price of a lone
        request: all but the two products of matrices is compiled.
        """
        item, attribute, context = (self.tables[name].arrays for name in TABLES)
        n_requests, n_candidates, n_dense = inputs.dense.shape
        n_embedding, n_hidden = self.config.n_embedding, self.config.n_hidden
        recent_BRD = np.empty((*inputs.recent_key.shape, n_embedding), dtype=np.float32)
        logit_BR = np.empty(inputs.recent_key.shape, dtype=np.float32)
        query_BJD = np.empty((n_requests, N_DOTS - 1, n_embedding), dtype=np.float32)
        offset_BH = np.empty((n_requests, n_hidden), dtype=np.float32)
        gate_BI = np.empty((n_requests, n_dense + n_embedding + N_DOTS), dtype=np.float32)
        seen_BKI = np.empty((n_requests, n_candidates, n_dense + n_embedding + N_DOTS), dtype=np.float32)
        scores = np.empty((n_requests, n_candidates), dtype=np.float32)
        w = self._arrays
        kernels.people(
            item,
            context,
            (w["place"], w["kind"], w["age"], w["query"], w["person"], w["enter_bias"], w["gate"]),
            inputs.user_dense,
            inputs.recent_key,
            inputs.recent_type,
            inputs.recent_age,
            inputs.context_key,
            inputs.user_key,
            recent_BRD,
            logit_BR,
            query_BJD,
            offset_BH,
            gate_BI,
        )
        kernels.see(
            item,
            attribute,
            self._scale_F,
            inputs.mask,
            inputs.dense,
            inputs.item_key,
            inputs.attribute_key,
            inputs.recent_key,
            recent_BRD,
            logit_BR,
            query_BJD,
            gate_BI,
            seen_BKI,
        )
        hidden_BKH = seen_BKI @ w["enter"]
        kernels.enter(hidden_BKH, offset_BH)
        hidden_BKH = hidden_BKH @ w["middle"]
        kernels.leave(inputs.mask, hidden_BKH, w["middle_bias"], w["leave"], seen_BKI, w["skip"], scores)
        return scores

    def grow(self, inputs: Inputs, is_positive_BK: NDArray[np.bool_]) -> None:
        """Make rows for every key of these inputs but for candidates that are not positive: those may not exist."""
        self.tables["item"].lookup(inputs.item_key[is_positive_BK], grow=True)
        for table, fields in TABLES.items():
            for field in fields:
                if field != "item_key":
                    self.tables[table].lookup(np.unique(getattr(inputs, field)), grow=True)

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
            "place": ((N_RECENT,), 0.0),
            "kind": ((self._n_types + 1,), 0.0),
            "age": ((1,), 0.0),
        }

    def _flatten(self, spreads: list[float], generator: torch.Generator) -> None:
        parameters = list(self.parameters())
        n = sum(parameter.numel() for parameter in parameters)
        self.flat, self.flat_gradient = torch.empty(n), torch.zeros(n)
        start = 0
        for parameter, spread in zip(parameters, spreads, strict=True):
            part = slice(start, start + parameter.numel())
            self.flat[part].uniform_(-1.0, 1.0, generator=generator).mul_(spread)
            parameter.data = self.flat[part].view(parameter.shape)
            parameter.grad = self.flat_gradient[part].view(parameter.shape)
            start += parameter.numel()
        # The same memory for the compiled loops.
        self._arrays = {name: parameter.data.numpy() for name, parameter in self.named_parameters()}


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
