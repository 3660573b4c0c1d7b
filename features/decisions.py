"""Decision ids: opaque to callers, but they carry whose they are.

An id holds the user's partition and 32 bits of the user's hash, so that feedback which names somebody else's decision
is refused without a look-up, and the decision's log partition is known from the id alone.
"""

import base64
import binascii
import os
import struct
from typing import Final

from features.errors import InvalidInput
from features.keys import Keys
from features.schema import hash64

_LAYOUT: Final = struct.Struct(">HI")
_N_RANDOM: Final = 9  # 72 bits: no two decisions of a user meet


def new_decision(user: str, keys: Keys) -> str:
    """A fresh id for a ranking shown to `user`."""
    owner = _LAYOUT.pack(keys.user_partition(user), hash64(user) & 0xFFFFFFFF)
    return base64.urlsafe_b64encode(owner + os.urandom(_N_RANDOM)).decode()


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
