"""A table that takes most of a replica's memory changes within that memory.

What a replica does is in `tests.learners.replica`, where every row and some scores are compared before and after each
edition. `pytest -rP` shows the figures.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from learners.editions import Head, Part, heads, parts
from learners.model import TABLES, ModelConfig
from learners.publisher import EDITION_BYTES, Publisher
from learners.scorer import Scorer
from learners.snapshots import Delta, Progress, Rows
from tests.learners.examples import SCHEMA
from tests.learners.replica import N_WATCHED, inputs

MODEL: Final = ModelConfig()
MIB: Final = 1 << 20
BUDGET: Final = 360 * MIB  # over what a scorer takes that has no edition yet
SPARE: Final = 16 * MIB  # 131,000 rows: more than an edition brings that is limited
N_ROWS: Final = 1_000_000
TABLE: Final = N_ROWS * 4 * MODEL.n_embedding
N_EDITIONS: Final = 6
N_FEW: Final = 100  # rows of the other tables
TIMEOUT_S: Final = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


class Lineage:
    """Versions of a model that was never trained: rows move, and keys go and come, as one says."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(20_261)
        asked = inputs()
        known = np.unique(np.concatenate([asked.item_key.ravel(), asked.recent_key.ravel()]))
        self.watched = np.concatenate([known[known != 0], self._new_keys(N_WATCHED)])
        self._tables = {name: self._rows(np.zeros(0, np.uint64), N_FEW) for name in TABLES}
        self._tables["item"] = self._rows(self.watched, N_ROWS)
        self._n_weights = len(Scorer(SCHEMA)._live.weights)
        self._version = 0

    def next(self, *, share_moved: float, share_replaced: float = 0.0) -> Delta:
        """A version of which this share of the rows has other values, and this share another key."""
        self._version += 1
        for table in self._tables.values():
            n = len(table.keys)
            moved = self._rng.random(n) < share_moved
            table.values[moved] = self._values(int(moved.sum()))
            replaced = self._rng.random(n) < share_replaced
            replaced[: 1 + len(self.watched)] = False
            table.keys[replaced] = self._new_keys(int(replaced.sum()))
        weights = self._rng.normal(0.0, 0.1, self._n_weights).astype(np.float32)
        return Delta(
            *(self._version, None, SCHEMA.fingerprint, asdict(MODEL), np.abs(weights), self._tables),
            *(Progress({}, self._version, 0, 0, {}), None),
        )

    def _rows(self, first: np.ndarray, n: int) -> Rows:
        keys = np.concatenate([np.zeros(1, np.uint64), first, self._new_keys(n - len(first))])
        return Rows(np.arange(n + 1, dtype=np.uint32), keys, self._values(n + 1), n, None)

    def _new_keys(self, n: int) -> np.ndarray:
        return self._rng.integers(1, 1 << 63, n).astype(np.uint64)

    def _values(self, n: int) -> np.ndarray:
        return self._rng.random((n, MODEL.n_embedding), dtype=np.float32) - np.float32(0.5)


def write(folder: Path, head: Head, some: list[Part], publisher: Publisher) -> None:
    """An edition, and what there has to be afterwards."""
    folder.mkdir()
    whole_head, whole = publisher.whole()
    (folder / "head").write_bytes(heads.pack(head))
    for name, found in (("part", some), ("whole", whole)):
        for n, part in enumerate(found):
            (folder / f"{name}-{n:04d}").write_bytes(parts.pack(part))
    fresh = Scorer(SCHEMA)
    for _ in fresh.apply(whole_head, whole):
        pass
    np.save(folder / "scores.npy", fresh.score(inputs()))


@pytest.fixture(scope="module")
def editions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders of editions, in their order."""
    folder, lineage, publisher = tmp_path_factory.mktemp("editions"), Lineage(), Publisher("here", EDITION_BYTES)
    np.save(folder / "watched.npy", lineage.watched)

    def publish(name: str, full: Delta, *, is_limited: bool = True) -> None:
        publisher.note_all(full)
        draft = publisher.draft(full, is_limited=is_limited)
        publisher.settle(draft)
        write(folder / name, draft.head, draft.parts, publisher)

    publish("1 the first, whole", lineage.next(share_moved=0.0))
    publish("2 a tenth has moved, as much as fits", lineage.next(share_moved=0.1))
    publish("3 a tenth has other keys", lineage.next(share_moved=0.0, share_replaced=0.1))
    publish("4 gone back to: all rows", lineage.next(share_moved=1.0), is_limited=False)
    publish("5 half of the keys are others", lineage.next(share_moved=0.1, share_replaced=0.5), is_limited=False)
    full = lineage.next(share_moved=1.0, share_replaced=0.1)
    publisher.note_all(full)
    publisher.settle(publisher.draft(full, is_limited=False))
    write(folder / "6 whole, for who has missed some", *publisher.whole(), publisher)
    yield folder
    shutil.rmtree(folder)  # half a gigabyte


def run(editions: Path, spare_bytes: int, limit_bytes: int = 0) -> tuple[list[dict[str, Any]], str]:
    """What a replica tells of each edition, and the error that it died of."""
    command = [sys.executable, "-m", "tests.learners.replica", str(editions), str(spare_bytes), str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for each in told:
        now, most = each["now"] / MIB, each["most"] / MIB
        print(f"{each['edition']:40} {now:4.0f} MiB, at most {most:4.0f}; flip {each['flip_ms']:6.1f} ms")
    assert bool(done.returncode) == bool(done.stderr), done.stderr
    return told, done.stderr


def test_a_table_of_more_than_half_of_the_memory_becomes_another_within_it(editions: Path) -> None:
    """The system refuses what goes beyond; and no answer is of two editions, see the program."""
    told, error = run(editions, SPARE, limit_bytes=BUDGET)
    assert not error and len(told) == N_EDITIONS
    assert told[0]["now"] > BUDGET / 2 and max(each["most"] for each in told) <= BUDGET


def test_room_for_a_second_table_would_be_beyond_it(editions: Path) -> None:
    """Or the law above says nothing."""
    told, error = run(editions, TABLE)
    assert not error and max(each["most"] for each in told) > BUDGET
    told, error = run(editions, TABLE, limit_bytes=BUDGET)
    assert "MemoryError" in error and len(told) < N_EDITIONS
