"""Tiny streams for rivals, and where the real ones are."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.rankers.stream import Stream, as_stream

DATA = Path(__file__).parents[3] / "shared" / "data"


def clicks(*rows: tuple[int, str, str], **context: list[str]) -> pa.Table:
    """Events of (ts_ms, session, item); a session is a person."""
    ts_ms, sessions, items = zip(*rows, strict=True)
    return pa.table({"ts_ms": ts_ms, "type": ["click"] * len(rows), "user": sessions, "item": items, **context})


def asks(*rows: tuple[int, str, list[str]]) -> pa.Table:
    """Queries of (ts_ms, session, candidates)."""
    ts_ms, sessions, candidates = zip(*rows, strict=True)
    return pa.table({"ts_ms": ts_ms, "user": sessions, "candidates": candidates})


def tiny(events: pa.Table, *queries: tuple[int, str, list[str]]) -> Stream:
    """A stream of both."""
    return as_stream(events, asks(*queries))


def habit(n_sessions: int, **context: Any) -> pa.Table:
    """Every session goes from one of four items to that item's own successor: a to A, b to B, …"""
    rows = []
    for session in range(n_sessions):
        item = "abcd"[session % 4]
        rows += [(20_000 * session, f"s{session}", item), (20_000 * session + 10_000, f"s{session}", item.upper())]
    return clicks(*rows, **context)
