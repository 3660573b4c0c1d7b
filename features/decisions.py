"""Decision ids: opaque to callers, but they carry whose they are.

An id holds the user's partition and 32 bits of the user's hash, so that feedback which names somebody else's decision
is refused without a look-up, and the decision's log partition is known from the id alone.
"""

import base64
import binascii
import os
import struct
from collections.abc import Iterator
from typing import Final

from features.errors import InvalidInput
from features.keys import Keys
from features.schema import hash64

_LAYOUT: Final = struct.Struct(">HI")
_N_FETCHED: Final = 256
_N_RANDOM: Final = 9  # 72 bits: no two decisions of a user meet


class _Randomness:
    """Bytes of the system's generator, fetched for many ids at once: the call costs more than its bytes."""

    def __init__(self) -> None:
        self._fetched: Iterator[bytes] = iter(())

    def __call__(self) -> bytes:
        """The next `_N_RANDOM` bytes."""
        for fresh in self._fetched:
            return fresh
        block = os.urandom(_N_RANDOM * _N_FETCHED)
        self._fetched = iter([block[at : at + _N_RANDOM] for at in range(0, len(block), _N_RANDOM)])
        return next(self._fetched)


_random = _Randomness()
os.register_at_fork(after_in_child=lambda: _random.__init__())  # type: ignore[misc]  # never the parent's bytes again


def new_decision(user: str, keys: Keys) -> str:
    """A fresh id for a ranking shown to `user`."""
    owner = _LAYOUT.pack(keys.user_partition(user), hash64(user) & 0xFFFFFFFF)
    return base64.urlsafe_b64encode(owner + _random()).decode()


def check_decision(decision: str, user: str, keys: Keys) -> None:
    """Refuse an id that is not one of ours or belongs to somebody else.

    Raises:
        InvalidInput: At `$.decision`.
    """
    try:
        data = base64.b64decode(decision, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != _LAYOUT.size + _N_RANDOM:
        raise InvalidInput("Expected a decision id as answered by POST /v1/rank", "$.decision")
    if _LAYOUT.unpack_from(data) != (keys.user_partition(user), hash64(user) & 0xFFFFFFFF):
        raise InvalidInput(f"The decision was not made for user {user[:64]!r}", "$.decision")
