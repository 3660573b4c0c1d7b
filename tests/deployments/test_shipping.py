"""What goes to a cluster is the source and settings that can work there; the password lies in one file only."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.config import config_from_dict, read_values
from deployments.deploy_job import missing_dependencies
from deployments.errors import ConfigError
from deployments.shipping import (
    CONFIG_FILE,
    DEPENDENCIES_FILE,
    VISITOR_FILE,
    Visitor,
    config_for_cluster,
    pack,
    unpack,
    unpack_visitor,
)
from features.access import RANK, new_key, new_token

SETTINGS = 'folder = "/shared"\nn_rankers = 2\n[learner]\nbatch_span_s = 5.0\n[schema]\nn_recent = 8\n'
TOKEN = new_token()
VISITOR = Visitor("ann", new_key(TOKEN, "deploy", (RANK,), made_ms=1, until_ms=2))
ENVIRONMENT = {"HEADRACE_REDIS_URL": "redis://:s3cret@192.0.2.20:6379/0"}


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "my.toml").write_text(SETTINGS)
    return read_values(tmp_path / "my.toml", ENVIRONMENT)


@pytest.fixture
def packed(values: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    pack(values, folder, VISITOR)
    return folder


def test_settings_arrive_as_they_were_given(values: dict[str, Any], packed: Path) -> None:
    config = unpack(packed)
    assert config == config_for_cluster(values)
    assert unpack_visitor(packed) == VISITOR
    assert (config.store.url, config.n_rankers, config.schema.n_recent) == (ENVIRONMENT["HEADRACE_REDIS_URL"], 2, 8)


def test_the_source_arrives_whole_and_nothing_else_does(packed: Path) -> None:
    command = [sys.executable, "-c", "import deployments.app as app, features.redis_store as s; print(app.__file__)"]
    shown = subprocess.run(command, cwd=packed, env={"PYTHONPATH": str(packed)}, check=True, capture_output=True)
    assert shown.stdout.decode().strip() == str(packed / "deployments" / "app.py")
    assert (packed / "features" / "functions.lua").exists()
    assert {path.name for path in packed.iterdir()} == {
        *("features", "learners", "deployments"),
        *(CONFIG_FILE, DEPENDENCIES_FILE, VISITOR_FILE),
    }


def test_the_password_lies_in_one_file(packed: Path) -> None:
    holding = [path.name for path in packed.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert holding == [CONFIG_FILE]


def test_the_key_of_who_deploys_stays_with_him(packed: Path) -> None:
    secret = TOKEN.rpartition("_")[2].encode()
    assert [path.name for path in packed.rglob("*") if path.is_file() and secret in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"store": {"url": ""}}, "HEADRACE_REDIS_URL"),
        ({"store": {"url": "redis://localhost:6379"}}, "every node"),
        ({"store": {"url": "redis://u:p@10.0.0.1:6379,127.0.0.1:6379/0"}}, "every node"),
        ({"cluster": {"port": 9000}}, "cluster.yaml"),
        ({"n_rankers": 0}, "n_rankers"),
    ],
)
def test_settings_that_cannot_work_on_several_machines_are_refused(
    values: dict[str, Any], change: dict[str, Any], wrong: str
) -> None:
    config_from_dict(values)
    with pytest.raises(ConfigError, match=wrong):
        config_for_cluster({**values, **change})


def test_what_the_source_needs_and_a_node_lacks_is_named(packed: Path, tmp_path: Path) -> None:
    assert missing_dependencies(packed / DEPENDENCIES_FILE) == []
    assert missing_dependencies(tmp_path / "none") == []
    newer = tmp_path / DEPENDENCIES_FILE
    newer.write_text('[project]\ndependencies = ["numpy>=99", "ray[serve]>=2", "no-such-thing==1"]\n')
    numpy, absent = missing_dependencies(newer)
    assert numpy.startswith("numpy>=99, not 2.") and absent == "no-such-thing==1, not installed"
