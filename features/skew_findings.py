"""What a check of features can find: differences, totals of them, and what became of decisions. See `features.skew`."""

from dataclasses import dataclass
from typing import Final, NamedTuple

STATE: Final = "state"
"""Name of what stands for the whole of a person's state."""


class Difference(NamedTuple):
    """A value that does not follow from the log."""

    feature: str
    item: str
    """Empty for a feature of the person."""
    served: float
    low: float
    high: float
    """Between these it could have been; among them not everything, see `features.allowed`."""


class Judged(NamedTuple):
    """A decision, and where it differs."""

    decision: str
    user: str
    ts_ms: int
    n_compared: int
    """Values of features."""
    differences: tuple[Difference, ...]
    explained_ms: int | None
    """Rows so far behind the log give what was served of the items; None: older ones do not either."""


@dataclass(slots=True)
class Total:
    """Of one feature."""

    compared: int = 0
    differing: int = 0
    largest: float = 0.0
    """Distance from what was served to what comes nearest."""
    first: tuple[str, Difference] | None = None
    """The first decision that differs, and how."""


@dataclass(slots=True)
class Counts:
    """What became of decisions."""

    seen: int = 0
    judged: int = 0
    differing: int = 0
    late: int = 0
    """Of those that differ: rows were older than they may be, and everything else was right."""
    latest_ms: int = 0
    """How old, at most."""
    not_sampled: int = 0
    too_early: int = 0
    """Made before `since_ms`, or before the rows are known."""
    degraded: int = 0
    """Made without some of the features, and logged as such."""
    out_of_time: int = 0
    """Logged more than `late_ms` after they were made, or before."""
    undecodable: int = 0
    foreign: int = 0
    """Of another schema: the state, or the number of features."""
    of_unknown: int = 0
    """Judged but for the person, whose state the log does not tell."""
    items_without_row: int = 0
    """Items of judged decisions that the log has said nothing of; compared like all others."""
