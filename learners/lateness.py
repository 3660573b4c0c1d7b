"""What share of all rewards comes after its impression was counted.

Known only afterwards: a reward in time is counted with its impression, a late one when it comes; both are forgotten
exponentially over the newest impressions, so that in a stream which goes on as it is their ratio is that share.
"""

import math
from typing import Final

MEMORY: Final = 100_000.0  # impressions: of these, a percent makes a thousand rewards
AT_MOST: Final = 0.9  # while there are only few


class Lateness:
    """`add` what was learned from; the whole state is `state`."""

    def __init__(self) -> None:
        self.state = [0.0, 0.0]
        """Rewards in time, and late ones."""

    @property
    def share(self) -> float:
        """Share of the late ones."""
        in_time, late = self.state
        return min(late / (in_time + late), AT_MOST) if late > 0.0 else 0.0

    @property
    def log_odds_shift(self) -> float:
        """What is added to the logit of a reward to get that of one in time; exact where rewards are rare."""
        return math.log(1.0 - self.share)

    def add(self, n_impressions: int, in_time: float, late: float) -> None:
        """Take in rewards, and the impressions that were counted beside them."""
        kept = (1.0 - 1.0 / MEMORY) ** n_impressions
        self.state = [kept * self.state[0] + in_time, kept * self.state[1] + late]
