"""Every operation of `/v1/openapi.json`, with data that is right and with data that is wrong, in every media type.

schemathesis makes requests from the description, sends them to the applications without a server, and holds the answers
against it: no 5xx, only statuses, headers, media types and bodies that are described, what is wrong is refused, what is
right is taken. What is judged row by row answers for its rows; what JSON Schema cannot say may be refused in words.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from deployments.openapi import openapi
from features.events import WHOLE
from tests.fuzz.house import KEY, House

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.config import SchemathesisConfig  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

SHORT_S: Final = 20.0
WANTED_S: Final = float(os.environ.get("HEADRACE_FUZZ_S", SHORT_S))
N_EXAMPLES: Final = max(1, round(15 * WANTED_S / SHORT_S))
"""Drawn per operation and media type, beside the cases that schemathesis always has."""
pytestmark = pytest.mark.timeout(60 + WANTED_S)
BY_ROW: Final = {("POST", "/v1/events"), ("POST", "/v1/items"), ("POST", "/v1/rank")}
UNSAYABLE: Final = (
    "bytes of UTF-8",  # JSON Schema counts characters
    "decision id",
    "The decision was not made",
    "between a week ago",
    "Expected a category",  # 1.0 is an integer there
    "candidates in all",
    "now_ms is only known",
    "is not kept",
    "is not in quarantine",
    "no item",
    "body exceeds",
)

LAWS: Final = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.missing_required_header,
]


@schemathesis.serializer("application/json")
def plain(_context: Any, value: Any) -> bytes:
    """JSON; 6.0 is an integer in JSON Schema, but a number with a fraction where it is decoded."""
    return _json(value)


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """An array's elements, one a line; anything else alone."""
    return b"\n".join(map(_json, value)) if isinstance(value, list) else _json(value)


@schemathesis.serializer("application/msgpack")
def packed(context: Any, value: Any) -> bytes:
    """Msgpack; where it can be right, an integer that cannot be said is the next one, else the body is no msgpack."""
    may_be_right = context.case.meta is None or not context.case.meta.generation.mode.is_negative
    try:
        return msgspec.msgpack.encode(_with_integers(value, WHOLE if may_be_right else None))
    except (OverflowError, UnicodeEncodeError):
        return b"\xc1"


@schemathesis.deserializer("application/msgpack")
def unpacked(_context: Any, response: Any) -> Any:
    """An answer in msgpack."""
    return msgspec.msgpack.decode(response.content)


def _with_integers(value: Any, within: range | None = None) -> Any:
    if isinstance(value, dict):
        return {name: _with_integers(inner, within) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_integers(inner, within) for inner in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if within is None or isinstance(value, bool) or not isinstance(value, int):
        return value
    return min(max(value, within.start), within.stop - 1)


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(_with_integers(value))
    except UnicodeEncodeError:
        return b"\xff"


def no_server_error(_context: Any, response: Any, case: Any) -> None:
    """Nothing that a stranger sends is our fault."""
    assert response.status_code < 500, f"{case.operation.label}: {response.status_code} {response.content!r}"


def unavailable_at_most(_context: Any, response: Any, case: Any) -> None:
    """Whoever lacks the store says so, and when to ask again."""
    assert response.status_code < 500 or response.status_code == 503, f"{case.operation.label}: {response.content!r}"


def what_is_wrong_is_refused(context: Any, response: Any, case: Any) -> None:
    """Whole, or where rows are judged by themselves, row by row."""
    if not _is_refused_by_row(case, response):
        checks.negative_data_rejection(context, response, case)


def what_is_right_is_taken(context: Any, response: Any, case: Any) -> None:
    """Unless it is refused for what JSON Schema cannot say."""
    if not any(reason.encode() in response.content for reason in UNSAYABLE):
        checks.positive_data_acceptance(context, response, case)


def _is_refused_by_row(case: Any, response: Any) -> bool:
    if (case.method, case.path) not in BY_ROW or response.status_code >= 300:
        return False
    media_type = response.headers["content-type"][0]
    answer = (msgspec.msgpack if "msgpack" in media_type else msgspec.json).decode(response.content)
    return bool(answer.get("rejected")) or any("error" in one for one in answer.get("answers", []))


def description_of(house: House) -> Any:
    """The description, as it is served; what is made from it is always the same in a short run."""
    config = SchemathesisConfig()
    config.projects.default.generation.deterministic = WANTED_S == SHORT_S
    return schemathesis.openapi.from_asgi("/v1/openapi.json", house, config=config, headers=KEY)


def drawn(n_examples: int) -> settings:
    """So many are drawn."""
    every = list(HealthCheck)
    return settings(max_examples=n_examples, deadline=None, suppress_health_check=every, database=None)


WELL, FULL, AWAY = HOUSES = House(), House("full"), House("away")


@pytest.fixture(scope="module", autouse=True)
def _told() -> Iterator[None]:
    """How many requests there were, by operation, and how they were answered."""
    yield
    asked, answered = Counter[tuple[str, str]](), Counter[int]()
    for house in HOUSES:
        asked, answered = asked + house.n_asked, answered + house.n_answered
    paths = openapi(WELL.store.schema)["paths"]
    described = {at: n for at, n in asked.items() if at[0].lower() in paths.get(at[1], {})}
    for (method, route), n in sorted(described.items(), key=lambda one: one[0][::-1]):
        print(f"{method:8} {route:24} {n:7}")
    print(f"{'others':33} {asked.total() - sum(described.values()):7}")
    print(f"{asked.total()} requests, answered {dict(sorted(answered.items()))}")


@description_of(WELL).parametrize()
@drawn(N_EXAMPLES)
def test_every_answer_is_as_described_and_what_is_wrong_is_refused(case: Any) -> None:
    more = [no_server_error, what_is_wrong_is_refused, what_is_right_is_taken]
    case.call_and_validate(headers=KEY, checks=[*LAWS, *more])


@description_of(FULL).parametrize()
@drawn(max(1, N_EXAMPLES // 5))
def test_answers_are_as_described_when_the_log_is_full(case: Any) -> None:
    case.call_and_validate(headers=KEY, checks=[*LAWS, no_server_error])


@description_of(AWAY).parametrize()
@drawn(max(1, N_EXAMPLES // 5))
def test_answers_are_as_described_when_the_store_and_the_hub_are_away(case: Any) -> None:
    case.call_and_validate(headers=KEY, checks=[*LAWS, unavailable_at_most])
