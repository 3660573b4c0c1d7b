"""What a judge says of an edition. No torch: who publishes needs none."""

from typing import Any

import msgspec


class Verdict(msgspec.Struct, frozen=True):
    """Whether replicas may get it."""

    reasons: tuple[str, ...] = ()
    """Why not; none if they may."""
    figures: dict[str, float] = {}
    """What was measured, by name."""
    decline: str = ""
    """Why what answers is to go back to the anchor; empty: it is not."""
    anchor: int = 0
    """Version of the anchor; 0: there is none."""

    @property
    def described(self) -> dict[str, Any]:
        """For people."""
        return {"reasons": list(self.reasons), "anchor": self.anchor, "figures": self.figures}


PASSED = Verdict()
