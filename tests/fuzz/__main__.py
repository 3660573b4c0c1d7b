"""Fuzz the decoders under atheris: `python -m tests.fuzz [--seconds 600] [--bounds] [--runs N] [--only NAME]`.

What covers new code is kept in `build/fuzz/NAME/corpus` and gone on from, what breaks the law in `build/fuzz/NAME`.
Each target is a process of its own, forked once everything is imported; it has an address space of `MORE_BYTES` more
than it begins with. With `--bounds` an access out of bounds in a compiled loop is an error, not luck.
"""

import argparse
import contextlib
import hashlib
import logging
import os
import re
import resource
import sys
import traceback
import tracemalloc
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path("build") / "fuzz"
if "--bounds" in sys.argv:  # before anything imports numba
    os.environ |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(ROOT.resolve() / "compiled")}

import atheris  # noqa: E402
import psutil  # noqa: E402

from tests.fuzz.instrumenting import instrument  # noqa: E402
from tests.fuzz.targets import Target, judge  # noqa: E402
from tests.fuzz.test_decoders import TARGETS  # noqa: E402

MORE_BYTES: Final = 1 << 30
MAX_LEN: Final = 16_384
HUNG_S: Final = 30
BROKEN: Final = 77  # exit status


class Outcome(NamedTuple):
    """What came of a target."""

    n_inputs: int
    n_kept: int
    """Inputs that cover what others do not."""
    peak_mb: int
    failure: str
    """The last lines of what it said, if it broke the law."""


def main() -> int:
    """Fuzz; the exit status is the number of targets that broke the law."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--runs", type=int, default=-1, help="inputs of each, at most; all runs are then the same")
    parser.add_argument(
        "--bounds", action="store_true", help="compiled loops check every access; they are compiled anew"
    )
    parser.add_argument("--only", default="", help="targets with this in their name")
    options = parser.parse_args()
    targets = [target for target in TARGETS if options.only in target.name]
    instrument()
    n_broken = 0
    for target in targets:
        target.run(target.seeds()[0])  # what is made or compiled once
    for target in targets:
        outcome = fuzz(target, options.seconds / len(targets), options.runs)
        print(
            f"{target.name:26} {outcome.n_inputs:9,} inputs {outcome.n_kept:6,} kept {outcome.peak_mb:6,} MB",
            flush=True,
        )
        if outcome.failure:
            n_broken += 1
            print(outcome.failure, flush=True)
    return n_broken


def fuzz(target: Target, seconds: float, runs: int = -1) -> Outcome:
    """Fuzz one target in a process of its own."""
    folder = ROOT / re.sub(r"\W+", "-", target.name)
    corpus, seeds = folder / "corpus", folder / "seeds"
    for each in (corpus, seeds):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    log = folder / "log"
    process = os.fork()
    if not process:
        with contextlib.suppress(BaseException):
            _child(target, folder, log, seconds, runs)
        os._exit(99)
    _, status = os.waitpid(process, 0)
    return _outcome(log.read_text(errors="replace"), corpus, os.waitstatus_to_exitcode(status))


def _child(target: Target, folder: Path, log: Path, seconds: float, runs: int) -> None:
    sys.stdout.flush()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MORE_BYTES, most))
    logging.disable()
    tracemalloc.start()
    flags = [f"-max_total_time={max(1, round(seconds))}", f"-runs={runs}", f"-timeout={HUNG_S}", f"-max_len={MAX_LEN}"]
    flags += [
        "-rss_limit_mb=0",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
        *(["-seed=8"] if runs > 0 else []),
    ]
    atheris.Setup([sys.argv[0], *flags, str(folder / "corpus"), str(folder / "seeds")], _Trial(target, folder))
    atheris.Fuzz()


class _Trial:
    """Tries inputs; one that breaks the law ends the process and is kept."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._folder = folder
        self._n = 0

    def __call__(self, data: bytes) -> None:
        """Try one."""
        self._n += 1
        try:
            judge(self._target, data)
        except BaseException:  # noqa: BLE001  whatever it is, it is what is looked for
            (self._folder / f"broken-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            print(f"stat::number_of_executed_units: {self._n}\n{traceback.format_exc()}", flush=True)
            os._exit(BROKEN)


def _outcome(said: str, corpus: Path, status: int) -> Outcome:
    def figure(name: str) -> int:
        found = re.search(rf"stat::{name}:\s+(\d+)", said)
        return int(found[1]) if found else 0

    failure = "" if status == 0 else "\n".join([f"exit status {status}", *said.splitlines()[-40:]])
    return Outcome(figure("number_of_executed_units"), len(list(corpus.iterdir())), figure("peak_rss_mb"), failure)


if __name__ == "__main__":
    sys.exit(main())
