"""Waiting for a condition, and not for time to pass."""

import threading
import time
from collections.abc import Callable
from typing import Any

PAUSE_S = 0.05


def eventually(check: Callable[[], Any], what: str | Callable[[], str], wait_s: float = 30.0) -> Any:
    """Poll until `check` gives something true; returns it.

    Args:
        what: Is waited for; if it is called, then at the end, and may tell how far it came.
    Raises:
        AssertionError: If it has not after `wait_s`; names `what` was waited for.
    """
    deadline_s = time.monotonic() + wait_s
    pause = threading.Event()
    while not (found := check()):
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {wait_s:g} s: {what if isinstance(what, str) else what()}")
        pause.wait(PAUSE_S)
    return found
