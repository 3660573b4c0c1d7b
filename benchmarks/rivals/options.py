"""What a system is told when it is started. Imports nothing that imports Ray, whose settings a system makes first."""

import os
from dataclasses import dataclass
from typing import Final

import msgspec

VARIABLE: Final = "HEADRACE_BENCH_OPTIONS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Where a system answers and what it answers from."""

    port: int
    redis_url: str
    folder: str
    """Of versions: Headrace goes on with it, a rival serves the newest."""
    log_decisions: bool = True
    """Of Headrace and of the bare uvicorn; the other rivals never log any."""
    n_rankers: int = 1
    """Replicas of Headrace; a rival has one scoring process."""
    has_keys: bool = False
    """Whether Headrace wants keys."""


def export(options: Options) -> None:
    """Leave the options to whatever this process starts."""
    os.environ[VARIABLE] = msgspec.json.encode(options).decode()


def inherited() -> Options:
    """The options of a process that a framework started, which leaves no other way to hand them over."""
    return msgspec.json.decode(os.environ[VARIABLE], type=Options)
