"""What became of the versions, by whom and why: for people.

Versions that simply follow one another are one line, and so are those that are held in a row, with the newest reason;
so a day of them is short. The oldest lines go when there are more
than `MAX_LINES`.
"""

import logging
from typing import Final, Literal

import msgspec

from features.decoding import decoder

MAX_LINES: Final = 500

logger = logging.getLogger(__name__)

What = Literal["published", "held", "went back", "adopted", "rolled back", "resumed"]

IN_A_ROW: Final = ("published", "held")


class Line(msgspec.Struct):
    """Something that happened, to one version or to one after the other."""

    what: What
    first: int
    last: int
    since_ms: int
    until_ms: int
    who: str
    why: str = ""


_lines_of = decoder(msgspec.msgpack, list[Line])


class VersionHistory:
    """`note` what happens; `load` goes on from `packed`."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def load(self, packed: bytes) -> None:
        """Go on from what was packed; if another release wrote it, and it cannot be read, begin anew."""
        try:
            self.lines = _lines_of(packed)
        except msgspec.DecodeError as error:
            logger.warning("what became of versions is forgotten: %s", error)

    def note(self, what: What, version: int, now_ms: int, who: str, why: str = "") -> None:
        """Add a line, or go on with the last one if it says the same of the version before."""
        last = self.lines[-1] if self.lines else None
        if last and what in IN_A_ROW and (last.what, last.who) == (what, who) and version >= last.last:
            last.last, last.until_ms, last.why = version, now_ms, why
            return
        self.lines = [*self.lines[1 - MAX_LINES :], Line(what, version, version, now_ms, now_ms, who, why)]

    @property
    def packed(self) -> bytes:
        """All of it."""
        return msgspec.msgpack.encode(self.lines)
