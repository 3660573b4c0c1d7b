"""How many distinct things there are, about, from the smallest of their hashes.

Source: Bar-Yossef et al., RANDOM 2002, first algorithm (k minimum values); the relative error is about 1 / sqrt(k - 2).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

K: Final = 1024  # an error of 3 %


class Distinct:
    """`add` hashes, or what another one has; then `count`."""

    def __init__(self, packed: bytes = b"") -> None:
        self._least: NDArray[np.uint64] = np.frombuffer(packed, np.uint64)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take in hashes, uniform over 64 bits; repeated ones count once."""
        self._least = np.unique(np.concatenate((self._least, hashes)))[:K]

    def merge(self, packed: bytes) -> None:
        """Take in what another one has seen."""
        self.add(np.frombuffer(packed, np.uint64))

    def count(self) -> int:
        """How many there are, about; exactly if there are few."""
        if len(self._least) < K:
            return len(self._least)
        return round((K - 1) * 2.0**64 / float(self._least[-1]))

    def pack(self) -> Any:
        """What there is to merge."""
        return self._least.tobytes()
