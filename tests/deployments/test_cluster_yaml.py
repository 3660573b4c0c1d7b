"""`cluster.yaml` is what `ray up` accepts, with the Serve settings of `deployments.cluster`. No machine is asked."""

import ipaddress
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from deployments.cluster import LOOPBACK, ClusterConfig, ray_environment, serve_environment

ROOT = Path(__file__).parents[2]
ENVIRONMENT = "environment.sh"
# Ports and folders of one machine's run, and what is only right where the cluster is one machine.
OF_ONE_MACHINE = re.compile(r"_PORT$|BINARY_PATH|CONFIG_FILE_LOC|SOCKET_PATH|SERVER_STATE|DRAINING|CLUSTER$|NBTHREAD")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` sees it, its defaults filled in."""
    return prepare_config(written)


def exported(config: dict[str, Any]) -> dict[str, str]:
    """The variables of the environment file that the set-up writes."""
    (script,) = [command for command in config["setup_commands"] if ENVIRONMENT in command]
    words = [word for line in script.splitlines() if line.startswith("export ") for word in line.split()[1:]]
    return dict(word.split("=", 1) for word in words)


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


@pytest.mark.parametrize("which", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_is_started_under_the_environment(written: dict[str, Any], which: str):
    commands = written[which]
    assert "ray stop" in commands[0]
    assert "ray start" in commands[-1]
    assert all(command.startswith(f"source ~/headrace/{ENVIRONMENT};") for command in commands)


def test_serve_settings_are_those_of_one_machine(written: dict[str, Any]):
    """A setting that is added, removed or changed in these environments must be considered here too."""
    ours = ray_environment(LOOPBACK) | serve_environment(Path("folder"), ClusterConfig())
    wanted = {name: value for name, value in ours.items() if not OF_ONE_MACHINE.search(name)}
    own = {"PATH", "PYTHONDONTWRITEBYTECODE"}
    given = {name: value for name, value in exported(written).items() if name not in own}
    assert {name: value for name, value in given.items() if not name.startswith("RAY_health_check_")} == wanted


def test_commands_are_sound_shell(prepared: dict[str, Any]):
    names = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "initialization_commands")
    for command in [command for name in names for command in prepared[name]]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


def test_the_environment_file_is_written_whole(written: dict[str, Any], tmp_path: Path):
    """The set-up command run with another home; a here-document loses its end easily when YAML indents it."""
    (tmp_path / "headrace").mkdir()
    (script,) = [command for command in written["setup_commands"] if ENVIRONMENT in command]
    shell = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", "-c", f"true && ({script})"], check=True, env=shell)  # as Ray wraps it
    show = f"source {tmp_path}/headrace/{ENVIRONMENT} && env"
    seen = subprocess.run(["bash", "-c", show], check=True, env=shell, capture_output=True, text=True).stdout
    for name, value in exported(written).items():
        if "$" not in value:
            assert f"{name}={value}\n" in seen


def test_it_knows_machines_and_no_model(written: dict[str, Any]):
    text = (ROOT / "cluster.yaml").read_text().lower()
    assert not re.search(r"learning_rate|batch_size|half_life|embedding_rate|n_negatives", text)
    assert set(written) <= {
        *("cluster_name", "provider", "auth", "file_mounts", "rsync_exclude", "setup_commands"),
        *("head_start_ray_commands", "worker_start_ray_commands"),
    }
