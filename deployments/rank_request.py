"""What a ranking is asked with, judged field by field."""

from collections.abc import Sequence
from typing import Final

import msgspec

from deployments.errors import InvalidError
from features.errors import InvalidInput
from features.events import Scalar, check_context, check_id, check_time

MAX_CANDIDATES: Final = 1000
MAX_DEADLINE_MS: Final = 60_000
REQUEST_COST: Final = 50  # what a request costs beside its candidates, in candidates; see `request_cost`


class RankRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Body of `POST /v1/rank`."""

    user: str
    candidates: list[str]
    context: dict[str, Scalar] = {}
    limit: int | None = None
    explain: bool = False
    now_ms: int | None = None
    deadline_ms: int | None = None
    """Refuse (429) rather than answer later than this after the request has arrived; None: `RankConfig.deadline_ms`."""


def request_cost(request: RankRequest) -> float:
    """What a request costs a replica, in candidates.

    A candidate takes about 2 us, a request beside them about 100: decoding, the user's state, the answer (one core).
    """
    return REQUEST_COST + len(request.candidates)


def check_request(request: RankRequest, *, is_event_clock: bool) -> None:
    """Judge a decoded request.

    Raises:
        InvalidError: With the path of the bad field.
    """
    try:
        check_id(request.user, "$.user")
        if not _are_plain(request.candidates):
            for index, candidate in enumerate(request.candidates):
                check_id(candidate, f"$.candidates[{index}]")
        check_context(request.context, "$.context")
    except InvalidInput as error:
        raise InvalidError(error.message, path=error.path) from None
    n = len(request.candidates)
    if not 1 <= n <= MAX_CANDIDATES:
        raise InvalidError(f"Expected 1 to {MAX_CANDIDATES} candidates, got {n}", path="$.candidates")
    if len(set(request.candidates)) != n:
        index = _first_repeated(request.candidates)
        raise InvalidError(f"Repeated candidate {request.candidates[index]!r}", path=f"$.candidates[{index}]")
    if request.limit is not None and request.limit < 1:
        raise InvalidError(f"Expected a limit of at least 1, got {request.limit}", path="$.limit")
    if request.deadline_ms is not None and not 1 <= request.deadline_ms <= MAX_DEADLINE_MS:
        raise InvalidError(f"Expected 1 to {MAX_DEADLINE_MS} ms, got {request.deadline_ms}", path="$.deadline_ms")
    if request.now_ms is not None:
        _check_now(request.now_ms, is_event_clock=is_event_clock)


def _check_now(now_ms: int, *, is_event_clock: bool) -> None:
    if not is_event_clock:
        raise InvalidError("now_ms is only known to a system started with --clock event", path="$.now_ms")
    try:
        check_time(now_ms, 0, any_time=True)
    except InvalidInput as error:
        raise InvalidError(error.message, path="$.now_ms") from None


def _are_plain(ids: Sequence[str]) -> bool:
    """Whether all of them are surely right: ASCII, neither empty nor long."""
    return all(ids) and max(map(len, ids), default=0) <= 64 and "".join(ids).isascii()


def _first_repeated(candidates: Sequence[str]) -> int:
    seen: set[str] = set()
    for index, candidate in enumerate(candidates):
        if candidate in seen:
            return index
        seen.add(candidate)
    raise ValueError("no candidate is repeated")
