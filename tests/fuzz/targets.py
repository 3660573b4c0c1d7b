"""What reads bytes that come from outside of a process, each as a target: bytes in, nothing out.

The law of each: for any bytes it returns, or raises one of the errors that it documents; it takes no more memory than
`FLOOR_BYTES` and `PER_BYTE` times what came in, and no more than `MOST_S` of processor time.

Where a checksum or a fixed header stands in front, the target puts the right one there: who means harm can, too, and
without it nothing behind is ever reached.
"""

import asyncio
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

FLOOR_BYTES: Final = 8 << 20
PER_BYTE: Final = 512
MOST_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """One decoder."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    """Real encodings."""
    errors: tuple[type[Exception], ...]
    """What it documents."""


def judge(target: Target, data: bytes) -> bool:
    """Try one input; whether it was read.

    Raises:
        AssertionError: If it took too long or too much.
        Exception: Any other than what is documented.
    """
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    began_s, is_read = time.process_time(), True
    try:
        target.run(data)
    except target.errors:
        is_read = False
    took_s = time.process_time() - began_s
    assert took_s <= MOST_S, f"{target.name}: {took_s:.1f} s for {len(data)} bytes"
    _, peak = tracemalloc.get_traced_memory()
    limit = FLOOR_BYTES + PER_BYTE * len(data)
    assert peak - before <= limit, f"{target.name}: {peak - before:,} bytes for {len(data):,}, expected {limit:,}"
    return is_read


def run_async(awaitable: Any) -> Any:
    """The result of something that waits for nothing outside."""
    return _loop.run_until_complete(awaitable)


_loop: Final = asyncio.new_event_loop()
