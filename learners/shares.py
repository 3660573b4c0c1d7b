"""What a learner hands out at the end of a round; see `learners.rounds`.

Plain arrays: who passes them on needs no torch.

Legend: W flat parameters, T trained ones, N rows, D embedding, M keys.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TableShare:
    """What a round did to an embedding table."""

    rows: I64  # [N] trained, each once
    change: F32  # [N, D]
    squares: F32  # [N] growth of the accumulators
    met: U64  # [M] keys, ascending
    owners: U64  # [M] who alone met each; none where nobody says


@dataclass(frozen=True, slots=True)
class Share:
    """What one learner made of a round."""

    seat: int
    positions: dict[int, tuple[int, int]]
    """Where the round ends; the same for all."""
    change: F32  # [W] of the trained parameters and the statistics
    path: F32  # [W] how far they were from where they began, as the mean over the steps
    mean: F32  # [T] of the optimizer
    square: F32  # [T]
    n_steps: int
    weight: float
    """The steps that these are, were all batches full."""
    n_examples: int
    n_skipped: int
    n_drawn: int
    mean_since: int
    """Step with which the mean that serves began; that of the first learner counts."""
    lateness: list[float]
    lift: float
    """These as the first learner knows them."""
    sampled: list[float]
    """What the sampler has met."""
    tables: dict[str, TableShare]
