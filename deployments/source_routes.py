"""Sources of events over HTTP: what each has sent, which are in quarantine, and in and out of it by hand.

What is told of a source is what this replica got from it, and how far its labels agree with what answers, by the judge;
the list of quarantine is everybody's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

import msgspec
import ray
from ray.exceptions import RayError

from deployments.audit import Audit
from deployments.errors import InvalidError, NotFoundError, as_api_error
from deployments.gate import DEFAULT_WHO
from deployments.http import Request, Response, json_response
from deployments.versions import ASK_S, decode
from features.access import ADMIN
from features.errors import FeatureError, InvalidInput
from features.events import check_id
from features.quarantine import QuarantineKeeper
from features.source_watch import SourceReport
from features.sources import Quarantine
from learners.remote_judge import JUDGE_NAME

UNHEARD: Final = {**asdict(SourceReport()), "quarantine": None}
AskJudge = Callable[[], Awaitable[dict[str, dict[str, Any]]]]


class ToQuarantine(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/sources/quarantine`."""

    source: str
    reason: str = ""
    who: str = DEFAULT_WHO


class ToRelease(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/sources/release`."""

    source: str
    who: str = DEFAULT_WHO


T = TypeVar("T", ToQuarantine, ToRelease)


class SourceRoutes:
    """The routes.

    Args:
        ask_judge: Returns the judge's figures by source (`learners.agreement`), none while it is away.
        now_ms: Log time.
    """

    def __init__(self, keeper: QuarantineKeeper, ask_judge: AskJudge, audit: Audit, now_ms: Callable[[], int]) -> None:
        self._keeper = keeper
        self._ask_judge = ask_judge
        self._audit = audit
        self._now_ms = now_ms
        self.routes = (
            ("GET", "/v1/sources", self.get_sources, ADMIN),
            ("POST", "/v1/sources/quarantine", self.quarantine, ADMIN),
            ("POST", "/v1/sources/release", self.release, ADMIN),
        )

    async def get_sources(self, _: Request) -> Response:
        """Say what each source has sent, and what is wrong with which."""
        await _answered(self._keeper.look())
        found, known = await self._ask_judge(), self._keeper.status()
        sources = {name: {**known.get(name, UNHEARD), "labels": found.get(name)} for name in sorted({*known, *found})}
        doubts = [
            f"source {name!r}: its labels may say the opposite of the truth; too few others can say"
            for name, told in sorted(found.items())
            if told["in_doubt"]
        ]
        return json_response({"sources": sources, "problems": self._keeper.problems() + doubts})

    async def quarantine(self, request: Request) -> Response:
        """Have what a source sends kept, and nothing else, from within a second on."""
        body, caller = _decode(request, ToQuarantine), request.caller
        found = Quarantine(caller.named(body.who), body.reason, self._now_ms())
        async with self._audit.noted(caller, "quarantine", who=body.who, about=body.source, reason=body.reason):
            await _answered(self._keeper.put(body.source, found))
        return json_response({"source": body.source, "quarantine": self._keeper.held.get(body.source)})

    async def release(self, request: Request) -> Response:
        """Have what a source sends count again, and judge it anew."""
        body = _decode(request, ToRelease)
        async with self._audit.noted(request.caller, "release", who=body.who, about=body.source):
            if not await _answered(self._keeper.release(body.source)):
                raise NotFoundError(f"source {body.source!r} is not in quarantine")
        return json_response({"source": body.source, "quarantine": None})


def _decode(request: Request, kind: type[T]) -> T:
    body: T = decode(request, kind)
    try:
        check_id(body.source, "$.source")
    except InvalidInput as error:
        raise InvalidError(error.message, path=error.path) from None
    return body


async def ask_judge() -> dict[str, dict[str, Any]]:
    """What the cluster's judge makes of the labels of sources; nothing if it is away."""
    try:
        judge: Any = ray.get_actor(JUDGE_NAME)
        found: dict[str, dict[str, Any]] = (await asyncio.wait_for(judge.status.remote(), ASK_S))["sources"]
    except (RayError, ValueError, TimeoutError):
        return {}
    return found


async def _answered(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except FeatureError as error:
        raise as_api_error(error) from None
