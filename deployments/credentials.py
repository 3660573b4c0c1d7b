"""The key that a command on this machine shows: the one in the environment, or that of the run here.

Never an argument: those can be seen by everybody on the machine.
"""

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from deployments import processes
from deployments.client import Headrace

API_KEY: Final = "HEADRACE_API_KEY"
LOCAL: Final = ("127.0.0.1", "localhost")


def key_for(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key for what answers at a URL; None if there is none to show."""
    given = environment.get(API_KEY, "").strip()
    if given:
        return given
    parts = urlsplit(url)
    if parts.hostname not in LOCAL:
        return None
    record = processes.read_record(parts.port or 80)
    return None if record is None or processes.is_stale(record) else record.api_key or None


def connected(url: str, **options: Any) -> Headrace:
    """A client of what answers at a URL, with the key for it."""
    return Headrace(url, api_key=key_for(url), **options)
