"""Stepping back concerns the thread that does it; who is made idle is so as a whole."""

import os
import subprocess
import threading

import pytest

from features.priority import CAN_IDLE, make_idle, step_back

is_linux = pytest.mark.skipif(not CAN_IDLE, reason="idle scheduling is Linux's")


def policy_after(entirely: bool) -> int:
    """The scheduling policy of a thread that has stepped back, and of one that it started then."""
    found: list[int] = []

    def look() -> None:
        found.append(os.sched_getscheduler(0))

    def work() -> None:
        step_back(0, entirely=entirely)
        child = threading.Thread(target=look)
        child.start()
        child.join()
        look()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (policy,) = set(found)
    return policy


@is_linux
def test_a_thread_that_stepped_back_entirely_is_idle_to_the_system_and_so_are_those_it_starts() -> None:
    before = os.sched_getscheduler(0)
    assert policy_after(entirely=True) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == before


@is_linux
def test_where_rankings_wait_for_it_a_thread_is_only_nice() -> None:
    assert policy_after(entirely=False) == os.sched_getscheduler(0)


@is_linux
def test_another_process_is_made_idle_and_one_that_has_ended_is_nobody_s_error() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        make_idle(process.pid)
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        process.kill()
    make_idle(process.pid)
