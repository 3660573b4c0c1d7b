"""What must hold after the faults, as functions of what was seen: of answers, the log, and the last version.

No application is needed to decide any of it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

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


def went_astray(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of the history that no fault explains: anything but versions published, or held for a while."""
    return [line for line in history if line["what"] not in BLAMELESS]
