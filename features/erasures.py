"""An erasure as the store keeps it: whom it is about while it is under way, and afterwards only that it is done."""

from typing import Final

import msgspec

from features.events import StreamId

STATE, LOG, ARCHIVE, VERSIONS = "state", "log", "archive", "versions"
STEPS: Final = (STATE, LOG, ARCHIVE, VERSIONS)
ERASED_S: Final = 365 * 86_400  # how long it is told that an erasure is done


class Erasing(msgspec.Struct, frozen=True):
    """An erasure that is under way."""

    user: str
    partition: int
    at: StreamId
    """Of its entry: everything of this person up to there goes."""
    steps: dict[str, int] = {}
    """When each was done, in log time; the state went with the entry."""

    @property
    def asked_ms(self) -> int:
        """Log time."""
        return self.at.ms

    def after(self, step: str, now_ms: int) -> "Erasing":
        """The same with one more step done."""
        return msgspec.structs.replace(self, steps={**self.steps, step: now_ms})


class Erased(msgspec.Struct, frozen=True):
    """An erasure that is done: it does not tell who it was."""

    asked_ms: int
    done_ms: int
    steps: dict[str, int]


def pack(erasing: Erasing) -> bytes:
    """As the store has it, and as `functions.lua` begins it: the position, the steps as JSON, and whom it is about."""
    return b"%s %s %s" % (str(erasing.at).encode(), msgspec.json.encode(erasing.steps), erasing.user.encode())


def unpack(packed: bytes, partition: int) -> Erasing:
    """Read that."""
    at, steps, user = packed.split(b" ", 2)
    return Erasing(user.decode(), partition, StreamId.parse(at), msgspec.json.decode(steps, type=dict[str, int]))


def end(erasing: Erasing, done_ms: int) -> Erased:
    """What is left of an erasure when it is done."""
    return Erased(erasing.asked_ms, done_ms, {STATE: erasing.asked_ms, **erasing.steps})
