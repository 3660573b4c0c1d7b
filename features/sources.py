"""Sources of events: who tells, which of them are in quarantine, and the rules that put them there."""

from dataclasses import dataclass

import msgspec

OF_EVENTS = ("type", "user", "item", "value")
CONTEXT = "context."


class Quarantine(msgspec.Struct, frozen=True):
    """What a source sends is kept in the log, and changes nothing: since when, by whom, and why."""

    who: str
    why: str
    since_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRules:
    """When a source is put in quarantine, by the newest events that one replica got from it.

    No rule acts where most of what comes breaks it: there the rule, the schema or the server's own clock may be wrong,
    and a person decides.
    """

    n_newest: int = 256
    """Events that are looked at; of a source that has sent fewer nothing is known."""
    max_invalid: float = 0.5
    """Share of them that are refused; 1: any."""
    max_lag_s: float = 1800.0
    """Age of the youngest of them as it arrives: beyond it the source's clock is behind. One that is ahead has its
    events refused."""
    varied: tuple[str, ...] = ("user", "item")
    """Fields that are not the same in nearly all of them: `type`, `user`, `item`, `value`, or `context.…`."""
    max_same: float = 0.99
    """Share of them in which such a field may be the same; 1: all."""
    max_share: float = 0.5
    """Share of all that came lately, from anybody, beyond which nobody knows who is wrong."""
    trusted: tuple[str, ...] = ()
    """Sources on which no rule acts."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n_newest", 16, 1024),
            ("max_invalid", 0.0, 1.0),
            ("max_lag_s", 0.0, 1e9),
            ("max_same", 0.0, 1.0),
            ("max_share", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"sources.{name}: expected {low} to {high}, got {getattr(self, name)}")
        for field in self.varied:
            if field not in OF_EVENTS and not field.startswith(CONTEXT):
                known = ", ".join(OF_EVENTS)
                raise ValueError(f"sources.varied: expected {known} or context.NAME, got {field!r}")
