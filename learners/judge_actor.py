"""The judge as a Ray actor: `learners.judging`, which it alone imports.

Whoever looks for an actor imports the module that its class is in. Those who ask the judge, the hub and the replicas of
Events, run without torch, and would stand still for the two seconds that importing it takes.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import ray

from learners.erasing import Ends
from learners.verdicts import Verdict

EditionRefs = Sequence[Any]
"""Object references of its packed head and parts."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class JudgeActor:
    """Arguments and methods are those of `Judging`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._judging: Any = importlib.import_module("learners.judging").Judging(*arguments, **options)

    async def weigh(self, edition: EditionRefs) -> Verdict:
        """Say whether replicas may get an edition."""
        verdict: Verdict = await self._judging.weigh(edition)
        return verdict

    async def follow(self, edition: EditionRefs) -> None:
        """Take an edition for what answers."""
        await self._judging.follow(edition)

    async def erase(self, people: Sequence[int], positions: Ends, edition: EditionRefs) -> bool:
        """Have nothing of people who were erased."""
        return bool(await self._judging.erase(people, positions, edition))

    async def status(self) -> dict[str, Any]:
        """How far it has read, and how far sources agree with what answers."""
        told: dict[str, Any] = await self._judging.status()
        return told
