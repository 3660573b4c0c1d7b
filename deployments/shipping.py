"""What an operator's machine sends to a cluster to be deployed: the source and the configuration, in one folder.

The configuration may hold the store's password, so it goes as a file: command lines and the environments of jobs can be
seen by whoever may look at the cluster.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from deployments.cluster import ClusterConfig
from deployments.config import REDIS_URL, Config, config_from_dict
from deployments.errors import ConfigError
from features.access import ApiKey

SOURCE: Final = Path(__file__).parents[1]
PACKAGES: Final = ("features", "learners", "deployments")
DEPENDENCIES_FILE: Final = "pyproject.toml"
CONFIG_FILE: Final = "headrace-config.json"
VISITOR_FILE: Final = "headrace-visitor.json"


class Visitor(msgspec.Struct, frozen=True):
    """Who deploys."""

    who: str
    key: ApiKey
    """By which it is seen from outside that the doors are open; its token stays with who deploys."""


def config_for_cluster(values: Mapping[str, Any]) -> Config:
    """Build a configuration that can work on several machines.

    Args:
        values: As `config.read_values` gives them.
    Raises:
        ConfigError: If it cannot, and what to change.
    """
    config = config_from_dict(values)
    if not config.store.url:
        raise ConfigError(f"store.url: empty; a cluster needs a store that every node reaches: set {REDIS_URL}")
    hosts = urlsplit(config.store.url).netloc.rpartition("@")[2].split(",")
    if any(urlsplit(f"//{host}").hostname in {"localhost", "127.0.0.1", "::1"} for host in hosts):
        raise ConfigError("store.url: expected addresses that every node reaches, got this machine's own")
    config.access.at(is_loopback=False)
    if config.cluster != ClusterConfig():
        raise ConfigError("cluster: describes `headrace up` on one machine; a cluster is described by cluster.yaml")
    return config


def pack(values: Mapping[str, Any], folder: Path, visitor: Visitor) -> None:
    """Fill a folder with the source of this process, a configuration, and who deploys it.

    Args:
        folder: Empty, and nobody else's to read.
    """
    for package in PACKAGES:
        shutil.copytree(SOURCE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    if (SOURCE / DEPENDENCIES_FILE).exists():  # not where Headrace was installed as a wheel
        shutil.copy(SOURCE / DEPENDENCIES_FILE, folder / DEPENDENCIES_FILE)
    (folder / CONFIG_FILE).write_bytes(msgspec.json.encode(values))
    (folder / VISITOR_FILE).write_bytes(msgspec.json.encode(visitor))


def unpack(folder: Path) -> Config:
    """Read the configuration that was sent along."""
    return config_from_dict(msgspec.json.decode((folder / CONFIG_FILE).read_bytes()))


def unpack_visitor(folder: Path) -> Visitor:
    """Read who deploys."""
    return msgspec.json.decode((folder / VISITOR_FILE).read_bytes(), type=Visitor)
