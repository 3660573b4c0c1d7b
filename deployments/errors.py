"""Errors of the edge.

Owns what a client may be told and under which status; does not know who raises it or how it is sent (`http`).

    ConfigError            a setting is out of range or unknown; ends the start
    ClusterError           a cluster did not do what its operator asked for, and what it said about it
    ApiError               carries status, code, message and, where one field is to blame, its path
    |- MalformedError      400  the body cannot be read at all
    |- UnauthorizedError   401  with WWW-Authenticate
    |- ForbiddenError      403
    |- NotFoundError       404
    |- MethodError         405  with Allow
    |- SlowError           408
    |- TooLargeError       413
    |- MediaTypeError      415
    |- InvalidError        422  readable, but a field breaks a rule
    |- OverloadedError     429  with Retry-After
    |  |- RateError        429  of this key alone; with what HAProxy holds it back by
    |  `- LogFullError     429  nothing more may be written for now
    `- UnavailableError    503  with Retry-After
"""

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

from features.errors import FeatureError, LogFull

NO_HEADERS: Final[Mapping[str, str]] = {}
HOLD_HEADER: Final = "headrace-hold-ms"  # for how long HAProxy refuses a key by itself
FULL_S: Final = 5.0  # until a writer may try again: an archive that is there again makes room within seconds


class ConfigError(ValueError):
    """A setting is unknown or out of range; the message names field, value and range."""


class ClusterError(Exception):
    """A cluster is out of reach, or did not do what it was asked for; the message ends with what it said."""


class ApiError(Exception):
    """An answer other than success, as the client will see it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, path: str | None = None, headers: Mapping[str, str] = NO_HEADERS) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.headers = headers

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later, unchanged."""
        return self.status in {429, 503}

    def detail(self) -> dict[str, str]:
        """Return the inner object, as it also stands in a list of rejected events."""
        detail = {"code": self.code, "message": self.message}
        if self.path is not None:
            detail["path"] = self.path
        return detail

    def body(self) -> dict[str, dict[str, str]]:
        """Return the body of the answer, `{"error": {...}}`."""
        return {"error": self.detail()}


class MalformedError(ApiError):
    """The request cannot be parsed: bad JSON, bad compression, bad percent escape."""

    status = 400
    code = "malformed"


class UnauthorizedError(ApiError):
    """Nobody comes in without a key that is valid."""

    status = 401
    code = "unauthorized"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class ForbiddenError(ApiError):
    """The key is valid, and does not open this."""

    status = 403
    code = "forbidden"


class NotFoundError(ApiError):
    """No such path, or no such thing under it."""

    status = 404
    code = "not_found"


class MethodError(ApiError):
    """The path exists and does not answer this method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        allow = ", ".join(sorted(allowed))
        super().__init__(f"method {method} is not allowed here; allowed: {allow}", headers={"allow": allow})


class SlowError(ApiError):
    """The body took too long to come."""

    status = 408
    code = "slow"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"connection": "close"})


class TooLargeError(ApiError):
    """The body exceeds the limit, counted after decompression."""

    status = 413
    code = "too_large"


class MediaTypeError(ApiError):
    """The content encoding or type is not one we read."""

    status = 415
    code = "unsupported_media_type"


class InvalidError(ApiError):
    """The request parses and breaks a rule; `path` names the field."""

    status = 422
    code = "invalid"


class OverloadedError(ApiError):
    """Refused early by load (shed); the admitted requests keep their latency."""

    status = 429
    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, headers=retry_after(retry_after_s))


class RateError(OverloadedError):
    """The rate of the key is used up; those of others are not."""

    code = "rate"

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message, retry_after_s=wait_s)
        self.headers = {**self.headers, HOLD_HEADER: str(math.ceil(1000.0 * wait_s))}


class LogFullError(OverloadedError):
    """The log takes all the bytes that it may."""

    code = "log_full"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=FULL_S)


class UnavailableError(ApiError):
    """Something this answer cannot do without is away."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, headers=retry_after(retry_after_s))


def as_api_error(error: FeatureError) -> ApiError:
    """What a client is told of an error of the store."""
    if isinstance(error, LogFull):
        return LogFullError(str(error))
    return UnavailableError(str(error)) if error.retryable else ApiError(str(error))


def retry_after(delay_s: float) -> dict[str, str]:
    """Return a Retry-After header: whole seconds, at least one (RFC 9110, section 10.2.3)."""
    return {"retry-after": str(max(1, math.ceil(delay_s)))}
