"""A copy of the model that only scores: becomes one edition after the other, each between two scorings.

    begin(head), add(part), …   prepared beside what answers      in slices: requests are answered in between
    flip()                      scores are those of the new one
    settle() or revert()        the old one is let go of, or back

The network is built from what the first edition says of itself. `max_spare_bytes` bounds what new rows take beside
those that answer; see `ServingTable`. Whoever has to be able to `revert` in any case sets no bound.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from features.encoding import Inputs
from features.schema import Schema
from learners.editions import F32, Head, Part, Place
from learners.errors import ForeignSnapshot, StaleSnapshot
from learners.model import TABLES, ModelConfig, RankingModel
from learners.serving_table import ServingTable

MAX_SPARE_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class _Network:
    """One shape of network, and its embeddings."""

    model: RankingModel
    tables: dict[str, ServingTable]
    max_rows: dict[str, int]

    @property
    def weights(self) -> F32:
        """All dense parameters and statistics, flat, by the same memory."""
        flat: F32 = self.model.flat.numpy()
        return flat


class Scorer:
    """`apply` editions, then `score`. Version 0 has learned nothing and gives every candidate the same score."""

    def __init__(self, schema: Schema, max_spare_bytes: int | None = MAX_SPARE_BYTES) -> None:
        self._schema = schema
        self._max_spare_bytes = max_spare_bytes
        self._live = self._coming = self._built(ModelConfig(), dict.fromkeys(TABLES, 1))
        self._head: Head | None = None
        self._before: tuple[int, Place, _Network, F32] | None = None
        self.version = 0
        self.place = Place()

    @property
    def tables(self) -> dict[str, ServingTable]:
        """The embeddings, by name."""
        return self._live.tables

    def weights_of(self, name: str) -> F32:
        """A dense parameter as it is now."""
        return self._live.model.arrays_of(name)[0]

    def score(self, inputs: Inputs) -> F32:
        """Scores [B, K]; padded candidates have 0."""
        return self._live.model.score(inputs)

    def apply(self, head: Head, parts: Iterable[Part]) -> Iterator[None]:
        """All of it, for who is asked nothing meanwhile; a part is taken when the ones before are prepared.

        Raises:
            StaleSnapshot, ForeignSnapshot: As `begin`.
        """
        self.begin(head)
        for part in parts:
            yield from self.add(part)
        self.flip()
        yield from self.settle()

    def begin(self, head: Head) -> None:
        """Start to become an edition; one that was begun before is dropped.

        Raises:
            StaleSnapshot: If it stands on another one than this scorer is at; nothing has changed.
            ForeignSnapshot: If it is of another schema or network; nothing has changed.
        """
        self._check(head)
        for table in self._live.tables.values():
            table.drop_change()
        self._head, self._coming = head, self._live
        if head.base is None and (head.model, head.max_rows) != (asdict(self._live.model.config), self._live.max_rows):
            self._coming = self._built(ModelConfig(**head.model), head.max_rows)
        for name, table in self._coming.tables.items():
            table.begin(head.fallbacks[name], head.gone[name], is_whole=head.base is None)

    def add(self, part: Part) -> Iterator[None]:
        """Prepare rows, a slice before each yield."""
        yield from self._coming.tables[part.table].prepare(part)

    def flip(self) -> None:
        """Score with the edition that was prepared, from now on."""
        assert self._head is not None
        self._before = self.version, self.place, self._live, self._live.weights.copy()
        self._live = self._coming
        self._live.weights[:] = self._head.weights
        for table in self._live.tables.values():
            table.flip()
        self.version, self.place, self._head = self._head.version, self._head.place, None

    def settle(self) -> Iterator[None]:
        """Let go of what was before, a slice before each yield."""
        self._before = None
        for table in self._live.tables.values():
            yield from table.settle()

    def revert(self) -> None:
        """Instead of `settle`: as before the flip.

        Raises:
            RuntimeError: If rows were overwritten; see `ServingTable`.
        """
        assert self._before is not None
        for table in self._live.tables.values():
            table.revert()
        self.version, self.place, self._live, weights = self._before
        self._live.weights[:] = weights
        self._before = None

    def _built(self, config: ModelConfig, max_rows: dict[str, int]) -> _Network:
        spare, width = self._max_spare_bytes, config.n_embedding
        tables = {
            name: ServingTable(width, max_rows[name], max_rows[name] if spare is None else spare // (4 * width))
            for name in TABLES
        }
        return _Network(RankingModel(self._schema, config, tables), tables, max_rows)

    def _check(self, head: Head) -> None:
        if head.fingerprint != self._schema.fingerprint:
            raise ForeignSnapshot(
                f"version {head.version}: made under schema {head.fingerprint:016x}, "
                f"expected {self._schema.fingerprint:016x}"
            )
        if head.base is not None and head.base != self.place:
            raise StaleSnapshot(f"edition {head.place} stands on {head.base}, this replica has {self.place}")
        n_expected = len(self._live.weights)
        if head.base is not None and len(head.weights) != n_expected:
            raise ForeignSnapshot(f"version {head.version}: {len(head.weights)} weights, expected {n_expected}")
