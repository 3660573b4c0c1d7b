"""Looks for what is left of a person: in values, in files, and in the memory of a process.

What is looked for are *traces*: the id as text, the hash that stands for it, and the keys of rows that are the
person's alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import msgspec
import numpy as np
import torch

from features.schema import hash64

CHUNK_BYTES: Final = 1 << 24
OVERLAP_BYTES: Final = 256
ATOMS: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, float, bool, type(None))


def traces_of(user: str, values: Iterable[str] = ()) -> dict[str, bytes]:
    """What a person leaves, by what it is.

    Args:
        values: Of attributes and context that nobody else has, as `name=value`; their keys are looked for.
    """
    keys = {f"key of {value}": hash64(value).to_bytes(8, "little") for value in values}
    return {"id": user.encode(), "hash": hash64(user).to_bytes(8, "little"), **keys}


def in_bytes(packed: bytes | memoryview, traces: Mapping[str, bytes]) -> set[str]:
    """Which of the traces are in these bytes."""
    whole = bytes(packed)
    return {name for name, trace in traces.items() if trace in whole}


def in_value(value: Any, traces: Mapping[str, bytes]) -> dict[str, str]:
    """Which of the traces are in all that a value leads to, and where each was first met. Code is not looked at."""
    numbers = {int.from_bytes(trace, "little"): name for name, trace in traces.items() if name != "id"}
    found: dict[str, str] = {}
    waiting, seen = deque([("", value)]), list[Any]()  # what was seen is kept: its id must stay its own
    known = set[int]()
    while waiting:
        where, each = waiting.popleft()
        if isinstance(each, ATOMS) or id(each) in known:
            continue
        known.add(id(each))
        seen.append(each)
        for name in _own_traces(each, traces, numbers):
            found.setdefault(name, f"{where}: {type(each).__name__}")
        waiting.extend((f"{where}{name}", part) for name, part in _parts(each))
    return found


def in_files(folder: Path, traces: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Which of the traces are in the files of a folder, hidden ones too, by their names."""
    found = {
        str(path.relative_to(folder)): in_bytes(path.read_bytes(), traces)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {name: some for name, some in found.items() if some}


def in_process(pid: int, traces: Mapping[str, bytes]) -> dict[str, int]:
    """How often the traces are in the writable memory of a process of the same user; what is freed counts, too."""
    counts = dict.fromkeys(traces, 0)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _writable(pid):
            for chunk in _read(memory, start, end):
                for name, trace in traces.items():
                    counts[name] += chunk.count(trace)
    return {name: n for name, n in counts.items() if n}


def _own_traces(value: Any, traces: Mapping[str, bytes], numbers: Mapping[int, str]) -> set[str]:
    if isinstance(value, str):
        return in_bytes(value.encode("utf-8", "surrogatepass"), traces)
    if isinstance(value, bytes | bytearray | memoryview):
        return in_bytes(value, traces)
    if isinstance(value, int):
        return {numbers[value]} if value in numbers else set()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _in_array(value, traces)
    if isinstance(value, torch.Tensor):
        return in_bytes(value.detach().numpy().tobytes(), traces)
    return set()


def _in_array(value: Any, traces: Mapping[str, bytes]) -> set[str]:
    """Most of what is reserved may never have been used, so not all of it is copied at once."""
    flat, found = np.ascontiguousarray(value).reshape(-1).view(np.uint8), set[str]()
    for start in range(0, len(flat), CHUNK_BYTES):
        found |= in_bytes(flat[start : start + CHUNK_BYTES + OVERLAP_BYTES].tobytes(), traces)
    return found


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield f"[{key!r:.40}]", key
            yield f"[{key!r:.40}]", each
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for number, each in enumerate(value):
            yield f"[{number}]", each
    elif isinstance(value, np.ndarray):
        yield ".base", value.base
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)
    elif not isinstance(value, str | bytes | int):
        for name in {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
        for name, each in getattr(value, "__dict__", {}).items():
            yield f".{name}", each


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    """Parts of memory that a process has written to, but for what it shares with others."""
    place = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, second, *_ = line.split()
        if not first.endswith(":"):
            place = first if second.startswith("rw") and second[3] == "p" else ""
        elif place and first in ("Rss:", "Swap:") and second != "0":
            start, _, end = place.partition("-")
            yield int(start, 16), int(end, 16)
            place = ""


def _read(memory: Any, start: int, end: int) -> Iterator[bytes]:
    """A part of memory in chunks; what cannot be read is left out."""
    while start < end:
        try:
            memory.seek(start)
            chunk = memory.read(min(CHUNK_BYTES, end - start))
        except OSError:
            return
        if not chunk:
            return
        yield chunk
        if start + len(chunk) >= end:
            return
        start += max(len(chunk) - OVERLAP_BYTES, 1)
