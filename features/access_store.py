"""Where keys are kept: the protocol, and one in memory. In Redis: `features/redis_access.py`.

Beside the keys: what each door was asked for lately, so that all doors together hold a key's rate, and the newest
actions of those with power.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from features.access import Action, ApiKey

N_ACTIONS: Final = 10_000
DEMAND_MS: Final = 3000  # a door that has not told for so long has no demand


class Demand(msgspec.Struct, frozen=True):
    """What a door was asked for in the last second."""

    told_ms: int
    """Wall time."""
    per_s: dict[str, float]
    """By name of the key."""


class AccessStore(Protocol):
    """Keys, by id. Every method raises `StoreUnavailable` if the store does not answer."""

    async def put_key(self, key: ApiKey) -> None:
        """Keep a key, in the place of one with the same id."""
        ...

    async def drop_key(self, key_id: str) -> bool:
        """Forget a key; False if there is none."""
        ...

    async def api_keys(self) -> dict[str, ApiKey]:
        """All keys, by id."""
        ...

    async def tell_demand(self, door: str, demand: Demand) -> dict[str, Demand]:
        """Say what a door was asked for; returns what all doors have said lately, this one too."""
        ...

    async def note_action(self, action: Action) -> None:
        """Keep an action; of the oldest ones those go that are beyond `N_ACTIONS`."""
        ...

    async def actions(self, count: int) -> list[Action]:
        """The newest actions, newest first."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


def fresh(demands: Mapping[str, Demand], now_ms: int) -> dict[str, Demand]:
    """Those that were told lately."""
    return {door: demand for door, demand in demands.items() if demand.told_ms > now_ms - DEMAND_MS}


class MemoryAccessStore:
    """An `AccessStore` that lives as long as it is held."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}
        self._demands: dict[str, Demand] = {}
        self._actions: deque[Action] = deque(maxlen=N_ACTIONS)

    async def put_key(self, key: ApiKey) -> None:
        """Keep a key."""
        self._keys[key.id] = key

    async def drop_key(self, key_id: str) -> bool:
        """Forget a key; False if there is none."""
        return self._keys.pop(key_id, None) is not None

    async def api_keys(self) -> dict[str, ApiKey]:
        """All keys, by id."""
        return dict(self._keys)

    async def tell_demand(self, door: str, demand: Demand) -> dict[str, Demand]:
        """Say what a door was asked for; returns what all doors have said lately."""
        self._demands[door] = demand
        self._demands = fresh(self._demands, demand.told_ms)
        return dict(self._demands)

    async def note_action(self, action: Action) -> None:
        """Keep an action."""
        self._actions.appendleft(action)

    async def actions(self, count: int) -> list[Action]:
        """The newest actions, newest first."""
        return list(self._actions)[:count]

    async def close(self) -> None:
        """Nothing to release."""
