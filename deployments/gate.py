"""Who is let in at a door: a key, its scope, its rate.

    authorization: Bearer headrace_… ─► known? ─► its secret? ─► still valid? ─► its scope? ─► its rate? ─► `Caller`

Keys are in the store, and every door reads them once a second: one that is taken away opens nothing a second later. For
a key that is not known the door looks again before it refuses, so a new one opens everywhere from the moment it is
kept; all who wait share one look, five times a second at most. While the store is away those hold that were read last,
and of any other key a door does not know whether it opens (503).

`OpenGate` is for one machine alone: it lets everybody do everything.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from deployments.errors import ConfigError, ForbiddenError, RateError, UnauthorizedError, UnavailableError
from deployments.rate_limit import KeyRates
from features.access import ApiKey, id_of
from features.access_store import AccessStore, Demand
from features.errors import FeatureError

PUBLIC: Final = ""
"""The scope of what nobody needs a key for."""
KNOWN: Final = "known"
"""The scope of what any key may do."""
LOOK_S: Final = 1.0
LOOK_AGAIN_S: Final = 0.2  # between two looks for keys that are not known; who asks for one waits as long
AUTHORIZATION: Final = b"authorization"
BEARER: Final = b"bearer "
MAX_BODY_BYTES: Final = 1 << 20
DEFAULT_WHO: Final = "operator"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessConfig:
    """Who is let in, and with how much."""

    keys: Literal["auto", "on", "off"] = "auto"
    """Whether one needs a key. `auto`: unless all addresses are this machine's own; `off`: only there."""
    max_body_bytes: int = MAX_BODY_BYTES
    """Of a request, after decompression."""
    body_s: float = 10.0
    """Until a body must be there."""

    def __post_init__(self) -> None:
        if self.keys not in ("auto", "on", "off"):
            raise ConfigError(f"access.keys: expected auto, on or off, got {self.keys!r}")
        if not 1024 <= self.max_body_bytes <= 1 << 28:
            raise ConfigError(f"access.max_body_bytes: expected 1024 to {1 << 28}, got {self.max_body_bytes}")
        if not 0.1 <= self.body_s <= 3600:
            raise ConfigError(f"access.body_s: expected 0.1 to 3600 seconds, got {self.body_s}")

    def at(self, *, is_loopback: bool) -> "AccessConfig":
        """The same, decided whether one needs a key at doors like these.

        Raises:
            ConfigError: If nobody should need one, and anybody can reach them.
        """
        if self.keys == "off" and not is_loopback:
            raise ConfigError("access.keys: off is for addresses of this machine alone; others can reach this one")
        is_on = self.keys == "on" or not (self.keys == "off" or is_loopback)
        return replace(self, keys="on" if is_on else "off")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever was let in."""

    key: ApiKey | None
    """None: nobody needs one."""
    charge: Callable[[float], None]
    """Takes more of the key's rate than the one unit that a request costs."""

    def named(self, said: str) -> str:
        """Who it is, for the record: the key's name, which is proven, and what was said, which is not."""
        if self.key is None:
            return said
        return self.key.name if said in ("", DEFAULT_WHO) else f"{self.key.name} ({said})"

    @property
    def own_source(self) -> str | None:
        """Of whom events are that name no source."""
        return None if self.key is None else self.key.own_source

    def speaks_for(self, source: str) -> bool:
        """Whether it may send events of a source."""
        return self.key is None or self.key.speaks_for(source)


def _free_of_charge(_n: float) -> None:
    """Nothing is counted."""


ANYBODY: Final = Caller(None, _free_of_charge)


class Gate(Protocol):
    """Lets in, or raises."""

    async def admit(self, headers: Mapping[bytes, bytes], scope: str) -> Caller:
        """Let in whoever may do what needs a scope.

        Raises:
            UnauthorizedError: Without a key, or with one that opens nothing.
            ForbiddenError: With one that does not open this.
            RateError: If its rate is used up.
            UnavailableError: If no keys could be read yet.
        """
        ...


class OpenGate:
    """Lets everybody in."""

    async def admit(self, headers: Mapping[bytes, bytes], scope: str) -> Caller:
        """Let in."""
        return ANYBODY


class KeyGate:
    """Lets in by key. Run `run` as a task.

    Args:
        door: Unique name of this door.
        now_ms: Wall time.
        now_s: Monotonic time.
        pause: Waits so many seconds.
    """

    def __init__(
        self,
        store: AccessStore,
        door: str,
        now_ms: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._door = door
        self._now_ms = now_ms
        self._now_s = now_s
        self._pause = pause
        self._keys: dict[str, ApiKey] = {}
        self._looked_s = -LOOK_AGAIN_S
        self._n_looks = 0
        self._known = 0
        """The look that the keys are from; the first is 1."""
        self._looking = asyncio.Lock()
        self._rates = KeyRates()
        self.refused: Counter[str] = Counter()
        """How often who was refused, by what is told in the answer."""

    async def admit(self, headers: Mapping[bytes, bytes], scope: str) -> Caller:
        """Let in whoever may do what needs a scope."""
        if scope == PUBLIC:
            return ANYBODY
        try:
            key = await self._find(_token(headers))
            if scope != KNOWN and not key.may(scope):
                raise ForbiddenError(f"key {key.name!r} may {', '.join(key.scopes)}; this needs {scope}")
            if not key.per_s:
                return Caller(key, _free_of_charge)
            wait_s = self._rates.take(key.name, key.per_s, 1.0, self._now_s())
            if wait_s:
                raise RateError(f"key {key.name!r} may ask for {key.per_s:g} a second", wait_s)
        except (UnauthorizedError, ForbiddenError, RateError) as error:
            self.refused[error.code] += 1
            raise
        return Caller(key, lambda n: self._rates.add(key.name, n))

    async def _find(self, token: str) -> ApiKey:
        key_id = id_of(token)
        if key_id is None:
            raise UnauthorizedError("expected `authorization: Bearer headrace_…`; make a key with: headrace keys add")
        if key_id not in self._keys:
            await self._look_again()
        key = self._keys.get(key_id)
        if key is None or not key.opens(token):
            raise UnauthorizedError("no such key")
        if key.is_over(self._now_ms()):
            raise UnauthorizedError(f"key {key.name!r}: its time is over")
        return key

    async def _look_again(self) -> None:
        """See that somebody looks after this was asked for.

        Raises:
            UnavailableError: If they could not.
        """
        n_before = self._n_looks
        async with self._looking:
            if self._n_looks == n_before:
                await self._pause(max(0.0, self._looked_s + LOOK_AGAIN_S - self._now_s()))
                try:
                    await self._read()
                except FeatureError as error:
                    logger.warning("keys are not read: %s", error)
            if self._known <= n_before:
                raise UnavailableError("keys could not be read; try again")

    async def _read(self) -> None:
        """Read the keys; one at a time does, or an older answer could come after a younger one."""
        self._looked_s = self._now_s()
        self._n_looks += 1
        self._keys = await self._store.api_keys()
        self._known = self._n_looks

    async def look(self) -> None:
        """Read the keys, and share their rates with the other doors.

        Raises:
            FeatureError: If the store does not answer.
        """
        async with self._looking:
            await self._read()
        rates = {key.name: key.per_s for key in self._keys.values() if key.per_s}
        mine = self._rates.demand(rates, self._now_s())
        told = await self._store.tell_demand(self._door, Demand(self._now_ms(), mine))
        self._rates.share_out(mine, [demand.per_s for demand in told.values()], rates)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except FeatureError as error:
                logger.warning("keys are as they were: %s", error)
            except Exception:  # a supervisor: else a key that is taken away would open for ever
                logger.exception("keys are as they were")
            await asyncio.sleep(LOOK_S)


def _token(headers: Mapping[bytes, bytes]) -> str:
    said = headers.get(AUTHORIZATION, b"").strip()
    if said[: len(BEARER)].lower() != BEARER:
        return ""
    return said[len(BEARER) :].strip().decode("latin-1")
