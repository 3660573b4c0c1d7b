"""Sources of events, and those of them in quarantine."""

import msgspec


class Quarantine(msgspec.Struct, frozen=True):
    """What a source sends is kept in the log, and changes nothing: since when, by whom, and why."""

    who: str
    why: str
    since_ms: int
