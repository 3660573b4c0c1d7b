"""What a lock says: one pinned package an entry, with the digest of every file that may be it.

    name==version ; marker \\
        --hash=sha256:… \\
        --hash=sha256:…
        # via who needs it

An entry keeps its text, so that locks are made of entries as they came from the resolver. What is not pinned, or has no
digest, cannot be read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.markers import Marker

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]
APPLICATION: Final = "headrace"
EXTRAS: Final = ("aws", "gcp", "dev", "bench")
CPU: Final = "cpu"
CUDA: Final = "cuda"
NAMES: Final = (APPLICATION, CPU, CUDA, *EXTRAS)
_ENTRY: Final = re.compile(r"^(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))? \\$")
_HASH: Final = re.compile(r"^    --hash=sha256:([0-9a-f]{64})(?: \\)?$")


class LockError(ValueError):
    """A line of a lock that pins nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """One entry of a lock."""

    name: str
    """As the index compares names: lower case, hyphens."""
    version: str
    marker: str
    """Where it is needed (PEP 508); empty: everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of each file that may be installed, in hexadecimal; at least one."""
    text: str

    def is_for(self, environment: dict[str, str] | None = None) -> bool:
        """Say whether it is installed here, or in another environment given by PEP 508's names."""
        return not self.marker or Marker(self.marker).evaluate(environment)


def lock_path(name: str) -> Path:
    """Where the lock of the application ("headrace"), of an extra, or of CUDA lies."""
    return FOLDER / f"{name}.lock"


def read_lock(name: str) -> list[Locked]:
    """Read one of `NAMES`; see `parse`."""
    return parse(lock_path(name).read_text())


def parse(text: str) -> list[Locked]:
    """Read the text of a lock.

    Raises:
        LockError: If a line is neither a comment nor a pinned package nor a digest, or a package has none.
    """
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            entries.append([])
        if entries and line:
            entries[-1].append(line)
        elif line and not line.startswith("#"):
            raise LockError(f"expected a package, got {line!r}")
    return [_entry(lines) for lines in entries]


def _entry(lines: list[str]) -> Locked:
    found = _ENTRY.match(lines[0])
    if not found:
        raise LockError(f"expected `name==version \\` with digests below, got {lines[0]!r}")
    said = [line for line in lines[1:] if not line.lstrip().startswith("#")]
    hashes = [digest[1] for line in said if (digest := _HASH.match(line))]
    if not hashes or len(hashes) != len(said):
        raise LockError(f"{found['name']}: expected digests and nothing else, got {said}")
    return Locked(
        name=found["name"],
        version=found["version"],
        marker=found["marker"] or "",
        hashes=tuple(hashes),
        text="\n".join(lines),
    )


def names(entries: Iterable[Locked]) -> set[str]:
    """The names of entries."""
    return {one.name for one in entries}
