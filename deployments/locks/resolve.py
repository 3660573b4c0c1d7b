"""Make the locks from `pyproject.toml`: `make lock`; `make lock ARGS=--upgrade` takes what is new.

    pyproject.toml ─► everything at once ─► the application, but for torch ─► headrace.lock
                      (so versions agree)   what an extra adds ─► dev.lock, aws.lock, gcp.lock, bench.lock
                                            torch without CUDA ─► cpu.lock; with what CUDA adds ─► cuda.lock

Versions that a lock has are kept as long as `pyproject.toml` allows. Resolved is for Python 3.11 and newer, on Linux
and macOS. The public index has torch for Linux with CUDA only, gigabytes that Headrace has no use for: so
`pyproject.toml` tells uv what the CPU build needs, and torch-cpu.txt which files it is, on PyTorch's own index.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any, Final

from deployments.locks.reading import (
    APPLICATION,
    CPU,
    CUDA,
    EXTRAS,
    FOLDER,
    NAMES,
    ROOT,
    Locked,
    LockError,
    lock_path,
    names,
    parse,
)

TORCH_CPU: Final = FOLDER / "torch-cpu.txt"
_WHAT: Final = {
    APPLICATION: "What Headrace needs, but for torch, and what builds it.",
    CPU: "torch without CUDA.",
    CUDA: "torch with CUDA, and what that needs besides headrace.lock.",
}
_UV: Final = (
    "pip",
    "compile",
    "--quiet",
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-header",
)
_ONE_VERSION: Final = (
    "--fork-strategy",
    "fewest",
)  # of a package for all Pythons: what is tested is what everybody has
_OURS: Final = re.compile(r"    #( via|  ) -c ")  # "via" the file of `whole`, which is gone afterwards
_PYTHONS: Final = ("3.11.0", "3.11.9", "3.12.0", "3.13.0", "3.14.0")
_MACHINES: Final = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64"))


def main(options: list[str]) -> int:
    """Write all locks; `options` are uv's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.lock"
        whole.write_text("".join(path.read_text() for path in map(lock_path, NAMES) if path.exists()))
        _compile(project, EXTRAS, options, output=whole)
        agreed = ["--constraints", str(whole)]
        resolved = {APPLICATION: _compile(project, (), agreed)}
        resolved |= {extra: _compile(project, (extra,), agreed) for extra in EXTRAS}
        (torch,) = (one for one in resolved[APPLICATION] if one.name == "torch")
        resolved[CUDA] = _uv(["-", "--no-config", *agreed], f"torch=={torch.version}")
    application = names(resolved[APPLICATION])
    _write(APPLICATION, [one for one in resolved[APPLICATION] if one is not torch])
    _write(CPU, cpu_builds(torch))
    _write(CUDA, [one for one in resolved[CUDA] if one.name == "torch" or one.name not in application])
    for extra in EXTRAS:
        _write(extra, [one for one in resolved[extra] if one.name not in application])
    return 0


def _compile(
    project: dict[str, Any], extras: Iterable[str], options: list[str], output: Path | None = None
) -> list[Locked]:
    """Resolve the application, some of its extras, and what builds it."""
    chosen = [word for extra in extras for word in ("--extra", extra)]
    written = ["--output-file", str(output)] if output else []
    return _uv(["pyproject.toml", "-", *chosen, *written, *options], "\n".join(project["build-system"]["requires"]))


def _uv(arguments: list[str], requirements: str) -> list[Locked]:
    command = [str(Path(sys.executable).with_name("uv")), *_UV, *_ONE_VERSION, *arguments]
    done = subprocess.run(command, cwd=ROOT, input=requirements, stdout=subprocess.PIPE, text=True, check=True)
    return [one for one in parse(done.stdout) if _is_somewhere(one)]


def _is_somewhere(entry: Locked) -> bool:
    """Whether there is a system that Headrace is for where an entry is installed."""
    return any(
        entry.is_for(
            {
                **{"python_full_version": python, "python_version": python.rpartition(".")[0]},
                **{"sys_platform": system, "platform_system": system.capitalize(), "platform_machine": machine},
            }
        )
        for python, (system, machine) in product(_PYTHONS, _MACHINES)
    )


def _write(name: str, entries: list[Locked]) -> None:
    lines = [line for one in entries for line in one.text.splitlines() if not _OURS.match(line)]
    what = _WHAT.get(name, f"What headrace[{name}] needs besides headrace.lock.")
    lock_path(name).write_text("\n".join([f"# {what}", "# Made by `make lock` from pyproject.toml.", *lines, ""]))
    print(f"{lock_path(name).relative_to(ROOT)}: {len(entries)} packages")


def cpu_builds(torch: Locked, listed: str | None = None) -> list[Locked]:
    """Make of torch as the public index has it what is installed where CUDA is not wanted.

    Args:
        listed: Digests and names of the files for Linux, as sha256sum prints them; by default torch-cpu.txt.
    Raises:
        LockError: If they are of another version.
    """
    lines = [line.split() for line in (listed or TORCH_CPU.read_text()).splitlines()]
    others = [file for _, file in lines if not file.startswith(f"torch-{torch.version}+cpu-")]
    if others:
        raise LockError(f"{TORCH_CPU.name}: expected files of torch {torch.version}, got {others[0]}")
    first, *rest = torch.text.splitlines()
    digests = " \\\n".join(f"    --hash=sha256:{digest}" for digest, _ in sorted(lines))
    of_linux = f"torch=={torch.version}+cpu ; sys_platform == 'linux' \\\n{digests}"
    return parse("\n".join([of_linux, first.replace(" \\", " ; sys_platform != 'linux' \\"), *rest]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
