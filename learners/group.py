"""Starting the learning side: hub, projector and learners, by name, once per cluster.

The actors are detached and restart by themselves for ever; whoever starts a second time gets the running ones.
"""

from dataclasses import dataclass
from typing import Any

import ray

from features.connect import StoreConfig
from features.schema import Schema
from learners.actor import Learner, learner_name
from learners.hub import HUB_NAME, ModelHub
from learners.online import LearnerConfig
from learners.projector import PROJECTOR_NAME, Projector


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupConfig:
    """How the learning side runs."""

    folder: str = ""
    """Folder or bucket URL of durable commits; empty: in the store."""
    offer_s: float = 1.0
    """Seconds between versions."""
    keep_log_s: float = 3600.0
    """Log time kept although everybody has read it, for rereading and for debugging."""


@dataclass(frozen=True, slots=True)
class Group:
    """Handles of the actors."""

    hub: Any
    projector: Any
    learners: list[Any]


def start_group(store: StoreConfig, schema: Schema, learner: LearnerConfig, config: GroupConfig) -> Group:
    """Start what is not running yet."""
    hub = _named(ModelHub, HUB_NAME).remote(store, schema, config.folder)
    projector = _named(Projector, PROJECTOR_NAME).remote(store, schema, config.keep_log_s)
    learners = [
        _named(Learner, learner_name(seat)).remote(store, schema, learner, config.offer_s, seat=seat)
        for seat in range(learner.rounds.n_learners)
    ]
    ray.get([actor.status.remote() for actor in (hub, projector, *learners)])
    return Group(hub, projector, learners)


def _named(actor: Any, name: str) -> Any:
    return actor.options(name=name, lifetime="detached", get_if_exists=True)
