"""What must hold after the faults, as functions of what was seen: of answers, the log, and the last version.

No application is needed to decide any of it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

import msgspec
import numpy as np

from features.connect import StoreConfig, connect
from features.events import EVENT, Entry, Positions, decode_event
from features.schema import Schema
from learners.evaluation import one_thread
from learners.online import LearnerConfig, OnlineLearner
from learners.snapshots import Delta
from tests.chaos.faults import Incident
from tests.chaos.load import Answer

EXCUSED_S: Final = 3.0
"""After a replica that ranks is struck, requests that were sent to it may fail."""
READ_COUNT: Final = 1000
BLAMELESS: Final = {"published", "held"}


def unexcused(ranks: Iterable[Answer], incidents: Sequence[Incident]) -> list[Answer]:
    """Failed ranks that were not under way when a replica that ranks was struck or ended, nor up to 3 s later."""
    instants = [
        instant
        for incident in incidents
        if incident.fault.kind.victim == "ranker"
        for instant in (incident.struck_s, incident.ended_s)
    ]
    return [
        rank
        for rank in ranks
        if rank.is_failed and not any(rank.sent_s <= at_s + EXCUSED_S and at_s <= rank.at_s for at_s in instants)
    ]


async def read_all(store: StoreConfig, schema: Schema) -> list[Entry]:
    """The whole log, in the order in which it is read in ticks."""
    client, positions, entries = connect(store, schema), Positions(), list[Entry]()
    await client.open()
    try:
        while found := await client.read_log(positions, count=READ_COUNT):
            entries += found
            for entry in found:
                positions[entry.partition] = max(entry.id, positions.get(entry.partition, entry.id))
    finally:
        await client.close()
    return sorted(entries, key=lambda entry: (entry.id, entry.partition))


def ids_in(entries: Iterable[Entry]) -> Counter[str | None]:
    """How often each event is in the log, by its id."""
    return Counter(decode_event(entry.body).id for entry in entries if entry.kind == EVENT)


def reread(entries: Iterable[Entry], full: Delta, schema: Schema, config: LearnerConfig) -> Delta:
    """What a learner that nothing happens to makes of the log, as far as a version has read it; whole."""
    learner = OnlineLearner(schema, config)
    with one_thread():
        for entry in entries:
            if tuple(entry.id) <= full.progress.positions.get(entry.partition, (0, 0)):
                learner.read(entry)
        learner.close_tick(full.progress.trained_through_ms)
    return learner.snapshot(full.version)


def differences(one: Any, other: Any, path: str = "$") -> list[str]:
    """Where two versions differ, be it in a bit."""
    if isinstance(one, msgspec.Struct) or is_dataclass(one):
        names = one.__struct_fields__ if isinstance(one, msgspec.Struct) else [field.name for field in fields(one)]
        pairs = [(f"{path}.{name}", getattr(one, name), getattr(other, name)) for name in names]
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(f"{path}[{key!r}]", one[key], other[key]) for key in one]
    elif isinstance(one, np.ndarray):
        is_same = one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        return [] if is_same else [f"{path}: {_how_far(one, other)}"]
    else:
        is_same = msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)  # NaN is NaN
        return [] if is_same else [f"{path}: {one!r:.200} and {other!r:.200}"]
    return [difference for name, left, right in pairs for difference in differences(left, right, name)]


def _how_far(one: Any, other: Any) -> str:
    if one.shape != other.shape:
        return f"shapes {one.shape} and {other.shape}"
    n_differing = int((one != other).sum())
    return f"{n_differing} of {one.size} differ, by up to {np.abs(one.astype(float) - other.astype(float)).max():g}"


def went_astray(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of the history that no fault explains: anything but versions published, or held for want of a judge."""
    return [
        line
        for line in history
        if line["what"] not in BLAMELESS or (line["what"] == "held" and not line["why"].startswith("the judge is away"))
    ]
