"""Whether memory is kept shows in the page faults of a process that did nothing else."""

import subprocess
import sys

SCRIPT = """
import resource
import numpy as np
from learners.memory import keep_memory

def n_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {keeps}:
    keep_memory()
for _ in range(2):
    before = n_faults()
    for _ in range(20):
        parts = [np.ones(2**20, dtype=np.uint8) for _ in range(8)]
        del parts
print(n_faults() - before)
"""


def n_faults(keeps: bool) -> int:
    script = SCRIPT.format(keeps=keeps)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    return int(done.stdout)


def test_what_is_freed_is_taken_again_without_the_system() -> None:
    """Twenty times eight megabytes, pages of 4 kB: else every one of them is a page fault."""
    assert n_faults(keeps=True) < 200
    assert n_faults(keeps=False) > 10_000  # or this tells nothing
