"""Lineages: what a log comes to without some sources, made beside what serves, and kept until it is put in its place.

<root>/<name>/   begun.json   what is to be made; written first
                 …            what the steps of a backfill leave: states, rows, a model
                 made.json    what it came to; written last
"""

from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from features.backfill.pieces import Folder
from features.backfill.planning import Plan
from features.log_files import LogFiles

BEGUN: Final = "begun.json"
MADE: Final = "made.json"


class Begun(msgspec.Struct, frozen=True):
    """What is to be made."""

    plan: Plan
    before: tuple[str, ...]
    """What of the plan was named as a history."""
    archive: str
    """And as the log's archive."""
    since_ms: dict[str, int]
    """Since when the sources that are left out have been in quarantine."""


class Made(msgspec.Struct, frozen=True):
    """What it came to."""

    made_ms: int
    n_events: int
    left_out: dict[str, int]
    counted_in: dict[str, int]
    mrr: float
    """Of progressive validation; see `learners.progressive`."""


class Lineage(NamedTuple):
    """One of them."""

    begun: Begun
    made: Made | None
    """None: it is not finished."""

    @property
    def name(self) -> str:
        """In its root."""
        return self.begun.plan.name


def begin(begun: Begun) -> None:
    """Keep what is to be made, in the plan's folder."""
    Folder(begun.plan.folder).write(BEGUN, msgspec.json.encode(begun))


def finish(begun: Begun, made: Made) -> None:
    """Keep what it came to."""
    Folder(begun.plan.folder).write(MADE, msgspec.json.encode(made))


def lineages(root: str) -> list[Lineage]:
    """Those under a folder, or the URL of a bucket's; the oldest first, those that are not finished last."""
    found = []
    for name in Folder(root).names():
        folder = Folder(f"{root}/{name}")
        names = folder.names()
        if BEGUN in names:
            begun = msgspec.json.decode(folder.read(BEGUN), type=Begun)
            begun = msgspec.structs.replace(begun, plan=replace(begun.plan, folder=folder.url))
            made = msgspec.json.decode(folder.read(MADE), type=Made) if MADE in names else None
            found.append(Lineage(begun, made))
    return sorted(found, key=lambda one: (one.made is None, one.made.made_ms if one.made else 0, one.name))


def begun_before(root: str, wanted: Begun) -> Begun | None:
    """One that is not finished and comes to the same, but for where the archive ended when it was begun."""
    for begun in (one.begun for one in lineages(root) if one.made is None):
        if _same(begun) == _same(wanted) and _is_there(begun):
            return begun
    return None


def _same(begun: Begun) -> object:
    plan = begun.plan
    dials = plan.schema.fingerprint, plan.n_partitions, plan.budget_bytes, plan.choice
    return begun.before, begun.archive, begun.since_ms, dials


def _is_there(begun: Begun) -> bool:
    """Whether no segment has gone, into a larger one of another archiver."""
    units = {unit.file.url for unit in begun.plan.units if unit.archive == begun.archive}
    return units <= {segment.path for segment in LogFiles(begun.archive).segments()}
