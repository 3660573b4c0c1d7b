"""install.py installs what the locks say, or nothing. With wheels of a few bytes, and without any index."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pip
import pytest

from deployments.locks import install
from tests.deployments import tiny_wheels
from tests.deployments.tiny_wheels import write_wheel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
BACKEND = '[build-system]\nrequires = []\nbuild-backend = "tiny_wheels"\nbackend-path = ["."]\n'
OTHER = "0" * 64


class Newcomer:
    """A checkout with locks of tiny packages, and an environment of its own with nothing in it."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "wheels"
        self.checkout = folder / "checkout"
        self.locks = self.checkout / "deployments" / "locks"
        self.record = folder / "environment" / "installed"
        self._pip = folder / "pip"
        for made in (self.wheels, self.locks, self._pip):
            made.mkdir(parents=True)
        venv.create(folder / "environment", with_pip=False)
        (self._pip / "pip").symlink_to(Path(pip.__file__).parent)
        shutil.copy(install.__file__, self.locks)
        shutil.copy(tiny_wheels.__file__, self.checkout)
        (self.checkout / "pyproject.toml").write_text(BACKEND)
        self.lock("headrace", "application", "1.0", write_wheel(self.wheels, "application", "1.0"))
        self.lock("cpu", "torch", "2.0+cpu", write_wheel(self.wheels, "torch", "2.0+cpu"))
        self.lock("cuda", "torch", "2.0", write_wheel(self.wheels, "torch", "2.0"))
        self.lock("aws", "client", "3.0", write_wheel(self.wheels, "client", "3.0"))

    def lock(self, lock: str, name: str, version: str, digest: str) -> None:
        """Write a lock of one package."""
        (self.locks / f"{lock}.lock").write_text(
            f"{name}=={version} \\\n    --hash=sha256:{digest}\n    # via nothing\n"
        )

    def install(self, *extras: str) -> subprocess.CompletedProcess[str]:
        """Run install.py in the environment."""
        settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        command = [str(self.record.parent / "bin" / "python"), str(self.locks / "install.py"), *extras]
        shell = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self._pip), **settings}
        return subprocess.run(command, env=shell, capture_output=True, text=True, check=False)

    def installed(self) -> set[str]:
        """Names and versions of what is there."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found = (self.record.parent / "lib" / version / "site-packages").glob("*.dist-info")
        return {one.name.removesuffix(".dist-info") for one in found}


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer(tmp_path)


def test_what_the_locks_name_is_installed_and_nothing_is_asked_for_while_they_say_the_same(newcomer: Newcomer):
    done = newcomer.install("aws")
    assert done.returncode == 0, done.stderr
    assert newcomer.installed() == {"application-1.0", "torch-2.0+cpu", "client-3.0", "tiny_project-1.0"}
    assert newcomer.record.read_text().splitlines() == install.installed_from(newcomer.checkout, ["aws"])
    shutil.rmtree(newcomer.wheels)
    assert newcomer.install("aws").returncode == newcomer.install().returncode == 0
    assert set(newcomer.record.read_text().splitlines()) == set(install.installed_from(newcomer.checkout, ["aws"]))


def test_a_changed_lock_is_installed_and_an_extra_is_added_to_what_is_there(newcomer: Newcomer):
    assert newcomer.install().returncode == 0
    newcomer.lock("headrace", "application", "1.1", write_wheel(newcomer.wheels, "application", "1.1"))
    assert newcomer.install("aws").returncode == 0
    assert newcomer.installed() == {"application-1.1", "torch-2.0+cpu", "client-3.0", "tiny_project-1.0"}


def test_an_extra_that_nobody_knows_is_refused(newcomer: Newcomer):
    assert newcomer.install("azure").returncode == 2


def test_a_file_with_another_digest_is_refused(newcomer: Newcomer):
    write_wheel(newcomer.wheels, "application", "1.0", content="print('somebody else')")
    refused = newcomer.install()
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert "application-1.0" not in newcomer.installed()
    assert not newcomer.record.exists()


def test_what_was_refused_is_begun_again(newcomer: Newcomer):
    newcomer.record.write_text("\n".join(install.installed_from(newcomer.checkout, ())))
    newcomer.lock("headrace", "application", "1.0", OTHER)
    assert newcomer.install().returncode == 1
    assert not newcomer.record.exists()


@pytest.mark.parametrize("line", ["application==1.0\n", "application>=1.0 --hash=sha256:" + OTHER + "\n"])
def test_what_has_no_digest_or_is_not_pinned_is_refused(newcomer: Newcomer, line: str):
    (newcomer.locks / "headrace.lock").write_text(line)
    assert newcomer.install().returncode == 1
    assert "application-1.0" not in newcomer.installed()


def test_what_would_have_to_be_built_is_refused(newcomer: Newcomer):
    (newcomer.wheels / "application-1.0-py3-none-any.whl").rename(newcomer.wheels / "application-1.0.zip")
    refused = newcomer.install()
    assert refused.returncode == 1
    assert "No matching distribution found for application==1.0" in refused.stderr


def test_torch_comes_with_cuda_only_where_there_is_no_other_and_that_is_said(newcomer: Newcomer):
    (newcomer.wheels / "torch-2.0+cpu-py3-none-any.whl").unlink()
    done = newcomer.install()
    assert done.returncode == 0
    assert "torch is taken with CUDA" in done.stderr
    assert "torch-2.0" in newcomer.installed()


def test_a_torch_without_cuda_that_has_another_digest_is_refused(newcomer: Newcomer):
    newcomer.lock("cpu", "torch", "2.0+cpu", OTHER)
    refused = newcomer.install()
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert newcomer.installed() == set()
