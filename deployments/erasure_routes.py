"""A person's rights over HTTP: to be erased, to be told when that is done, and to see what is known.

An erasure is acknowledged when its entry is in the log: then the state is gone, and in the same step it is noted that
everything else is to go (`features.erasing`), under a name that tells nothing. What is known is read by the keeper of
the log, so that nobody here waits for it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from ray.exceptions import RayError

from deployments.audit import Audit
from deployments.errors import InvalidError, NotFoundError, TooLargeError, UnavailableError, as_api_error
from deployments.http import Request, Response, json_response
from deployments.log_keeper import get_keeper
from features.access import ADMIN
from features.erasures import STATE, STEPS, Erased
from features.errors import FeatureError, InvalidInput
from features.events import LoggedErasure, check_id
from features.store import Applied, BulkStore, Record, erasure_record

EXPORT_BYTES: Final = 16 << 20  # held by a replica until it is sent
EXPORT_S: Final = 60.0  # an archive may take longer: `headrace export` waits for it
NDJSON_TYPE: Final = (b"content-type", b"application/x-ndjson")

Export = Callable[[str], Awaitable[bytes | None]]
"""What is known of a person; None: more than `EXPORT_BYTES`."""


class LogSide(NamedTuple):
    """What is asked about the log, beside the store that is written to."""

    bulk: BulkStore
    """The same one: erasures are noted there."""
    status: Callable[[], Awaitable[dict[str, Any]]]
    """Asks the log's keeper."""
    export: Export
    """Asks it, too."""


class ErasureRoutes:
    """The routes.

    Args:
        apply: As `FeatureStore.apply`.
        now_ms: Log time.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Record]], Awaitable[list[Applied | FeatureError]]],
        log: LogSide,
        audit: Audit,
        now_ms: Callable[[], int],
    ) -> None:
        self._apply = apply
        self._bulk = log.bulk
        self._export = log.export
        self._audit = audit
        self._now_ms = now_ms
        self.routes = (
            ("DELETE", "/v1/users/{id}", self.erase, ADMIN),
            ("GET", "/v1/users/{id}/export", self.export, ADMIN),
            ("GET", "/v1/erasures/{id}", self.get_erasure, ADMIN),
        )

    async def erase(self, request: Request) -> Response:
        """Erase a person: the state at once, everything else by and by."""
        user, name = _user_of(request), uuid.uuid4().hex
        record = erasure_record(LoggedErasure(user, self._now_ms()), self._bulk.keys, name)
        async with self._audit.noted(request.caller, "erase"):
            (result,) = await self._apply([record])
            if isinstance(result, FeatureError):
                raise as_api_error(result)
        return json_response({"log_ms": result.id.ms, "erasure": name}, 202)

    async def get_erasure(self, request: Request) -> Response:
        """Say how far an erasure is, and when it was done."""
        name = request.params["id"]
        try:
            found = await self._bulk.erasure(name)
        except FeatureError as error:
            raise as_api_error(error) from None
        if found is None:
            raise NotFoundError("no such erasure")
        known = {STATE: found.asked_ms, **found.steps}
        is_done = isinstance(found, Erased)
        return json_response(
            {
                "state": "done" if is_done else "under way",
                "asked_ms": found.asked_ms,
                "done_ms": found.done_ms if isinstance(found, Erased) else None,
                "steps": {step: known.get(step) for step in STEPS},
            }
        )

    async def export(self, request: Request) -> Response:
        """Say everything that is known of a person, as lines of JSON."""
        user = _user_of(request)
        async with self._audit.noted(request.caller, "export"):
            told = await self._export(user)
        if told is None:
            raise TooLargeError(f"there are more than {EXPORT_BYTES} bytes: `headrace export` writes them to a file")
        return Response(200, told, (NDJSON_TYPE,))


def _user_of(request: Request) -> str:
    user = request.params["id"]
    try:
        check_id(user, "$.id")
    except InvalidInput as error:
        raise InvalidError(error.message, path=error.path) from None
    return user


async def ask_export(user: str) -> bytes | None:
    """What the keeper of the log reads.

    Raises:
        UnavailableError: If it is away, or has not read everything in time.
    """
    try:
        told: bytes | None = await asyncio.wait_for(get_keeper().export.remote(user, EXPORT_BYTES), EXPORT_S)
    except (RayError, ValueError):
        raise UnavailableError("the keeper of the log is being restarted, or cannot read what is known") from None
    except TimeoutError:
        raise UnavailableError(
            f"not read within {EXPORT_S:g} s: `headrace export` waits for as long as it takes"
        ) from None
    return told
