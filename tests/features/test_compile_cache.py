"""Loops that were compiled from one folder are not compiled again from another, as long as the source is equal."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = "from numba import njit\n\n\n@njit(cache=True)\ndef double(x):\n    return {} * x\n"
USE = "import loops; loops.double(1); print(loops.double(3), sum(loops.double.stats.cache_hits.values()))"


def used(folder: Path, factor: str, cache: Path) -> list[str]:
    """What the loop of a folder gives, and how often it was found compiled."""
    folder.mkdir()
    (folder / "loops.py").write_text(SOURCE.format(factor))
    environment = os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}",
        "NUMBA_CACHE_DIR": str(cache),
        "NUMBA_CACHE_LOCATOR_CLASSES": "features.compile_cache.CacheByContent",
    }
    command = [sys.executable, "-c", USE]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


def test_equal_sources_share_what_is_compiled_and_others_do_not(tmp_path: Path) -> None:
    cache = tmp_path / "compiled"
    assert used(tmp_path / "first", "2", cache) == ["6", "0"]
    assert used(tmp_path / "second", "2", cache) == ["6", "1"]
    assert used(tmp_path / "third", "4", cache) == ["12", "0"]
    assert used(tmp_path / "fourth", "2", cache) == ["6", "1"]
