"""Seeded streams of which it is known what they are made of."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.autoschema.sample import Sample, read_sample
from features.event_files import read_footers

START_MS = 1_700_000_000_000
N_ITEMS = 60


def clicks(n_events: int = 6000, seed: int = 0, *, drift_s: float = 1e9, n_users: int = 300) -> dict[str, Any]:
    """Columns of clicks, one a second, by people of three segments.

    Two in three clicks go to the third of the items that the segment likes, the others to any; in each by popularity,
    which is dealt out anew every `drift_s`. `noise` is drawn, `section` is made of the item alone.
    """
    rng = np.random.default_rng(seed)
    ts_ms = START_MS + 1000 * np.arange(n_events)
    user = rng.integers(0, n_users, n_events)
    rank = np.minimum(rng.zipf(1.6, n_events) - 1, N_ITEMS // 3 - 1)
    segment = user % 3
    third = np.where(rng.random(n_events) < 0.67, segment, rng.integers(0, 3, n_events))
    epoch = (np.arange(n_events) / drift_s).astype(int)
    order = np.array([rng.permutation(N_ITEMS // 3) for _ in range(epoch[-1] + 1)])
    item = third * (N_ITEMS // 3) + order[epoch, rank]
    return {
        "ts_ms": ts_ms,
        "type": np.full(n_events, "click"),
        "user": user,
        "item": item,
        "segment": np.array(["red", "green", "blue"])[segment],
        "noise": rng.integers(0, 4, n_events),
        "section": third,
    }


def write(folder: Path, columns: dict[str, Any], name: str = "events.parquet", row_group_size: int = 1000) -> str:
    """A file of events; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, row_group_size=row_group_size)
    return str(folder / name)


def sampled(folder: Path, columns: dict[str, Any], n_events: int = 1_000_000) -> Sample:
    """A sample of such a file."""
    return read_sample(read_footers([write(folder, columns)]), n_events)
