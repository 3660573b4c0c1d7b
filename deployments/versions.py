"""Versions of the model over HTTP: which one answers, what became of the others, and back to one of them.

The routes ask the hub; whoever finds it is passed in.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from ray.exceptions import RayError

from deployments.audit import Audit
from deployments.errors import ApiError, InvalidError, MalformedError, UnavailableError
from deployments.gate import DEFAULT_WHO, KNOWN
from deployments.http import Request, Response, json_response
from features.access import ADMIN
from features.errors import FeatureError
from features.events import invalid_from
from learners.errors import UnknownVersion
from learners.hub import get_hub

ASK_S: Final = 2.0
CHANGE_S: Final = 30.0  # a version is put together from files
MAX_TEXT: Final = 500

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of the hub, by name."""


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/model/rollback`."""

    version: int | None = None
    """None: the one that answers."""
    reason: str = ""
    who: str = DEFAULT_WHO


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/model/resume`."""

    reason: str = ""
    who: str = DEFAULT_WHO


class VersionRoutes:
    """The routes.

    Args:
        now_ms: Log time.
    """

    def __init__(self, ask: Ask, audit: Audit, now_ms: Callable[[], int]) -> None:
        self._ask = ask
        self._audit = audit
        self._now_ms = now_ms
        self.routes = (
            ("GET", "/v1/model", self.get_model, KNOWN),
            ("GET", "/v1/model/versions", self.get_versions, KNOWN),
            ("POST", "/v1/model/rollback", self.roll_back, ADMIN),
            ("POST", "/v1/model/resume", self.resume, ADMIN),
        )

    async def get_model(self, _: Request) -> Response:
        """Say which version is current, which answers, and how old its knowledge is."""
        status = await self._ask("status")
        age_ms = max(0, self._now_ms() - status["trained_through_ms"])
        told = {name: value for name, value in status.items() if name not in {"pid", "release"}}
        return json_response({**told, "age_ms": age_ms})

    async def get_versions(self, _: Request) -> Response:
        """Say which versions are kept, and what became of them all."""
        return json_response(await self._ask("versions", wait_s=CHANGE_S))

    async def roll_back(self, request: Request) -> Response:
        """Have replicas answer with a version that is kept, until they are told to go on."""
        body = decode(request, Rollback)
        who, live = request.caller.named(body.who), (await self._ask("status"))["live"]
        after = live if body.version is None else body.version
        async with self._audit.noted(
            request.caller, "rollback", who=body.who, before=live, after=after, reason=body.reason
        ):
            version = await self._ask("rollback", body.version, who, body.reason, wait_s=CHANGE_S)
        return json_response({"version": version, "state": "pinned"})

    async def resume(self, request: Request) -> Response:
        """Have replicas follow the newest version again."""
        body = decode(request, Resume)
        who, status = request.caller.named(body.who), await self._ask("status")
        async with self._audit.noted(
            request.caller,
            "resume",
            who=body.who,
            before=status["live"],
            after=status["version"],
            reason=body.reason,
        ):
            version = await self._ask("resume", who, body.reason, wait_s=CHANGE_S)
        return json_response({"version": version})


def decode(request: Request, kind: type[Any]) -> Any:
    """The body of a request; what says who and why is of no more than `MAX_TEXT` characters.

    Raises:
        InvalidError: Naming the field that is wrong.
        MalformedError: If it is no JSON.
    """
    try:
        body = msgspec.json.decode(request.body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        invalid = invalid_from(error)
        raise InvalidError(invalid.message, path=invalid.path) from None
    except msgspec.DecodeError as error:
        raise MalformedError(f"body is not JSON: {error}") from None
    for name in ("who", "reason"):
        if len(getattr(body, name, "")) > MAX_TEXT:
            raise InvalidError(f"Expected at most {MAX_TEXT} characters", path=f"$.{name}")
    return body


async def ask_hub(method: str, *arguments: Any, wait_s: float = ASK_S) -> Any:
    """Call a method of the cluster's hub.

    Raises:
        UnavailableError: If the hub is away.
        InvalidError: If it has no such version.
        ApiError: If it cannot do it.
    """
    try:
        return await asyncio.wait_for(getattr(get_hub(), method).remote(*arguments), wait_s)
    except UnknownVersion as error:
        raise InvalidError(_said(error), path="$.version") from None
    except (FeatureError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise UnavailableError("the model hub does not answer") from None
        raise ApiError(_said(error)) from None
    except (RayError, ValueError):
        raise UnavailableError("the model hub is being restarted") from None


def _said(error: Exception) -> str:
    """What an actor's error says; Ray puts a trace around it."""
    return str(getattr(error, "cause", error))
