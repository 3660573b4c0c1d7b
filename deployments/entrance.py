"""What stands at the doors of a replica: who is let in and with how much, and the record of what is done with power."""

import os
from collections.abc import Callable
from typing import Final

from deployments.audit import Audit
from deployments.gate import AccessConfig, Gate, KeyGate, OpenGate
from deployments.http import App
from deployments.metrics import Tagged
from features.access_store import AccessStore
from features.clock import WallClock

WALL: Final = WallClock()


class Entrance:
    """One replica's. Run `run` as a task.

    Args:
        config: `keys` is `on` or `off` here.
        name: Of the replica, unique in the cluster.
        now_ms: Wall time, by which keys end.
    """

    def __init__(
        self, config: AccessConfig, store: AccessStore, name: str = "", now_ms: Callable[[], int] = WALL.now_ms
    ) -> None:
        self._config = config
        self._keys = KeyGate(store, name, now_ms) if config.keys == "on" else None
        self.audit = Audit(store, now_ms)

    @property
    def gate(self) -> Gate:
        """Lets in."""
        return self._keys or OpenGate()

    def app(self) -> App:
        """An application without routes."""
        return App(self.gate, max_body_bytes=self._config.max_body_bytes, body_s=self._config.body_s)

    async def run(self) -> None:
        """Know keys, for ever; without any, nothing."""
        if self._keys is not None:
            await self._keys.run()

    def values(self) -> dict[Tagged, float]:
        """Metrics: how often who was refused."""
        refused = {} if self._keys is None else self._keys.refused
        return {("headrace_access_refused_total", (("why", why),)): count for why, count in refused.items()}


def name_of_this_process() -> str:
    """A name that no other replica of a cluster has at the same time."""
    return f"{os.uname().nodename}:{os.getpid()}"
