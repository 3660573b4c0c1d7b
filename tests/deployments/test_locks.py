"""The locks are what `pyproject.toml` asks for, whole and with digests; and what is installed here is what they say."""

import importlib.metadata
import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from deployments.locks.reading import (
    APPLICATION,
    CPU,
    CUDA,
    EXTRAS,
    NAMES,
    ROOT,
    Locked,
    LockError,
    lock_path,
    names,
    parse,
    read_lock,
)
from deployments.locks.resolve import TORCH_CPU, cpu_builds

DIGEST, OTHER = "a" * 64, "b" * 64
BASE = (APPLICATION, CPU)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(*locks: str) -> list[Locked]:
    return [one for lock in locks for one in read_lock(lock)]


def comparable(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", [APPLICATION, *EXTRAS])
def test_what_pyproject_pins_is_in_the_lock_in_that_version(extra: str):
    project = pyproject()["project"]
    of_extra = project["optional-dependencies"].get(extra, project["dependencies"])
    wanted = {comparable(one.name): one for one in map(Requirement, of_extra)}
    found = {one.name: Version(one.version) for one in locked(*BASE, extra)}
    assert {name: str(found[name].public) for name in wanted} == {
        name: str(one.specifier).removeprefix("==") for name, one in wanted.items()
    }


def test_what_builds_headrace_is_in_the_lock():
    pins = {f"{one.name}=={one.version}" for one in locked(APPLICATION)}
    assert set(pyproject()["build-system"]["requires"]) <= pins


def test_locks_agree_on_versions():
    """So that any of them go together."""
    versions: dict[str, set[str]] = {}
    for one in locked(*NAMES):
        versions.setdefault(one.name, set()).add(Version(one.version).public)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("lock", [*EXTRAS, CUDA])
def test_an_extra_has_only_what_it_adds(lock: str):
    assert names(read_lock(lock)) & names(read_lock(APPLICATION)) == set()


@pytest.mark.parametrize("lock", NAMES)
def test_no_lock_says_where_to_get_something(lock: str):
    """That is the affair of whoever installs; the digest is the same everywhere."""
    text = lock_path(lock).read_text()
    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]


@pytest.mark.parametrize("lock", [*BASE, "dev", "bench", "aws", "gcp"])
def test_what_is_installed_is_what_the_lock_says(lock: str):
    """What of an extra is not installed here at all is left out; the application and [dev] are here."""
    for one in (one for one in read_lock(lock) if one.is_for()):
        try:
            found = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            assert lock == "bench", f"{one.name} is locked and not installed: `make` installs it"
            continue
        if one.name == "torch":
            assert found in {entry.version for entry in locked(CPU, CUDA) if entry.name == "torch"}
        else:
            assert (one.name, found) == (one.name, one.version)


def test_what_locked_packages_need_is_locked():
    """As their metadata say here; a package that needs more would be found missing when it is imported."""
    here = {one.name: one for one in locked(*BASE, "dev") if one.is_for()}
    asked = {
        comparable(one.name)
        for name in here
        for one in map(Requirement, importlib.metadata.requires(name) or [])
        if not one.marker or one.marker.evaluate({"extra": ""})
    }
    if importlib.metadata.version("torch") in {one.version for one in locked(CPU)}:
        assert asked - set(here) == set()
    else:
        assert asked - set(here) <= names(locked(CUDA))


def test_what_uv_is_told_that_torch_needs_is_what_its_cpu_build_needs():
    (told,) = pyproject()["tool"]["uv"]["dependency-metadata"]
    (cpu, *_) = locked(CPU)
    assert f"{told['version']}+cpu" == cpu.version
    if importlib.metadata.version("torch") != cpu.version:
        pytest.skip("the torch that is installed here is not its CPU build")
    said = importlib.metadata.requires("torch") or []
    assert {Requirement(one) for one in told["requires-dist"]} == {
        Requirement(one) for one in said if "extra ==" not in one
    }


def test_an_entry_is_read_whole():
    (one,) = parse(f"# said first\nx==1.0 ; sys_platform == 'linux' \\\n    --hash=sha256:{DIGEST}\n    # via y\n")
    assert (one.name, one.version, one.marker, one.hashes) == ("x", "1.0", "sys_platform == 'linux'", (DIGEST,))
    assert [one.is_for({"sys_platform": system}) for system in ("linux", "darwin")] == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "x==1.0\n",
        "x==1.0 \\\n    # via y\n",
        f"x>=1.0 \\\n    --hash=sha256:{DIGEST}\n",
        f"x @ file:///x.whl \\\n    --hash=sha256:{DIGEST}\n",
        "x==1.0 \\\n    --hash=sha256:abc\n",
        f"x==1.0 \\\n    --hash=md5:{DIGEST}\n",
        f"--index-url somewhere\nx==1.0 \\\n    --hash=sha256:{DIGEST}\n",
        f"    --hash=sha256:{DIGEST}\n",
    ],
)
def test_what_is_not_pinned_by_a_digest_cannot_be_read(text: str):
    with pytest.raises(LockError):
        parse(text)


def test_torch_without_cuda_is_its_cpu_build_on_linux_and_the_usual_one_elsewhere():
    (torch,) = parse(f"torch==2.0 \\\n    --hash=sha256:{DIGEST}\n    # via headrace\n")
    linux, elsewhere = cpu_builds(torch, f"{OTHER}  torch-2.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl\n")
    assert (linux.version, linux.hashes, linux.marker) == ("2.0+cpu", (OTHER,), "sys_platform == 'linux'")
    assert (elsewhere.version, elsewhere.hashes, elsewhere.marker) == ("2.0", (DIGEST,), "sys_platform != 'linux'")


def test_a_list_of_cpu_builds_of_another_version_is_refused():
    (torch,) = parse(f"torch==2.1 \\\n    --hash=sha256:{DIGEST}\n")
    with pytest.raises(LockError, match=r"torch 2\.1"):
        cpu_builds(torch, TORCH_CPU.read_text())
