"""A replica's copy of the model: takes versions in small slices, scores without gradients.

`apply` is a generator, so that the replica can answer requests between two slices. While it runs the scorer is neither
the old version nor the new one and must not be asked; a replica keeps two scorers and swaps them.

The network is built from what the first full snapshot says of itself.
"""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from features.encoding import Inputs
from features.schema import Schema
from learners import snapshots
from learners.errors import ForeignSnapshot, StaleSnapshot
from learners.model import ModelConfig, RankingModel
from learners.snapshots import Delta, Rows


class Scorer:
    """`apply` versions, then `score`. Version 0 has learned nothing and gives every candidate the same score."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._model = RankingModel(schema, ModelConfig())
        self.version = 0

    def score(self, inputs: Inputs) -> NDArray[np.float32]:
        """Scores [B, K]; padded candidates have 0."""
        return self._model.score(inputs)

    def apply(self, delta: Delta) -> Iterator[None]:
        """Take a full snapshot, or a delta on this very version; exhaust the iterator before scoring again.

        Yields:
            Between slices of at most half a millisecond.
        Raises:
            StaleSnapshot: If the delta stands on another version; nothing has changed.
            ForeignSnapshot: If it is of another schema or network; nothing has changed.
        """
        self._check(delta)
        if delta.base is None and delta.model != asdict(self._model.config):
            self._model = RankingModel(self._schema, ModelConfig(**delta.model))
        # Until the last slice it is no version at all: a delta on either side of it is refused.
        self.version = -1
        self._model.flat.copy_(torch.from_numpy(delta.weights.copy()))
        yield
        for name, part in delta.tables.items():
            yield from self._apply_rows(name, part, is_full=delta.base is None)
        self.version = delta.version

    def _apply_rows(self, name: str, part: Rows, is_full: bool) -> Iterator[None]:
        table = self._model.tables[name]
        if is_full:
            table.clear(len(part.rows) + len(part.rows) // 4 + 1, part.max_rows)
        yield from table.load_slices(part.rows, part.keys, part.values)

    def _check(self, delta: Delta) -> None:
        snapshots.check_schema(delta, self._schema)
        if delta.base is not None and delta.base != self.version:
            raise StaleSnapshot(f"version {delta.version} stands on {delta.base}, this replica has {self.version}")
        n_expected = len(self._model.flat)
        if delta.base is not None and len(delta.weights) != n_expected:
            raise ForeignSnapshot(f"version {delta.version}: {len(delta.weights)} weights, expected {n_expected}")
