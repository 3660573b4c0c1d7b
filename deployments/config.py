"""The one root configuration; the only reader of environment and TOML.

    [schema]   features.schema.Schema           [rank]      deployments.ranking.RankConfig
    [store]    features.connect.StoreConfig     [learner]   learners.online.LearnerConfig
    [policy]   learners.policies.PolicyConfig   [cluster]   deployments.cluster.ClusterConfig
    [judge]    learners.judge.JudgeConfig       [autoscale] deployments.autoscaling.AutoscaleConfig
    [sources]  features.sources.SourceRules         [access]    deployments.gate.AccessConfig

Every table and every field has a default; an unknown one is an error that names it.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from deployments.autoscaling import AutoscaleConfig
from deployments.cluster import ClusterConfig
from deployments.environment import LOOPBACK
from deployments.errors import ConfigError
from deployments.gate import AccessConfig
from deployments.ranking import RankConfig
from features.connect import StoreConfig
from features.errors import SchemaError
from features.event_files import without_account
from features.schema import Schema, schema_from_dict
from features.sources import SourceRules
from learners.checkpoints import N_KEPT
from learners.judge import JudgeConfig
from learners.online import LearnerConfig
from learners.policies import PolicyConfig
from learners.publisher import EDITION_BYTES

REDIS_URL = "HEADRACE_REDIS_URL"
CAPTURE = "HEADRACE_CAPTURE"


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveConfig:
    """What replicas take over while they run."""

    rank: RankConfig
    policy: PolicyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaConfig:
    """What a serving replica needs to know."""

    store: StoreConfig
    schema: Schema
    live: LiveConfig
    """To start with."""
    late_s: float
    """An answer that takes longer counts as late; see `AutoscaleConfig`."""
    access: AccessConfig
    capture_folder: str = ""
    """Test hook: where to write the inputs of every batch; empty: nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that can be set."""

    schema: Schema = field(default_factory=Schema)
    store: StoreConfig = field(default_factory=lambda: StoreConfig(url=""))
    """An empty url means a private server that lives and dies with the run."""
    rank: RankConfig = field(default_factory=RankConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    sources: SourceRules = field(default_factory=SourceRules)
    access: AccessConfig = field(default_factory=AccessConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    autoscale: AutoscaleConfig = field(default_factory=AutoscaleConfig)
    n_rankers: int = 1
    """Replicas of the Ranker; one fills a core. On a cluster: on each node that serves."""
    n_events: int = 1
    """Replicas of Events. On a cluster: on each node that serves."""
    offer_s: float = 0.5
    """Seconds between versions."""
    edition_bytes: int = EDITION_BYTES
    """Of embedding rows in what replicas get with one version; those that moved most come first, others later."""
    keep_versions: int = N_KEPT
    """Whole versions that are kept durably, at most, thinner the older they are: to those one can go back. Each has all
    embeddings and item rows."""
    keep_log_s: float = 3600.0
    """Log time kept although everybody has read it: a learner that restarts reads the attribution window again."""
    check_skew: int = 100
    """Of so many logged decisions one is made again from the log and compared, all the time; 0: none."""
    folder: str = ""
    """Folder or bucket URL of durable versions; empty: in the store, where every node finds them (with a private store:
    in the run's own folder)."""
    capture_folder: str = ""
    """Test hook, see `ReplicaConfig`."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("n_rankers", self.n_rankers, 1, 1024),
            ("n_events", self.n_events, 1, 1024),
            ("offer_s", self.offer_s, 0.1, 3600),
            ("keep_versions", self.keep_versions, 2, 24),
            ("edition_bytes", self.edition_bytes, 1024, 2**31),
            ("keep_log_s", self.keep_log_s, 0, 1e9),
            ("check_skew", self.check_skew, 0, 2**31),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {value}")
        self.access.at(is_loopback=self.is_loopback)
        if 0 < self.autoscale.max_rankers < self.n_rankers:
            raise ConfigError(f"max_rankers: expected n_rankers or more, {self.n_rankers}, or 0")
        if self.keep_log_s < self.learner.join.attribution_s:
            window_s = self.learner.join.attribution_s
            raise ConfigError(
                f"keep_log_s: expected learner.join.attribution_s or more, {window_s}; got {self.keep_log_s}"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the doors of `headrace up`."""
        return self.cluster.host == LOOPBACK

    @property
    def replica(self) -> ReplicaConfig:
        """The part a serving replica gets."""
        return ReplicaConfig(
            store=self.store,
            schema=self.schema,
            live=LiveConfig(rank=self.rank, policy=self.policy),
            late_s=self.autoscale.late_ms / 1000.0,
            access=self.access,
            capture_folder=self.capture_folder,
        )


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a TOML file (none: all defaults) and the environment.

    Raises:
        ConfigError: Naming the unknown field, or the one of the wrong type or out of range.
    """
    return config_from_dict(read_values(path, environment))


def read_values(path: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Read the same as nested tables, not judged yet, so that they can be sent elsewhere.

    Raises:
        ConfigError: If the file is no TOML.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
    values.setdefault("store", {}).setdefault("url", environment.get(REDIS_URL, ""))
    values.setdefault("capture_folder", environment.get(CAPTURE, ""))
    return values


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build a configuration from nested tables.

    Raises:
        ConfigError: As `load_config`.
    """
    tables: dict[str, Any] = {}
    kinds = {
        "store": StoreConfig,
        "rank": RankConfig,
        "policy": PolicyConfig,
        "learner": LearnerConfig,
        "judge": JudgeConfig,
        "sources": SourceRules,
        "access": AccessConfig,
        "cluster": ClusterConfig,
        "autoscale": AutoscaleConfig,
    }
    for name, value in values.items():
        if name not in Config.__dataclass_fields__:
            raise ConfigError(f"{name}: unknown; expected one of {', '.join(Config.__dataclass_fields__)}")
        try:
            if name == "schema":
                tables[name] = schema_from_dict(value)
            elif name in kinds:
                tables[name] = _table(name, value, kinds[name])
            else:
                tables[name] = value
        except (msgspec.ValidationError, SchemaError) as error:
            raise ConfigError(f"{name}: {error}") from None
    return Config(**tables)


def _table(name: str, value: Mapping[str, Any], kind: type[Any]) -> Any:
    _refuse_unknown(name, value, kind)
    return msgspec.convert(value, kind)


def _refuse_unknown(name: str, value: Mapping[str, Any], kind: type[Any]) -> None:
    unknown = set(value) - set(kind.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"{name}.{min(unknown)}: unknown; expected one of {', '.join(kind.__dataclass_fields__)}")
    hints = get_type_hints(kind)
    for inner, table in value.items():
        if is_dataclass(hints[inner]) and isinstance(table, Mapping):
            _refuse_unknown(f"{name}.{inner}", table, hints[inner])


def with_store(config: Config, **changes: Any) -> Config:
    """The same configuration with other store settings."""
    return replace(config, store=replace(config.store, **changes))


def as_dict(config: Config) -> dict[str, Any]:
    """The effective configuration as plain values, for the log and for snapshots; without secrets."""
    values = asdict(config)
    values["store"]["url"] = config.store.url.rpartition("@")[2]
    values["store"]["archive"], values["folder"] = map(without_account, (config.store.archive, config.folder))
    return values
