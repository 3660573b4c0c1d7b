"""How many different items many draws meet, when few items get most of the interest.

The item of rank r is drawn in proportion to 1 / r^exponent. Ranks are kept in bins, narrow where shares change fast, so
a hundred million items cost as little as a thousand. Everything is an expectation; draws are independent.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
N_EXACT: Final = 1000  # leading ranks with a bin of their own
N_BINS: Final = 400  # for the others, each wider than the one before by the same factor


class Popularity:
    """Shares of interest over items by rank.

    Args:
        exponent: 0 for equal interest; about 1 on most real streams.
    """

    def __init__(self, n_items: float, exponent: float) -> None:
        self.n_items = n_items
        ranks = np.arange(1.0, min(n_items, N_EXACT) + 1.0)
        self.counts: F64 = np.ones(len(ranks))
        """Items of each bin."""
        if n_items > N_EXACT:
            edges = np.geomspace(ranks[-1] + 0.5, n_items + 0.5, N_BINS + 1)
            ranks = np.append(ranks, np.sqrt(edges[1:] * edges[:-1]))
            self.counts = np.append(self.counts, np.diff(edges))
        weights = ranks**-exponent
        self.shares: F64 = weights / (self.counts @ weights)
        """Of one item of each bin; over all items they add up to 1."""

    def distinct(self, n_draws: float) -> float:
        """Different items among so many draws: sum of 1 - exp(-n_draws share)."""
        return float(self.counts @ -np.expm1(-n_draws * self.shares))

    def draws_until(self, n_distinct: float) -> float:
        """Draws that meet so many different items; infinite if there are not as many."""
        if n_distinct >= self.n_items:
            return float("inf")
        low, high = n_distinct, 2.0 * n_distinct
        while self.distinct(high) < n_distinct:
            low, high = high, 2.0 * high
        for _ in range(50):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.distinct(middle) < n_distinct else (low, middle)
        return high

    def rereads_per_s(self, asked_per_s: float, written_each_s: F64 | float) -> float:
        """Items that are asked for, for the first time since they were written, per second.

        An item that is asked for at a rate a and written at a rate w alternates between the two a w / (a + w) times a
        second, when both come by chance.

        Args:
            asked_per_s: Draws.
            written_each_s: How often one item of each bin is written.
        """
        a: F64 = asked_per_s * self.shares
        both: Any = a + written_each_s
        return float(self.counts @ np.divide(a * written_each_s, both, out=np.zeros_like(a), where=both > 0))
