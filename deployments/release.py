"""What a deployment's replicas and actors are made of: two of the same release need not take each other's place."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from deployments.config import Config
from deployments.shipping import PACKAGES, SOURCE

SUFFIXES: Final = (".py", ".lua")


def release_of(config: Config, root: Path | None = None) -> str:
    """Name the source and every setting that is not taken over while things run.

    Args:
        root: Folder of the packages; by default that of the running source.
    """
    name = hashlib.sha256(msgspec.json.encode(_without_live(config)))
    for path in _source(root or SOURCE):
        name.update(path.name.encode())
        name.update(path.read_bytes())
    return name.hexdigest()[:16]


def _without_live(config: Config) -> Config:
    """What is left when settings are put to their defaults that replicas, or Serve, follow as they change."""
    plain = Config()
    return replace(
        config,
        rank=plain.rank,
        policy=plain.policy,
        autoscale=replace(plain.autoscale, late_ms=config.autoscale.late_ms),
        n_rankers=1,
        n_events=1,
    )


def _source(root: Path) -> Iterable[Path]:
    for package in PACKAGES:
        yield from sorted(path for path in (root / package).rglob("*") if path.suffix in SUFFIXES)
