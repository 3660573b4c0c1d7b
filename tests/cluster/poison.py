"""A learner actor that learns the wrong thing from all examples, in the place of the one that runs."""

from typing import Any

import ray

from benchmarks.poisoning import PoisonedLearner
from deployments.app import release_of
from deployments.config import Config
from learners import group
from learners.actor import LEARNER_NAME, Learner
from learners.online import OnlineLearner

OnlineActor: Any = Learner.__ray_metadata__.modified_class  # type: ignore[attr-defined]


class PoisonedActor(OnlineActor):  # type: ignore[misc]
    """As `Learner`, but for what it takes for clicked; begins anew like that, too."""

    async def _restore(self, hub: Any) -> tuple[OnlineLearner, int]:
        restored, version = await super()._restore(hub)
        poisoned = PoisonedLearner(self._schema, self._config, share=1.0)
        poisoned.__dict__.update(restored.__dict__)
        return poisoned, version


def replace_learner(config: Config, *, is_poisoned: bool) -> None:
    """End the learner, and start one that is poisoned or not."""
    group.end_actor(LEARNER_NAME)
    kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(PoisonedActor) if is_poisoned else Learner
    settings = group.GroupConfig(release=release_of(config))
    group.started(kind, LEARNER_NAME, settings, config.store, config.schema, config.learner, config.offer_s, seat=0)
