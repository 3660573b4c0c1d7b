"""How much of its rate each key has left, at one door of several.

    take ─► a bucket per name: fills at rate x share, one second deep ─► admitted, or when to come again
    once a second: demand ─► what all doors were asked for ─► shares

While doors are asked for less than the rate together, each may give all of it; beyond that each gives what it is asked
for, up to a level that is the same for all, at which the rate is used up. So the rate holds for all doors together
without a question on the way of a request. The price: whoever begins to flood all doors at once has, for a second or
two, the rate at each of them.

Pure: told the time, knows no store.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

DEPTH_S: Final = 1.0
HOLD_S: Final = 0.25  # at least; in less HAProxy would let a few in for each that is admitted, see `haproxy.py`


@dataclass(slots=True)
class _Bucket:
    left: float
    filled_s: float
    share: float = 1.0
    asked: float = 0.0
    is_short: bool = False
    """Whether anything was refused since the last demand was told."""


class KeyRates:
    """The buckets of one door."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._told_s: float | None = None

    def take(self, name: str, per_s: float, n: float, now_s: float) -> float:
        """Take so much, if anything is left; a large request may leave a debt that later ones wait for.

        Returns:
            0 if it is taken, else seconds until something will be left.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(per_s * DEPTH_S, now_s)
        bucket.asked += n
        fill_per_s = per_s * bucket.share
        depth = max(1.0, fill_per_s * DEPTH_S)
        bucket.left = min(depth, bucket.left + fill_per_s * (now_s - bucket.filled_s))
        bucket.filled_s = now_s
        if bucket.left <= 0.0:
            bucket.is_short = True
            return max(HOLD_S, -bucket.left / fill_per_s)
        bucket.left -= n
        return 0.0

    def add(self, name: str, n: float) -> None:
        """Charge more for what was admitted, once it is known how much it asks for."""
        bucket = self._buckets.get(name)
        if bucket is not None:
            bucket.asked += n
            bucket.left -= n

    def demand(self, rates: Mapping[str, float], now_s: float) -> dict[str, float]:
        """What each name asked for since the last time, per second; forgets those without a rate.

        HAProxy holds back whom a door has refused: then as much as the rate at least was asked for.
        """
        passed_s = 1.0 if self._told_s is None else max(1e-3, now_s - self._told_s)
        self._told_s = now_s
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in rates}
        demands = {}
        for name, bucket in self._buckets.items():
            asked = bucket.asked / passed_s
            demands[name] = max(asked, rates[name]) if bucket.is_short else asked
            bucket.asked, bucket.is_short = 0.0, False
        return {name: asked for name, asked in demands.items() if asked}

    def share_out(
        self, mine: Mapping[str, float], all_doors: Iterable[Mapping[str, float]], rates: Mapping[str, float]
    ) -> None:
        """Set shares by what all doors were asked for, this one among them."""
        doors = list(all_doors)
        for name, bucket in self._buckets.items():
            rate = rates.get(name, 0.0)  # of a key that is newer than these rates it is not known yet
            asked = [door.get(name, 0.0) for door in doors]
            if not rate or sum(asked) <= rate:
                bucket.share = 1.0
            else:  # whoever was not asked may be next
                bucket.share = min(mine.get(name, 0.0), _level(asked, rate)) / rate or 1.0 / len(doors)


def _level(asked: Iterable[float], rate: float) -> float:
    """Up to where everybody is given what they ask for, if they ask for more than the rate together."""
    waiting, left = sorted(asked), rate
    for n_before, least in enumerate(waiting):
        level = left / (len(waiting) - n_before)
        if least >= level:
            return level
        left -= least
    return rate
