"""Keys, changed by whoever reaches the store: made, put in each other's place, taken away; and the record of it.

    token = make("web", ("rank", "events"))     shown once; kept is what tells it from others
    token = rotate("web", keep_s=3600)          both open for an hour
    revoke("web")

A store knows no users of ours: whoever reaches it may do this, so it is guarded by its own accounts.
"""

from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from deployments.errors import ConfigError
from features.access import Action, ApiKey, new_key, new_token
from features.access_store import AccessStore


class KeyRing:
    """The keys of a store; or an `async with` block, which closes it.

    Args:
        who: Who changes them, for the record.
        now_ms: Wall time.
    """

    def __init__(self, store: AccessStore, who: str, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._who = who
        self._now_ms = now_ms

    async def all(self) -> list[ApiKey]:
        """Every key, by name, the oldest first."""
        return sorted((await self._store.api_keys()).values(), key=lambda key: (key.name, key.made_ms))

    async def make(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        lasts_s: float = 0.0,
        per_s: float = 0.0,
        sources: Sequence[str] = (),
    ) -> str:
        """Make a key; returns its token, which is kept nowhere.

        Args:
            lasts_s: From now; 0: for ever.
        Raises:
            ConfigError: Naming what is wrong.
        """
        token, now_ms = new_token(), self._now_ms()
        until_ms = now_ms + round(lasts_s * 1000) if lasts_s else 0
        try:
            key = new_key(
                token,
                name,
                tuple(scopes),
                made_ms=now_ms,
                until_ms=until_ms,
                per_s=per_s,
                sources=tuple(sources),
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        await self._note("key added", key)
        await self._store.put_key(key)
        return token

    async def rotate(self, name: str, *, keep_s: float) -> str:
        """Make a key with the rights of the newest one of this name; what it had before opens for a while yet.

        Args:
            keep_s: How long.
        Raises:
            ConfigError: If there is none.
        """
        named = await self._named(name)
        token, now_ms, newest = new_token(), self._now_ms(), named[-1]
        key = new_key(
            token,
            newest.name,
            newest.scopes,
            made_ms=now_ms,
            per_s=newest.per_s,
            sources=newest.sources,
        )
        await self._note("key rotated", key)
        await self._store.put_key(key)
        ends_ms = now_ms + round(keep_s * 1000)
        for before in named:
            if not 0 < before.until_ms <= ends_ms:
                await self._store.put_key(msgspec.structs.replace(before, until_ms=ends_ms))
        return token

    async def revoke(self, name_or_id: str) -> list[ApiKey]:
        """Take away every key of a name, or one by its id; returns them.

        Raises:
            ConfigError: If there is none.
        """
        gone = [key for key in await self.all() if name_or_id in (key.id, key.name)]
        if not gone:
            raise ConfigError(f"no key has the name or id {name_or_id!r}")
        for key in gone:
            await self._note("key revoked", key)
            await self._store.drop_key(key.id)
        return gone

    async def _named(self, name: str) -> list[ApiKey]:
        named = [key for key in await self.all() if key.name == name and not key.is_over(self._now_ms())]
        if not named:
            raise ConfigError(f"no key that is valid has the name {name!r}")
        return named

    async def _note(self, what: str, key: ApiKey) -> None:
        await self._store.note_action(Action(self._now_ms(), self._who, what, f"{key.name} {key.id}"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()
