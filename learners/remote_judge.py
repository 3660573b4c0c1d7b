"""The judge of this cluster as the hub asks it, wherever it runs; see `learners.publishing.Judge`."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from learners.erasing import Ends
from learners.errors import JudgeAway
from learners.verdicts import Verdict

JUDGE_NAME: Final = "headrace-judge"
JUDGE_S: Final = 10.0  # one that does not answer in this time is away
ERASE_S: Final = 120.0  # the same, where it takes in all of two versions


class RemoteJudge:
    """Asks; who does not answer is away."""

    async def weigh(self, edition: Sequence[Any]) -> Verdict:
        """Ask whether replicas may get an edition."""
        verdict: Verdict = await self._ask("weigh", list(edition))
        return verdict

    async def follow(self, edition: Sequence[Any]) -> None:
        """Have it take this for what answers."""
        await self._ask("follow", list(edition))

    async def erase(self, people: Sequence[int], positions: Ends, edition: Sequence[Any]) -> bool:
        """Have it know nothing of people."""
        return bool(await self._ask("erase", people, positions, list(edition), within_s=ERASE_S))

    @staticmethod
    async def _ask(method: str, *args: Any, within_s: float = JUDGE_S) -> Any:
        try:
            judge = ray.get_actor(JUDGE_NAME)
            return await asyncio.wait_for(getattr(judge, method).remote(*args), within_s)
        except RayTaskError as error:
            raise error.cause from None
        except (RayError, ValueError, TimeoutError) as error:
            raise JudgeAway(str(error).partition("\n")[0] or f"no answer within {within_s:g} s") from None
