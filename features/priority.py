"""Who goes first where cores are few: a ranking, before whatever learns, folds, rewrites files or reports.

Niceness alone makes the shares small, but what has begun its slice of some milliseconds ends it while a ranking that
woke up waits. From what is scheduled as idle Linux takes the core away at once. The price: on cores that others fill
for good, next to none of it is done.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

CAN_IDLE: Final = hasattr(os, "SCHED_IDLE")


def step_back(niceness: int, *, entirely: bool) -> None:
    """Leave the cores to others: for this thread and those it starts.

    Args:
        niceness: Added to the process's own.
        entirely: Be scheduled as idle too, where the system can. Not under the event clock: there history is lived
            through, and rankings wait for the rows.
    """
    os.nice(niceness)
    if entirely and CAN_IDLE:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def make_idle(pid: int) -> None:
    """Have another process scheduled as idle, where the system can: its threads and what they start from now on.

    Nothing happens to a process that has ended or belongs to somebody else.
    """
    if not CAN_IDLE:
        return
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # a thread may end meanwhile, and the others are still to come
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
