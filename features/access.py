"""Who may come in: API keys, what each may do, and the record of what was done with power.

    token = new_token()                     headrace_<id>_<secret>, shown once
    key = ApiKey(…, digest=digest_of(token)) this is kept
    key.opens(token)                        in constant time

A token is 256 random bits behind a public id, so one round of SHA-256 keeps it: there is nothing to guess, and a slow
hash would only make refusing dear. Nothing here knows a store, a clock or HTTP.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final

import msgspec

RANK, EVENTS, ADMIN = "rank", "events", "admin"
SCOPES: Final = (RANK, EVENTS, ADMIN)
ANY_SOURCE: Final = "*"
MAX_NAME: Final = 64
MAX_PER_S: Final = 1e9
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
TOKEN: Final = re.compile(r"headrace_([0-9a-f]{12})_([0-9a-f]{64})")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key, and what it may do."""

    id: str
    """Public; the part of the token that finds the key."""
    name: str
    """Of whoever holds it: several keys may have the same one, and share a rate and a name in the record."""
    digest: bytes
    """SHA-256 of the token."""
    scopes: tuple[str, ...]
    """Of `SCOPES`; `admin` includes the others."""
    per_s: float = 0.0
    """Rankings and events a second that all keys of this name may have together; 0: as many as they like."""
    sources: tuple[str, ...] = ()
    """Of whom it may send events; the first is the source of those that name none. `ANY_SOURCE`: anybody."""
    made_ms: int
    until_ms: int = 0
    """From when on it opens nothing; 0: it opens for ever."""

    def opens(self, token: str) -> bool:
        """Whether this is the token that the key was made for; takes as long whether it is or not."""
        return hmac.compare_digest(self.digest, digest_of(token))

    def may(self, scope: str) -> bool:
        """Whether it may do what needs a scope."""
        return scope in self.scopes or ADMIN in self.scopes

    def is_over(self, now_ms: int) -> bool:
        """Whether its time is over."""
        return 0 < self.until_ms <= now_ms

    def speaks_for(self, source: str) -> bool:
        """Whether it may send events of a source."""
        return source in self.sources or ANY_SOURCE in self.sources

    @property
    def own_source(self) -> str | None:
        """Of whom events are that name no source; None: of nobody."""
        return next((source for source in self.sources if source != ANY_SOURCE), None)


class Action(msgspec.Struct, frozen=True):
    """Something that was done, or tried, with power over the system."""

    at_ms: int
    """Wall time."""
    who: str
    """Name and id of the key, or who typed at a machine that reaches the store."""
    what: str
    """`rollback`, `resume`, `quarantine`, `release`, `erase`, `key …`, `deploy`, `promote`."""
    about: str = ""
    """The source or key that it concerned. Never a person."""
    before: int | None = None
    """The version that answered."""
    after: int | None = None
    """The one that was to answer from then on."""
    reason: str = ""
    failed: str = ""
    """Why it was not done; empty: it was, or is under way."""


def new_token() -> str:
    """A token that nobody can guess; whoever has it is let in."""
    return f"headrace_{secrets.token_hex(6)}_{secrets.token_hex(32)}"


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def id_of(token: str) -> str | None:
    """The public part of a token; None if it is none."""
    found = TOKEN.fullmatch(token)
    return found[1] if found else None


def new_key(
    token: str,
    name: str,
    scopes: tuple[str, ...],
    *,
    made_ms: int,
    until_ms: int = 0,
    per_s: float = 0.0,
    sources: tuple[str, ...] = (),
) -> ApiKey:
    """What is to be kept of a token, checked.

    Args:
        sources: Of whom it sends events; none said: of whoever it is named after.
    Raises:
        ValueError: Naming what is wrong.
    """
    key_id = id_of(token)
    if key_id is None:
        raise ValueError("token: expected one made by new_token")
    if len(name) > MAX_NAME or NAME.fullmatch(name) is None:
        raise ValueError(f"name: expected 1 to {MAX_NAME} of A-Z a-z 0-9 . _ @ -, got {name!r}")
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise ValueError(f"scopes: expected some of {', '.join(SCOPES)}, got {', '.join(scopes) or 'none'}")
    if not 0 <= per_s <= MAX_PER_S:
        raise ValueError(f"per_s: expected 0 (no limit) to {MAX_PER_S:g}, got {per_s}")
    if not sources and (EVENTS in scopes or ADMIN in scopes):
        sources = (ANY_SOURCE,) if ADMIN in scopes else (name,)
    return ApiKey(
        id=key_id,
        name=name,
        digest=digest_of(token),
        scopes=scopes,
        per_s=per_s,
        sources=sources,
        made_ms=made_ms,
        until_ms=until_ms,
    )
