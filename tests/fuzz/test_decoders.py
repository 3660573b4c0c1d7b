"""Every decoder keeps the law of `targets`: for real encodings, for spoiled ones, and for what atheris thinks of.

What reads bytes and is no target, and why:

    HTTP itself                                   HAProxy and uvicorn read it; bodies, paths and headers are `routes`
    pages of Parquet, gzip, TOML, CSV             by libraries; what we make of what they give is a target
    positions, quarantine, keys and actions       records of one line, by the same `features.decoding.decoder`; who can
    in Redis; names of keys; its directories      write there owns the rest, too
    pieces and reports of a backfill              of a job, in its own folder, which the next one begins anew
    weights into a model, rows into its tables    from `version` and `edition`, whose arrays are of declared types
    what is between actors                        by Ray (cloudpickle), between processes that have its token
    a run's record, progress of a file, a         of the user who starts the command, where the same user put it
    release that is shipped, data of the demo
"""

import importlib.util
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.fuzz import on_disk, outside, stored
from tests.fuzz.targets import Target, judge

TARGETS: Final = (*outside.TARGETS, *stored.TARGETS, *on_disk.TARGETS)
N_INPUTS: Final = 200  # of each
N_RUNS: Final = 1000  # of each, or as many as there are in a second
ROOT: Final = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _measured() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def spoiled(seed: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Cut, with bits turned, with a byte replaced by one that says something, and with a part left out; for ever."""
    telling = b'\x00\x7f\x80\xff\xc1\xdd\xdf\xc6\xa2[{"9-%'
    while True:
        start, end = sorted(rng.integers(len(seed) + 1, size=2).tolist())
        yield seed[:end]
        turned = bytearray(seed)
        if turned:
            turned[rng.integers(len(seed))] ^= 1 << int(rng.integers(8))
            yield bytes(turned)
            turned[rng.integers(len(seed))] = telling[int(rng.integers(len(telling)))]
            yield bytes(turned)
        yield seed[:start] + seed[end:]
        yield seed[:end] + seed[start:]


@pytest.mark.timeout(300)
def test_a_bounded_run_of_atheris_breaks_no_law() -> None:
    """The same inputs every time, as far as none was kept by a longer one (`make fuzz`)."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this machine")
    command = [sys.executable, "-m", "tests.fuzz", "--runs", str(N_RUNS), "--seconds", str(len(TARGETS))]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" inputs ") == len(TARGETS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_real_encodings_are_read_and_spoiled_ones_are_read_or_refused(target: Target) -> None:
    seeds = target.seeds()
    target.run(seeds[0])  # what is made once, and kept
    n_read = sum(judge(target, seed) for seed in seeds)
    assert n_read, "no seed is a real encoding"
    rng = np.random.default_rng(8)
    for seed in seeds:
        for data in islice(spoiled(seed, rng), N_INPUTS // len(seeds) + 1):
            judge(target, data)
