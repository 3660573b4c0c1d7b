"""Every metric of ours: name, unit, meaning. Ray exports them to Prometheus with the prefix `ray_`.

Nothing is recorded on the request path: components count in plain integers, and `Exporter` reads them once a second.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

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
    "headrace_erasures_total": "Erasures of people that are done",
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
    "headrace_events_quarantined_total": "Events taken into quarantine over HTTP",
}
BY_SOURCE: Final = {
    "headrace_source_accepted_total": "Events of a source that were accepted",
    "headrace_source_quarantined_total": "Events of a source that were taken into quarantine",
    "headrace_source_invalid_total": "Events of a source that were invalid",
    "headrace_source_invalid_ratio": "Share of a source's newest events that are invalid",
    "headrace_source_lag_s": "Age of the youngest of a source's newest events as it arrived, s",
    "headrace_source_same_ratio": "Largest share of one value of a field among a source's newest events",
    "headrace_source_agreement": "Agreement of a source's labels with what answers, 0 to 1; chance has a half",
    "headrace_source_is_quarantined": "Whether a source is in quarantine: 0 or 1",
}
"""With tags: `source` (empty: events that name none), `field`."""
REFUSED: Final = {"headrace_access_refused_total": "Requests refused for the sake of their key"}
"""With the tag `why`: `unauthorized`, `forbidden` or `rate`."""
TEXTS: Final = {**GAUGES, **COUNTERS, **BY_SOURCE, **REFUSED}
Tagged = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a metric, and its tags."""


async def export(read: Callable[[], Mapping[str, float]]) -> None:
    """Hand values to Ray for ever; see `Exporter`."""
    await Exporter(read).run()


class Exporter:
    """Hands current values to Ray. Run `run` as a task.

    Args:
        read: Returns every value by metric name, or name and tags; those of `…_total` as running totals.
    """

    def __init__(self, read: Callable[[], Mapping[str, float] | Mapping[Tagged, float]]) -> None:
        self._read = read
        self._metrics: dict[str, Gauge | Counter] = {}
        self._told: dict[Tagged, float] = {}

    async def run(self) -> None:
        """Export for ever."""
        while True:
            self.export()
            await asyncio.sleep(EXPORT_S)

    def export(self) -> None:
        """Export once."""
        for key, value in self._read().items():
            name, tags = (key, ()) if isinstance(key, str) else key
            metric = self._metrics.get(name)
            if metric is None:
                kind = Counter if name.endswith("_total") else Gauge
                metric = self._metrics[name] = kind(name, TEXTS[name], tag_keys=tuple(tag for tag, _ in tags))
            if isinstance(metric, Gauge):
                metric.set(value, dict(tags))
            elif value > (told := self._told.get((name, tags), 0.0)):
                metric.inc(value - told, dict(tags))
                self._told[name, tags] = value


def source_values(sources: Mapping[str, Mapping[str, Any]]) -> dict[Tagged, float]:
    """Metrics of sources.

    Args:
        sources: As `QuarantineKeeper.status`.
    """
    values: dict[Tagged, float] = {}
    for source, told in sources.items():
        tags = (("source", source),)
        for name in ("accepted", "quarantined", "invalid"):
            values[f"headrace_source_{name}_total", tags] = told[name]
        values["headrace_source_invalid_ratio", tags] = told["invalid_ratio"]
        values["headrace_source_is_quarantined", tags] = float(told["quarantine"] is not None)
        if told["lag_s"] is not None:
            values["headrace_source_lag_s", tags] = told["lag_s"]
        for field, ratio in told["same"].items():
            values["headrace_source_same_ratio", (*tags, ("field", field))] = ratio
    return values


async def export_agreement(read: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
    """Hand out for ever how far the labels of sources agree with what answers.

    Args:
        read: As `Agreement.figures`.
    """

    def values() -> dict[Tagged, float]:
        return {
            ("headrace_source_agreement", (("source", source),)): told["agreement"] for source, told in read().items()
        }

    await Exporter(values).run()
