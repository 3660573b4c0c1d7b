"""What the body of `POST /v1/rank` says: one request or many, in JSON or msgpack.

    {"user": …, "candidates": […]}      -> a RankRequest
    {"requests": [{…}, {…}, …]}         -> a list, in order, of RankRequests and of errors for those that cannot be read

One request is the common case and costs one decode. Only a body that is not one is looked at again for `requests`;
each of these is then decoded by itself, so that a bad one spoils no other.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from deployments.errors import ApiError, InvalidError, MalformedError
from deployments.http import JSON, MSGPACK, Format
from deployments.rank_request import RankRequest
from features.decoding import decoder
from features.events import invalid_from

MAX_REQUESTS: Final = 64
MAX_CANDIDATES_IN_ALL: Final = 10_000


class RankRequests(msgspec.Struct, forbid_unknown_fields=True):
    """Many requests in one body."""

    requests: list[msgspec.Raw]


class _Peek(msgspec.Struct):
    requests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class RankCodec:
    """Reads bodies of one format.

    Args:
        form: Names the format, and writes the answers.
        module: `msgspec.json` or `msgspec.msgpack`.
    """

    def __init__(self, form: Format, module: Any) -> None:
        self.form = form
        self._one = decoder(module, RankRequest)
        self._many = decoder(module, RankRequests)
        self._peek = decoder(module, _Peek)

    def decode(self, body: bytes) -> RankRequest | list[RankRequest | ApiError]:
        """Read a body.

        Raises:
            MalformedError: It is not of this format.
            InvalidError: It is neither one request nor 1 to `MAX_REQUESTS`, or has too many candidates in all.
        """
        try:
            return self._one(body)
        except msgspec.MsgspecError as error:
            failure = error
        try:
            if self._peek(body).requests is msgspec.UNSET:
                raise failure
            return self._judge(self._many(body).requests)
        except msgspec.MsgspecError as error:
            raise api_error(error) from None

    def _judge(self, raws: list[msgspec.Raw]) -> list[RankRequest | ApiError]:
        if not 1 <= len(raws) <= MAX_REQUESTS:
            raise InvalidError(f"Expected 1 to {MAX_REQUESTS} requests, got {len(raws)}", path="$.requests")
        requests = [self._decode_one(raw) for raw in raws]
        n_candidates = sum(len(request.candidates) for request in requests if isinstance(request, RankRequest))
        if n_candidates > MAX_CANDIDATES_IN_ALL:
            raise InvalidError(
                f"Expected at most {MAX_CANDIDATES_IN_ALL} candidates in all, got {n_candidates}", path="$.requests"
            )
        return requests

    def _decode_one(self, raw: msgspec.Raw) -> RankRequest | ApiError:
        try:
            return self._one(raw)
        except msgspec.MsgspecError as error:
            return api_error(error)


JSON_CODEC: Final = RankCodec(JSON, msgspec.json)
_MSGPACK_CODEC: Final = RankCodec(MSGPACK, msgspec.msgpack)
CODECS: Final[Mapping[str, RankCodec]] = {
    "application/msgpack": _MSGPACK_CODEC,
    "application/x-msgpack": _MSGPACK_CODEC,
}
"""By media type; any other is read as JSON."""


def detail_at(error: ApiError, index: int) -> dict[str, str]:
    """An error as it stands at its place among the answers: its path begins at the body's root."""
    return error.detail() | {"path": f"$.requests[{index}]{(error.path or '$')[1:]}"}


def api_error(error: msgspec.MsgspecError) -> ApiError:
    """The answer to what does not decode: 400 if it is not of its format, 422 with a path if a field is wrong."""
    if isinstance(error, msgspec.ValidationError):
        invalid = invalid_from(error)
        return InvalidError(invalid.message, path=invalid.path)
    return MalformedError(str(error))
