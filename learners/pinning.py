"""A version that replicas are kept at, durably: a hub that restarts goes on with it, a new replica begins with it."""

from typing import Final

import msgspec

from learners.packing import Packing
from learners.snapshots import Delta

PINNED: Final = "pinned"
"""Name of the file."""


class Pin(msgspec.Struct, array_like=True):
    """Who keeps replicas at which version, and why."""

    who: str
    why: str
    at_ms: int
    full: Delta
    """The version, whole, as far as it is public."""

    @property
    def described(self) -> dict[str, object]:
        """For people."""
        return {"version": self.full.version, "who": self.who, "why": self.why, "at_ms": self.at_ms}


pins = Packing(b"HRPINS\x00\x01", Pin)


def public(full: Delta) -> Delta:
    """The same without what only a learner needs."""
    tables = {name: msgspec.structs.replace(rows, upkeep=None) for name, rows in full.tables.items()}
    return msgspec.structs.replace(full, tables=tables, private=None)
