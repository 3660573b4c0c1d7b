"""What is done with power, and by whom: kept before it is done, and shown to those who may do it.

    async with audit.noted(caller, "rollback", before=41, after=38, reason=…):
        …                                  # what fails is noted as failed, too

Invariant: nothing is done that is not in the record; without a store to keep it in, it is refused (503).
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from deployments.errors import ApiError, InvalidError, UnavailableError
from deployments.gate import DEFAULT_WHO, Caller
from deployments.http import Request, Response, json_response
from features.access import ADMIN, Action
from features.access_store import AccessStore
from features.errors import FeatureError

MAX_SHOWN: Final = 1000

logger = logging.getLogger(__name__)


class Audit:
    """The record, and its route.

    Args:
        now_ms: Wall time.
    """

    def __init__(self, store: AccessStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.routes = (("GET", "/v1/audit", self.get_audit, ADMIN),)

    @asynccontextmanager
    async def noted(
        self,
        caller: Caller,
        what: str,
        *,
        who: str = DEFAULT_WHO,
        about: str = "",
        before: int | None = None,
        after: int | None = None,
        reason: str = "",
    ) -> AsyncIterator[None]:
        """Within, something is done that is in the record; if it raises, that is, too.

        Args:
            who: What the caller says of itself.
            about: The source or key it concerns; never a person.
            before: The version that answers.
            after: The one that is to answer.
        Raises:
            UnavailableError: If it cannot be kept; nothing was done.
        """
        action = Action(self._now_ms(), caller.named(who), what, about, before, after, reason)
        try:
            await self._store.note_action(action)
        except FeatureError as error:
            raise UnavailableError(f"what is done must be kept, and cannot be: {error}") from None
        try:
            yield
        except Exception as error:
            await self._note_failure(action, error)
            raise

    async def _note_failure(self, action: Action, error: Exception) -> None:
        said = str(error) if isinstance(error, ApiError) else repr(error)
        failed = msgspec.structs.replace(action, at_ms=self._now_ms(), failed=said)
        try:
            await self._store.note_action(failed)
        except FeatureError:
            logger.exception("it is not kept that this failed: %s", failed)

    async def get_audit(self, request: Request) -> Response:
        """Show the newest actions; `?last=N` of them, 100 by default."""
        count = _count(request.query)
        try:
            return json_response({"actions": await self._store.actions(count)})
        except FeatureError as error:
            raise UnavailableError(str(error)) from None


def _count(query: bytes) -> int:
    name, _, value = query.decode("latin-1").partition("=")
    if not query:
        return 100
    if name != "last" or not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MAX_SHOWN:
        raise InvalidError(f"Expected `?last=` with 1 to {MAX_SHOWN}", path="$.last")
    return int(value)
