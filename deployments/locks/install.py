"""Install Headrace and what the locks name, and nothing else, for the Python that runs this.

    python deployments/locks/install.py [aws|gcp|dev|bench]...

    cpu.lock (else cuda.lock) ─► headrace.lock, those of extras ─► Headrace, from here ─► PREFIX/installed

pip refuses what has another digest. torch comes without CUDA; where the index does not have that build, as the public
one does not for Linux, with it, which is said. Nothing is built but Headrace, by the setuptools of the lock and without
the network. `PREFIX/installed` has the digests of what was installed from, as sha256sum writes them; while they are
right nothing is done, and what did not end is begun again. Needs only pip and the standard library: it brings the rest.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = Path("deployments/locks")
EXTRAS: Final = ("aws", "gcp", "dev", "bench")
_PIP: Final = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
_LOCKED: Final = ("--require-hashes", "--only-binary", ":all:")
_NOT_THERE: Final = "No matching distribution found for torch=="  # another digest is another matter
_LINE: Final = re.compile(r"^[0-9a-f]{64}  \S+$", re.MULTILINE)
_TORCH: Final = ("cpu", "cuda")
_HERE: Final = ("--no-index", "--no-build-isolation", "--editable")


def main(extras: list[str]) -> int:
    """Install the application and extras, unless they are; returns pip's exit status."""
    unknown = set(extras) - set(EXTRAS)
    if unknown:
        print(f"expected some of {', '.join(EXTRAS)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    try:
        install(ROOT, extras, Path(sys.prefix) / "installed")
    except subprocess.CalledProcessError as error:  # pip has said why
        return error.returncode
    return 0


def install(root: Path, extras: Iterable[str], record: Path) -> None:
    """Install a checkout with extras into the environment of this process.

    Args:
        record: Says afterwards what was installed from.
    Raises:
        CalledProcessError: If pip refuses a file, or cannot have one.
    """
    wanted = installed_from(root, extras)
    had = _LINE.findall(record.read_text()) if record.exists() else []
    if not set(wanted) <= set(had):
        record.unlink(missing_ok=True)
        _install_locked(root, ["headrace", *extras])
        subprocess.run([sys.executable, *_PIP, *_HERE, str(root)], check=True)
    named = {_file_of(line) for line in wanted}
    record.write_text("\n".join([*wanted, *(line for line in had if _file_of(line) not in named), ""]))


def installed_from(root: Path, extras: Iterable[str]) -> list[str]:
    """The lines of `PREFIX/installed` for a checkout with extras: SHA-256, two spaces, and a file's name."""
    files = [Path("pyproject.toml"), *(FOLDER / f"{name}.lock" for name in (*_TORCH, "headrace", *extras))]
    return [f"{hashlib.sha256((root / file).read_bytes()).hexdigest()}  {file}" for file in files]


def _file_of(line: str) -> str:
    return line.partition("  ")[2]


def _install_locked(root: Path, names: list[str]) -> None:
    done = _pip(root, ["cpu", *names])
    if _NOT_THERE in done.stderr:
        print("so torch is taken with CUDA, which needs 4 GB", file=sys.stderr)
        done = _pip(root, ["cuda", *names])
    done.check_returncode()


def _pip(root: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    locks = [word for name in names for word in ("--requirement", str(root / FOLDER / f"{name}.lock"))]
    done = subprocess.run([sys.executable, *_PIP, *_LOCKED, *locks], stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, end="", file=sys.stderr)
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
