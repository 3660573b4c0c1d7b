"""What a proposed schema was made from and what it costs, in lines for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from features.autoschema.half_lives import words
from features.autoschema.sample import Coded, Sample
from features.events import LoggedEvent
from features.item_table import ItemTable
from features.schema import Schema
from features.state import apply_update, update_for

INSTANT: Final = "%Y-%m-%d %H:%M:%S"
BATCH: Final = 128  # examples in a learner's batch
LIVE_SPAN_S: Final = 0.2  # log time after which the learner closes a batch


def head(sample: Sample, schema: Schema, sources: Sequence[str]) -> list[str]:
    """The comment above the schema.

    Args:
        sources: What was looked at, by the names that a person gave.
    """
    began, ended = (datetime.fromtimestamp(ms / 1000.0, UTC) for ms in (sample.ts_ms[0], sample.ts_ms[-1]))
    rate = (len(sample) if sample.is_whole else sample.n_all) / max(sample.span_s, 1e-3)
    n_bytes = row_bytes(schema)
    return [
        "Proposed by `headrace autoschema`; what stands behind a line speaks for it. Judge it by `headrace evaluate`.",
        "",
        *(f"looked at   {source}" for source in sources),
        f"events      {_taken(sample)}",
        *(f"            {n:,} {reason}" for reason, n in sorted(sample.faults.items())),
        f"time        {began:{INSTANT}} to {ended:{INSTANT}} UTC, {words(sample.span_s)}; {rate:.3g} events/s",
        f"users       {_seen(sample, sample.user)}; {_per_user(sample)}",
        f"items       {_seen(sample, sample.item)}",
        f"a user      {user_bytes(schema, sample):,} bytes, with as many recent items as are remembered",
        f"an item     {n_bytes:,} bytes in memory; {n_bytes * len(sample.item) / 1e6:,.1f} MB for these",
        "",
        *_advice(rate),
    ]


def row_bytes(schema: Schema) -> int:
    """An item's row in the memory of projector, learners and caches."""
    table = ItemTable(schema, 2)
    return int(table.fixed.itemsize + table.successors.itemsize * schema.n_successors)


def user_bytes(schema: Schema, sample: Sample) -> int:
    """The packed state of a person with a full history, as the store holds it."""
    item = sample.item.text(len(sample.item) // 2)
    context = {
        name: sample.context[name].values[0].as_py()
        for name in schema.context
        if name in sample.context and len(sample.context[name])
    }
    event = LoggedEvent(schema.event_types[0], "", item, int(sample.ts_ms[-1]), 1.0, context, None, None)
    state, update = b"", update_for(event, schema)
    for _ in range(schema.n_recent):
        state = apply_update(state, update, schema)
    return len(state)


def _taken(sample: Sample) -> str:
    n_read = len(sample) + sample.n_left_out
    if sample.is_whole:
        return f"{n_read:,}, all of them"
    spans_s = [np.ptp(sample.ts_ms[sample.stretch == n]) / 1000.0 for n in np.unique(sample.stretch)]
    return (
        f"{n_read:,} of {sample.n_all:,}, in {len(spans_s)} stretches of {words(float(np.median(spans_s)))} (median): "
        "longer pauses are not seen, and a type in none of them is not declared"
    )


def _seen(sample: Sample, column: Coded) -> str:
    if sample.is_whole:
        return f"{len(column):,}"
    is_last = sample.stretch == sample.stretch.max()
    earlier = np.unique(column.codes[~is_last])
    new = 1.0 - np.isin(np.unique(column.codes[is_last]), earlier).mean()
    return f"{len(column):,} in the sample, more in all: {new:.0%} of those of the last stretch are in no earlier one"


def _per_user(sample: Sample) -> str:
    median, most = np.percentile(sample.user.counts, [50, 90])
    return f"events of one: median {median:.0f}, p90 {most:.0f}, max {sample.user.counts.max():,}"


def _advice(rate: float) -> list[str]:
    """For going through a slow history fast, batches must span more of its time."""
    fill_s = BATCH / max(rate, 1e-9)
    if fill_s <= LIVE_SPAN_S:
        return []
    return [
        f"To evaluate on this history, let a batch of {BATCH} examples (about {words(fill_s)} of it) fill up:",
        "    [learner]",
        "    batch_span_s = 1800.0",
    ]
