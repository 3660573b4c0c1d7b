"""A program that is a replica's scorer and takes in editions from files; it says what memory that took, as JSON.

    python -m tests.learners.replica FOLDER SPARE_BYTES LIMIT_BYTES     0: no limit

An edition is a folder: `head`, `part-…`, and to compare with `whole-…`, all rows there are afterwards, and `scores`.
The files are mapped, as parts are in production, where they lie in the object store: such pages are shared by all
replicas of a node, and are not counted.

With a limit the system refuses whatever goes beyond it, even what is only reserved. It counts from what a scorer takes
that has no edition yet.
"""

import json
import mmap
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from features.encoding import Encoder, Inputs
from features.item_table import ItemTable
from learners.editions import heads, parts
from learners.packing import Packing, T
from learners.scorer import Scorer
from tests.learners.examples import SCHEMA, requests

SAMPLE_S: Final = 0.001
N_WATCHED: Final = 256  # rows that are looked up between any two slices


def status(field: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


class Peak:
    """The most anonymous memory that this process has had, as a thread sees it that looks every millisecond."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._ends.set()
        self._thread.join()

    def look(self) -> None:
        """Now."""
        self.bytes = max(self.bytes, status("RssAnon"))

    def _watch(self) -> None:
        while not self._ends.wait(SAMPLE_S):
            self.look()


def inputs() -> Inputs:
    """What is scored between any two slices."""
    return Encoder(SCHEMA).encode(ItemTable(SCHEMA), requests(2, 8))


def mapped(packing: Packing[T], folder: Path, pattern: str) -> Iterator[T]:
    """What is in files, in the order of their names; their pages are the file's own."""
    for path in sorted(folder.glob(pattern)):
        with path.open("rb") as file:
            yield packing.unpack(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def become(scorer: Scorer, folder: Path, look: Callable[[], None]) -> float:
    """Take in an edition; until the flip all is as it was before, from then on as it is told to be. Seconds it took."""
    asked, watched = inputs(), np.load(folder.parent / "watched.npy")

    def answers() -> tuple[np.ndarray, np.ndarray]:
        table = scorer.tables["item"]
        return scorer.score(asked), table.weight[table.lookup(watched)]

    def is_as(before: tuple[np.ndarray, np.ndarray]) -> bool:
        look()
        return all((now == then).all() for now, then in zip(answers(), before, strict=True))

    before = answers()
    (head,) = mapped(heads, folder, "head")
    scorer.begin(head)
    for part in mapped(parts, folder, "part-*"):
        for _ in scorer.add(part):
            assert is_as(before)
    began_s = time.monotonic()
    scorer.flip()
    took_s, after = time.monotonic() - began_s, answers()
    assert (after[0] == np.load(folder / "scores.npy")).all() and not is_as(before)
    for _ in scorer.settle():
        assert is_as(after)
    n_rows = dict.fromkeys(scorer.tables, 0)
    for part in mapped(parts, folder, "whole-*"):
        table = scorer.tables[part.table]
        n_rows[part.table] += len(part.keys)
        for start in range(0, len(part.keys), N_WATCHED):
            some = slice(start, start + N_WATCHED)
            assert (table.weight[table.lookup(part.keys[some])] == part.values(some)).all()
    assert n_rows == {name: table.n_live for name, table in scorer.tables.items()}
    return took_s


def main(folder: Path, spare_bytes: int, limit_bytes: int) -> None:
    """Become every edition, one after the other; tell after each the bytes there are now, and the most there were."""
    scorer, peak = Scorer(SCHEMA, spare_bytes), Peak()
    scorer.score(inputs())
    peak.look()
    began = peak.bytes
    if limit_bytes:
        limit = status("VmData") + limit_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        for edition in sorted(folder.iterdir()):
            if edition.is_dir():
                flip_s = become(scorer, edition, peak.look)
                bytes_ = {"now": status("RssAnon") - began, "most": peak.bytes - began}
                print(json.dumps({"edition": edition.name, **bytes_, "flip_ms": round(1e3 * flip_s, 1)}), flush=True)
    finally:
        peak.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
