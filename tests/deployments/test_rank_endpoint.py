"""Laws of `POST /v1/rank` without Ray: one request or many, JSON or msgpack, early refusals."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest

from deployments.rank_body import JSON_CODEC, MAX_CANDIDATES_IN_ALL
from deployments.rank_request import RankRequest, request_cost
from deployments.ranker import MAX_COST, RankEndpoint
from tests.deployments.test_ranking import ITEMS, Flaky, flaky, ranking

ONE: dict[str, Any] = {"user": "u1", "candidates": ITEMS}
FORMATS: list[tuple[str, Callable[[Any], bytes], Callable[[bytes], Any]]] = [
    ("application/json", msgspec.json.encode, msgspec.json.decode),
    ("application/msgpack", msgspec.msgpack.encode, msgspec.msgpack.decode),
    ("application/x-msgpack", msgspec.msgpack.encode, msgspec.msgpack.decode),
]


class Held(Flaky):
    """A store that holds each read until it is let go, and counts the users of each."""

    def __init__(self, store: Flaky) -> None:
        super().__init__(store.schema, keys=store.keys)
        self.let_go = asyncio.Event()
        self.batches: list[list[str]] = []

    async def read(self, users: Any, items: Any) -> Any:
        """As the store's, once it is let go."""
        self.batches.append(list(users))
        await self.let_go.wait()
        return await super().read(users, items)


def client_of(endpoint: RankEndpoint) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=endpoint.app), base_url="http://test")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(RankEndpoint(ranking(flaky())[0], deadline_ms=1000)) as connected:
        yield connected


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def without_decision(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "decision"}


@pytest.mark.parametrize(("media_type", "encode", "decode"), FORMATS)
async def test_the_formats_say_the_same(
    client: httpx.AsyncClient, media_type: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
) -> None:
    body = {**ONE, "context": {"device": "tv"}, "limit": 2, "explain": True, "deadline_ms": 500}
    expected = (await client.post("/v1/rank", json=body)).json()
    answer = await client.post("/v1/rank", content=encode(body), headers={"content-type": media_type})
    assert answer.status_code == 200
    assert without_decision(decode(answer.content)) == without_decision(expected)
    assert answer.headers["content-type"] == media_type.replace("x-", "")


@pytest.mark.parametrize(("media_type", "encode", "decode"), FORMATS)
@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({**ONE, "colour": 1}, 422, "$.colour"),
        ({**ONE, "user": 7}, 422, "$.user"),
        ({**ONE, "candidates": ["a", "a"]}, 422, "$.candidates[1]"),
        ({**ONE, "deadline_ms": 0}, 422, "$.deadline_ms"),
        ({**ONE, "deadline_ms": "soon"}, 422, "$.deadline_ms"),
        ([ONE], 422, "$"),
        ({"requests": []}, 422, "$.requests"),
        ({"requests": [ONE] * 65}, 422, "$.requests"),
        ({"requests": ONE}, 422, "$.requests"),
        ({"requests": [ONE], "colour": 1}, 422, "$.colour"),
        ({**ONE, "requests": [ONE]}, 422, "$.user"),
        ({"requests": [{**ONE, "candidates": [str(i) for i in range(1000)]}] * 11}, 422, "$.requests"),
    ],
)
async def test_a_bad_body_is_refused_at_its_field_in_its_format(
    client: httpx.AsyncClient,
    media_type: str,
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    body: Any,
    status: int,
    path: str,
) -> None:
    answer = await client.post("/v1/rank", content=encode(body), headers={"content-type": media_type})
    error = decode(answer.content)["error"]
    assert (answer.status_code, error["code"], error["path"]) == (status, "invalid", path)


@pytest.mark.parametrize("media_type", ["application/json", "application/msgpack"])
@pytest.mark.parametrize("body", [b"", b"\x82\xa4user", b'{"user":"u"', b'{"requests":[{"user":"u"', b"\xc1"])
async def test_what_is_not_of_its_format_is_400(client: httpx.AsyncClient, media_type: str, body: bytes) -> None:
    answer = await client.post("/v1/rank", content=body, headers={"content-type": media_type})
    if media_type == "application/msgpack" and body[:1] == b"{":
        assert answer.status_code in (400, 422)  # a brace is a number in msgpack
    else:
        assert answer.status_code == 400


async def test_msgpack_refuses_numbers_that_json_cannot_say(client: httpx.AsyncClient) -> None:
    body = msgspec.msgpack.encode({**ONE, "context": {"x": float("nan")}})
    answer = await client.post("/v1/rank", content=body, headers={"content-type": "application/msgpack"})
    assert (answer.status_code, msgspec.msgpack.decode(answer.content)["error"]["path"]) == (422, "$.context.x")


async def test_many_are_answered_in_order_and_each_is_judged_by_itself(client: httpx.AsyncClient) -> None:
    requests = [
        {**ONE, "limit": 1},
        {**ONE, "candidates": ["a", ""]},
        {"user": "u2", "candidates": ["z"]},
        {**ONE, "colour": 1},
        7,
        {"user": "u3", "candidates": ["y", "x"], "limit": 0},
    ]
    answer = await client.post("/v1/rank", json={"requests": requests})
    assert answer.status_code == 200
    answers = answer.json()["answers"]
    assert [[item["id"] for item in one["items"]] for one in answers if "items" in one] == [["c"], ["z"]]
    assert {index: one["error"]["path"] for index, one in enumerate(answers) if "error" in one} == {
        1: "$.requests[1].candidates[1]",
        3: "$.requests[3].colour",
        4: "$.requests[4]",
        5: "$.requests[5].limit",
    }


async def test_many_share_batches() -> None:
    store = Held(flaky())
    store.let_go.set()
    endpoint = RankEndpoint(ranking(store, cache_s=60.0)[0], deadline_ms=1000)
    requests = [{"user": f"u{index}", "candidates": ITEMS} for index in range(40)]
    async with client_of(endpoint) as client:
        answer = await client.post("/v1/rank", json={"requests": requests})
    assert len(answer.json()["answers"]) == endpoint.n_answered == 40
    assert [len(users) for users in store.batches if users] == [16, 16, 8]


async def test_who_would_wait_too_long_is_refused_with_retry_after_and_the_rest_is_answered() -> None:
    store = Held(flaky())
    endpoint = RankEndpoint(ranking(store, cache_s=60.0)[0], deadline_ms=1000)
    async with client_of(endpoint) as client:
        first = asyncio.create_task(client.post("/v1/rank", json=ONE))
        await until(lambda: len(store.batches) == 1)
        endpoint.batcher._pace.observe(1.0, 0.001)  # a second for a thousand candidates
        late = {"user": "u2", "candidates": [str(index) for index in range(999)]}
        refused = await client.post("/v1/rank", json=late)
        refused_all = await client.post("/v1/rank", json={"requests": [late, late]})
        mixed = asyncio.create_task(client.post("/v1/rank", json={"requests": [late, ONE]}))
        await until(lambda: endpoint.batcher.depth == 1)
        store.let_go.set()
        answers = (await mixed).json()["answers"]
        assert (await first).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert (refused_all.status_code, refused_all.headers["retry-after"]) == (429, "1")
    assert (answers[0]["error"]["code"], answers[0]["error"]["path"]) == ("overloaded", "$.requests[0]")
    assert [item["id"] for item in answers[1]["items"]] == ["c", "b", "a"]
    assert endpoint.batcher.n_shed == 4


async def test_a_request_that_allows_more_time_is_taken() -> None:
    store = Held(flaky())
    endpoint = RankEndpoint(ranking(store, cache_s=60.0)[0], deadline_ms=1)
    async with client_of(endpoint) as client:
        first = asyncio.create_task(client.post("/v1/rank", json=ONE))
        await until(lambda: len(store.batches) == 1)
        endpoint.batcher._pace.observe(1.0, 0.001)
        second = asyncio.create_task(client.post("/v1/rank", json={**ONE, "deadline_ms": 5000}))
        await until(lambda: endpoint.batcher.depth == 1)
        assert (await client.post("/v1/rank", json=ONE)).status_code == 429
        store.let_go.set()
        assert [(await asked).status_code for asked in (first, second)] == [200, 200]


def test_a_full_batch_is_sixteen_requests_of_a_hundred_or_two_of_a_thousand() -> None:
    requests = {n: RankRequest("u", [str(index) for index in range(n)]) for n in (100, 1000)}
    assert [int(MAX_COST // request_cost(request)) for request in requests.values()] == [16, 2]


def test_one_request_is_one_decode() -> None:
    assert JSON_CODEC.decode(msgspec.json.encode(ONE)) == RankRequest(**ONE)
    assert MAX_CANDIDATES_IN_ALL == 10_000
