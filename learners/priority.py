"""Who goes first where cores are few: a ranking, before whatever learns or folds."""

import os


def step_back(niceness: int, *, entirely: bool) -> None:
    """Leave the cores to others: for this thread and those it starts.

    Niceness alone makes the shares small, but a learner that has begun its slice of some milliseconds ends it while a
    ranking that woke up waits. From what is scheduled as idle Linux takes the core away at once. The price: on cores
    that others fill for good, next to nothing is learned.

    Args:
        niceness: Added to the process's own.
        entirely: Be scheduled as idle too, where the system can. Not under the event clock: there history is lived
            through, and rankings wait for the rows.
    """
    os.nice(niceness)
    if entirely and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
