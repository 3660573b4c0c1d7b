"""What replicas get: editions of the model, as bytes.

An edition says how a replica's copy becomes another: dense weights whole, embedding rows as far as they differ. It
comes as a *head* and *parts*; a part holds some rows of one table, so that nobody needs room for all of them at once.
Rows go by key; in which place a learner or a replica keeps a row is its own affair.

Rows are bytes: a row is rounded to steps of its largest value / 127, a quarter of the size.

Editions are numbered one after the other, whatever version of the model they bring: one that is gone back to comes as
an edition like any other. Numbers of two hubs have nothing to do with each other (`origin`).

Legend: N rows, D embedding, M keys.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from learners.packing import Packing

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U64 = NDArray[np.uint64]
STEPS: Final = 127.0
PART_ROWS: Final = 65_536  # 3 MB with embeddings of 32


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where in the sequence of editions somebody is."""

    origin: str = ""
    """Who numbered them; empty: who has none."""
    number: int = 0


class Head(msgspec.Struct, array_like=True):
    """An edition but for its rows."""

    place: Place
    base: Place | None
    """What it changes; None: it is everything."""
    version: int
    fingerprint: int
    """Of the schema."""
    model: dict[str, int]
    """The network's configuration, for a replica to build it."""
    trained_through_ms: int
    max_rows: dict[str, int]
    """Rows with a key that there may be, by table."""
    weights: F32
    """All dense parameters and statistics, flat."""
    fallbacks: dict[str, F32]
    """[D] by table."""
    gone: dict[str, U64]
    """Keys without a row from now on, by table; but one that comes in a part has another row."""


class Part(msgspec.Struct, array_like=True):
    """Rows of a table."""

    table: str
    keys: U64  # [N]
    scales: F32  # [N]
    codes: I8  # [N, D]

    def values(self, rows: slice = slice(None)) -> F32:
        """Embeddings [N, D]."""
        return restored(self.scales[rows], self.codes[rows])


heads = Packing(b"HRHEAD\x00\x01", Head)
parts = Packing(b"HRPART\x00\x01", Part)


def rounded(values_ND: F32) -> tuple[F32, I8]:
    """Scales [N] and codes [N, D] of rows; of a row that is not finite all is zero."""
    scales_N = np.abs(values_ND).max(axis=1, initial=0.0) / np.float32(STEPS)
    scales_N[~np.isfinite(scales_N)] = 0.0
    divisor_N1 = np.where(scales_N > 0.0, scales_N, 1.0)[:, None]
    with np.errstate(invalid="ignore"):
        codes_ND = np.where(scales_N[:, None] > 0.0, np.rint(values_ND / divisor_N1), 0.0)
    return scales_N, codes_ND.astype(np.int8)


def restored(scales_N: F32, codes_ND: I8) -> F32:
    """The rows that scales and codes stand for."""
    return codes_ND * scales_N[:, None]


def cut(table: str, keys_N: U64, scales_N: F32, codes_ND: I8) -> Iterator[Part]:
    """Rows in parts."""
    for start in range(0, len(keys_N), PART_ROWS):
        some = slice(start, start + PART_ROWS)
        yield Part(table, keys_N[some], scales_N[some], codes_ND[some])
