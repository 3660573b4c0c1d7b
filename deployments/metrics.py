"""Every metric of ours: name, unit, meaning. Ray exports them to Prometheus with the prefix `ray_`.

Nothing is recorded on the request path: components count in plain integers, and `Exporter` reads them once a second.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from ray.util.metrics import Counter, Gauge

EXPORT_S: Final = 1.0

GAUGES: Final = {
    "headrace_model_version": "Version of the weights that answer",
    "headrace_model_age_ms": "Log time now minus the log time up to which the answering weights were trained, ms",
    "headrace_weight_prepare_ms": "Time from the arrival of the newest weights until they could answer, ms",
    "headrace_weight_swap_ms": "Time in which nothing was answered while the newest weights took their place, ms",
    "headrace_commit_ms": "Time in which the newest version was made durable, ms",
    "headrace_draft_ms": "Time in which the newest edition was drafted, ms",
    "headrace_judge_ms": "Time in which the newest edition was judged, ms",
    "headrace_rows_left": "Embedding rows that did not fit into the newest edition",
    "headrace_is_held": "Whether the newest version is held: 0 or 1",
    "headrace_rank_queue_depth": "Rank requests waiting for the next micro-batch",
    "headrace_cached_items": "Item rows in the replica's cache",
    "headrace_log_bytes": "Memory that the log takes in the store, bytes",
    "headrace_log_max_bytes": "Memory that the log may take, bytes; 0: as much as the store has",
    "headrace_log_bytes_per_s": "Bytes appended to the log, averaged over ten minutes, 1/s",
    "headrace_log_archive_behind_s": "Age of the oldest log entry that is in no file of the archive, s",
}
COUNTERS: Final = {
    "headrace_ranks_total": "Rank requests answered",
    "headrace_rank_shed_total": "Rank requests refused by load (429) in the replica, before or when their turn came",
    "headrace_rank_batches_total": "Micro-batches scored",
    "headrace_rank_degraded_total": "Rank requests answered with something missing",
    "headrace_rank_second_reads_total": "Micro-batches that needed a second read for recent items",
    "headrace_weight_swaps_total": "Weight swaps",
    "headrace_weight_bytes_total": "Bytes of the weights that a replica has taken",
    "headrace_offered_bytes_total": "Bytes of what learners offered",
    "headrace_edition_bytes_total": "Bytes of what was handed out to replicas, each once",
    "headrace_published_total": "Editions handed out",
    "headrace_held_total": "Verdicts by which a version was held",
    "headrace_went_back_total": "Times that learning began anew from an earlier version",
    "headrace_decisions_logged_total": "Decisions appended to the log",
    "headrace_decisions_lost_total": "Decisions that could not be logged",
    "headrace_log_archived_entries_total": "Log entries written to the archive",
    "headrace_skew_decisions_total": "Logged decisions of which the features were made again from the log",
    "headrace_skew_late_decisions_total": "Of these, those that differ only because item rows were late",
    "headrace_skew_compared_total": "Values of features compared",
    "headrace_skew_differing_total": "Values of features that differ from what the log gives, late rows included",
    "headrace_events_accepted_total": "Events accepted over HTTP",
    "headrace_events_duplicate_total": "Events recognised as duplicates over HTTP",
    "headrace_events_rejected_total": "Events rejected over HTTP",
}


async def export(read: Callable[[], Mapping[str, float]]) -> None:
    """Hand values to Ray for ever; see `Exporter`."""
    await Exporter(read).run()


class Exporter:
    """Hands current values to Ray. Run `run` as a task.

    Args:
        read: Returns every value by metric name; counters as running totals.
    """

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read
        self._gauges = {name: Gauge(name, text) for name, text in GAUGES.items() if name in read()}
        self._counters = {name: Counter(name, text) for name, text in COUNTERS.items() if name in read()}
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Export for ever."""
        while True:
            self.export()
            await asyncio.sleep(EXPORT_S)

    def export(self) -> None:
        """Export once."""
        values = self._read()
        for name, gauge in self._gauges.items():
            gauge.set(values[name])
        for name, counter in self._counters.items():
            if values[name] > self._told.get(name, 0.0):
                counter.inc(values[name] - self._told.get(name, 0.0))
                self._told[name] = values[name]
