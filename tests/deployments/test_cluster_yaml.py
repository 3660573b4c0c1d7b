"""`cluster.yaml` is what `ray up` accepts, and its commands do what they say. On the lab tests/cluster runs it."""

import ipaddress
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.operating import edited

ROOT = Path(__file__).parents[2]
NODES = "192.0.2.10 192.0.2.11 192.0.2.12"
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` sees it, its defaults filled in."""
    return prepare_config(written)


def test_ray_accepts_it(prepared: dict[str, Any]):
    validate_config(prepared)


def test_every_worker_is_started(written: dict[str, Any], prepared: dict[str, Any]):
    (node,) = prepared["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(written["provider"]["worker_ips"])


def test_addresses_are_documentation_addresses(written: dict[str, Any]):
    provider = written["provider"]
    for address in [provider["head_ip"], *provider["worker_ips"]]:
        assert ipaddress.ip_address(address) in ipaddress.ip_network("192.0.2.0/24")


def test_every_mounted_source_is_in_the_repository(written: dict[str, Any]):
    for target, source in written["file_mounts"].items():
        if not source.startswith("~"):
            assert (ROOT / source).exists(), f"{target} is mounted from {source}"


def test_mounted_packages_are_those_that_are_installed(written: dict[str, Any]):
    wanted = {"features", "learners", "deployments", "pyproject.toml", "README.md"}
    assert {source for source in written["file_mounts"].values() if not source.startswith("~")} == wanted


def test_commands_are_sound_shell(prepared: dict[str, Any]):
    names = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "initialization_commands")
    for command in [command for name in names for command in prepared[name]]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


class Home:
    """A home folder whose programs only write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        self._bin = folder / "headrace" / ".venv" / "bin"
        self._bin.mkdir(parents=True)
        (folder / "headrace" / "node").mkdir()
        (folder / "headrace" / "node" / "environment.sh").write_text(f"export PATH={self._bin}:$PATH\n")
        (folder / "headrace" / "pyproject.toml").write_text("first")
        for name in ("python", "headrace", "ray"):
            self.write(name, "true")

    def write(self, name: str, script: str) -> None:
        """Let a program do this from now on, besides writing down how it was called."""
        program = self._bin / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self._calls}\n{script}\n')
        program.chmod(0o700)

    def run(self, commands: list[str]) -> tuple[int, list[str]]:
        """Run commands as Ray does, until one fails; returns the last status, and which programs were called."""
        self._calls.write_text("")
        status = 0
        for command in commands:
            wrapped = f"source ~/.bashrc; export RAY_HEAD_IP=192.0.2.10 && ({command})"
            shell = {"HOME": str(self.folder), "PATH": "/usr/bin:/bin"}
            (self.folder / ".bashrc").touch()
            status = subprocess.run(["bash", "-c", wrapped], env=shell, check=False).returncode
            if status:
                break
        return status, self._calls.read_text().splitlines()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize("which", START_COMMANDS)
def test_ray_is_started_after_what_ran_before_was_stopped(written: dict[str, Any], home: Home, which: str):
    home.write("headrace", '[ "$2" != --joined ]')
    status, calls = home.run(written[which])
    assert status == 0
    stopped, started = calls.index("ray stop --force"), len(calls) - 1
    assert calls[started].startswith("ray start ")
    assert stopped < started


@pytest.mark.parametrize("which", START_COMMANDS)
def test_a_node_that_cannot_be_made_is_not_started(written: dict[str, Any], home: Home, which: str):
    home.write("headrace", "exit 3")
    status, calls = home.run(written[which])
    assert status == 3
    assert not any(call.startswith("ray start") for call in calls)


def test_a_worker_that_belongs_to_the_head_is_left_alone(written: dict[str, Any], home: Home):
    assert home.run(written["worker_start_ray_commands"]) == (0, ["headrace node --joined 192.0.2.10:6379"])


def test_setting_up_again_installs_only_what_has_changed(written: dict[str, Any], home: Home):
    install = f"python -m pip install --quiet --editable {home.folder}/headrace"
    home.write("python", "false")
    assert home.run(written["setup_commands"]) == (1, [install])
    home.write("python", "true")
    assert home.run(written["setup_commands"]) == (0, [install])
    assert home.run(written["setup_commands"]) == (0, [])
    (home.folder / "headrace" / "pyproject.toml").write_text("second")
    assert home.run(written["setup_commands"]) == (0, [install])
    assert (home.folder / ".bashrc").read_text().count("export") == 1


def test_a_newcomer_edits_addresses_and_the_user(written: dict[str, Any]):
    """So the lab (tests/cluster) runs this file, and nothing else."""
    addresses = {"h1": "10.0.0.1", "h2": "10.0.0.2", "h3": "10.0.0.3"}
    ours = yaml.safe_load(edited((ROOT / "cluster.yaml").read_text(), addresses))
    assert ours.pop("provider") == {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
    assert ours["auth"].pop("ssh_user") == "root"
    theirs = {name: value for name, value in written.items() if name != "provider"}
    theirs["auth"] = {name: value for name, value in written["auth"].items() if name != "ssh_user"}
    for name in START_COMMANDS:
        theirs[name] = [command.replace(NODES, " ".join(addresses.values())) for command in theirs[name]]
    assert ours == theirs


def test_every_node_and_no_other_one_reaches_a_nodes_ports(written: dict[str, Any]):
    provider = written["provider"]
    assert NODES.split() == [provider["head_ip"], *provider["worker_ips"]]
    for name in START_COMMANDS:
        assert sum(command.count(f"HEADRACE_PEERS='{NODES}'") for command in written[name]) == 1


def test_it_knows_machines_and_no_model(written: dict[str, Any]):
    text = (ROOT / "cluster.yaml").read_text().lower()
    assert not re.search(r"learning_rate|batch_size|half_life|embedding_rate|n_negatives", text)
    assert set(written) <= {
        *("cluster_name", "provider", "auth", "file_mounts", "rsync_exclude", "setup_commands"),
        *("head_start_ray_commands", "worker_start_ray_commands"),
    }
