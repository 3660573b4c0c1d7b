"""Starting the learning side: hub, judge, projector and learners, by name, once per cluster.

The actors are detached and restart by themselves for ever, spread over the nodes that have what they ask for, so that
one which is lost takes as little along as can be. Whoever starts a second time gets the running ones, if they are of
the same release; others are ended, one after the other, and a new one begins from what is durable. Replicas keep
answering meanwhile with the weights they have.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from features.connect import StoreConfig
from features.schema import Schema
from features.sources import SourceRules
from learners.actor import Learner, learner_name
from learners.checkpoints import N_KEPT
from learners.hub import HUB_NAME, HubConfig, ModelHub
from learners.judge import JudgeConfig
from learners.judge_actor import JudgeActor
from learners.online import LearnerConfig
from learners.projector import PROJECTOR_NAME, Projector
from learners.publisher import EDITION_BYTES
from learners.remote_judge import JUDGE_NAME

ASK_S: Final = 10.0  # an actor that does not say in this time what it is made of is replaced
END_S: Final = 30.0  # a killed one is gone after a fraction of a second
POLL_S: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupConfig:
    """How the learning side runs."""

    folder: str = ""
    """Folder or bucket URL of durable commits; empty: in the store."""
    offer_s: float = 0.5
    """Seconds between versions."""
    edition_bytes: int = EDITION_BYTES
    """Of embedding rows in what replicas get at once."""
    keep_versions: int = N_KEPT
    """Whole versions that are kept durably, at most."""
    export: Any = None
    """Hands the hub's metrics out; see `HubConfig`."""
    export_agreement: Any = None
    """Hands the judge's figures of sources out; see `JudgeActor`."""
    sources: SourceRules = field(default_factory=SourceRules)
    """Of what pipelines push; and whom the judge trusts."""
    release: str = ""
    """What the actors are made of; running ones of another release are replaced."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What of a node every actor asks Ray for: it says where they may run."""


@dataclass(frozen=True, slots=True)
class Group:
    """Handles of the actors."""

    hub: Any
    judge: Any
    projector: Any
    learners: list[Any]


def start_group(
    store: StoreConfig, schema: Schema, learner: LearnerConfig, judge: JudgeConfig, config: GroupConfig
) -> Group:
    """Start what is not running yet, and replace what is of another release."""
    _end_learners_from(learner.rounds.n_learners)
    publishing = HubConfig(
        folder=config.folder,
        edition_bytes=config.edition_bytes,
        n_kept=config.keep_versions,
        max_held=judge.max_held,
        export=config.export,
    )
    hub = started(ModelHub, HUB_NAME, config, store, schema, publishing)
    trusted = frozenset(config.sources.trusted)
    judging = started(
        *(JudgeActor, JUDGE_NAME, config, store, schema, learner, judge),
        trusted=trusted,
        export=config.export_agreement,
    )
    projector = started(Projector, PROJECTOR_NAME, config, store, schema)
    learners = [
        started(Learner, learner_name(seat), config, store, schema, learner, config.offer_s, config.sources, seat=seat)
        for seat in range(learner.rounds.n_learners)
    ]
    ray.get([actor.status.remote() for actor in (hub, judging, projector, *learners)])
    return Group(hub, judging, projector, learners)


def end_group() -> None:
    """End all of it for good; what is durable stays."""
    _end_learners_from(0)
    for name in (PROJECTOR_NAME, JUDGE_NAME, HUB_NAME):
        end_actor(name)


def end_actor(name: str) -> None:
    """End the actor of this name for good, if there is one."""
    with suppress(ValueError):
        _end(ray.get_actor(name), name)


def started(kind: Any, name: str, config: GroupConfig, *arguments: Any, **further: Any) -> Any:
    """The actor of this name and release: the one that runs, or a new one in its place; nobody waits for it."""
    with suppress(ValueError):  # there is none
        running = ray.get_actor(name)
        if _release_of(running) == config.release:
            return running
        _end(running, name)
    options = kind.options(
        name=name,
        lifetime="detached",
        get_if_exists=True,
        resources=dict(config.resources),
        scheduling_strategy="SPREAD",
    )
    return options.remote(*arguments, release=config.release, **further)


def _end_learners_from(seat: int) -> None:
    """End the learners of this seat and those behind it, whom a smaller number leaves without work."""
    with suppress(ValueError):
        while True:
            _end(ray.get_actor(learner_name(seat)), learner_name(seat))
            seat += 1


def _release_of(actor: Any) -> str | None:
    """What a running actor is made of; None if it does not say."""
    try:
        told: dict[str, Any] = ray.get(actor.status.remote(), timeout=ASK_S)
    except (RayActorError, GetTimeoutError):
        return None
    return told.get("release")


def _end(actor: Any, name: str) -> None:
    """End an actor for good, and wait until its name is free.

    Raises:
        TimeoutError: If it is not after half a minute.
    """
    ray.kill(actor, no_restart=True)
    deadline_s = time.monotonic() + END_S
    with suppress(ValueError):
        while ray.get_actor(name) == actor:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{name} was killed and has not ended within {END_S:g} s")
            time.sleep(POLL_S)
