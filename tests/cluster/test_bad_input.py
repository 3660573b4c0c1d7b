"""Bad input on the running application: the right status, the path of the field, and nothing written."""

import math
from typing import Any

import msgspec
import pytest

from tests.cluster.conftest import Application

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

RANK: dict[str, Any] = {"user": "u", "candidates": ["a", "b"]}
EVENT: dict[str, Any] = {"type": "click", "user": "bad-input", "item": "a"}

BAD_RANKS: dict[str, tuple[Any, int, str | None]] = {
    "malformed": (b"{", 400, None),
    "nan": (b'{"user":"u","candidates":["a"],"context":{"x":NaN}}', 400, None),
    "unknown field": ({**RANK, "colour": 1}, 422, "$.colour"),
    "wrong type": ({**RANK, "user": 7}, 422, "$.user"),
    "empty": ({**RANK, "candidates": []}, 422, "$.candidates"),
    "too many": ({**RANK, "candidates": [str(index) for index in range(1001)]}, 422, "$.candidates"),
    "repeated": ({**RANK, "candidates": ["a", "b", "a"]}, 422, "$.candidates[2]"),
    "empty id": ({**RANK, "candidates": ["a", ""]}, 422, "$.candidates[1]"),
    "number among them": ({**RANK, "candidates": ["a", 7]}, 422, "$.candidates[1]"),
    "limit": ({**RANK, "limit": 0}, 422, "$.limit"),
    "now with the wall clock": ({**RANK, "now_ms": 5}, 422, "$.now_ms"),
    "missing user": ({"candidates": ["a"]}, 422, "$"),
}
BAD_EVENTS: dict[str, tuple[Any, int, str | None]] = {
    "malformed": (b"[", 400, None),
    "not an envelope": ({"event": EVENT}, 400, None),
    "none": ({"events": []}, 400, "$.events"),
    "too many": ({"events": [EVENT] * 1001}, 400, "$.events"),
    "all invalid": ({"events": [{**EVENT, "type": "stare"}]}, 422, "$.events[0].type"),
    "absurd time": ({"events": [{**EVENT, "ts_ms": 12}]}, 422, "$.events[0].ts_ms"),
    "nan": (b'{"events":[{"type":"click","user":"bad-input","item":"a","value":NaN}]}', 400, None),
}


def _post(application: Application, path: str, body: Any) -> Any:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return application.http.post(path, content=content)


@pytest.mark.parametrize("name", BAD_RANKS)
def test_bad_rank_requests_name_the_field(application: Application, name: str) -> None:
    body, status, path = BAD_RANKS[name]
    response = _post(application, "/v1/rank", body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] and error["message"]
    if path is not None:
        assert error["path"] == path


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_bad_events_name_the_field_and_write_nothing(application: Application, name: str) -> None:
    body, status, path = BAD_EVENTS[name]
    response = _post(application, "/v1/events", body)
    assert response.status_code == status, response.text
    if path is not None:
        assert response.json()["error"]["path"] == path
    assert application.get("/v1/users/bad-input")["recent"]["items"] == []


def test_an_invalid_event_is_rejected_by_index_and_its_neighbours_accepted(application: Application) -> None:
    good = {"type": "click", "user": "neighbour", "item": "a"}
    receipt = application.post("/v1/events", {"events": [good, {**good, "type": "stare"}, {**good, "ts_ms": 5}, good]})
    assert receipt["accepted"] == 2
    assert [(row["index"], row["error"]["path"]) for row in receipt["rejected"]] == [(1, "$.type"), (2, "$.ts_ms")]


def test_lines_of_ndjson_are_events(application: Application) -> None:
    lines = b"\n".join(msgspec.json.encode({**EVENT, "user": f"nd-{index}"}) for index in range(3))
    response = application.http.post(
        "/v1/events", content=lines + b"\n", headers={"content-type": "application/x-ndjson"}
    )
    assert response.json()["accepted"] == 3


def test_sizes_methods_and_paths(application: Application) -> None:
    http = application.http
    assert http.post("/v1/rank", content=b" " * (2 << 20)).status_code == 413
    assert http.post("/v1/events", content=b" " * (2 << 20)).status_code == 413
    wrong = http.get("/v1/rank")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert http.delete("/v1/events").status_code == 405
    for path in ("/", "/v1", "/v1/rankx", "/v1/rank/x", "/v1/nothing"):
        assert http.get(path).status_code == 404, path
    assert http.get("/v1/items/nobody-has-heard-of").status_code == 404


def test_somebody_elses_decision_is_rejected(application: Application) -> None:
    decision = application.post("/v1/rank", {**RANK, "user": "mine"})["decision"]
    event = {"type": "click", "item": "a", "decision": decision}
    assert application.post("/v1/events", {"events": [{**event, "user": "mine"}]})["accepted"] == 1
    other = _post(application, "/v1/events", {"events": [{**event, "user": "other"}]})
    assert (other.status_code, other.json()["error"]["path"]) == (422, "$.events[0].decision")


def test_answers_are_ordered_limited_and_explained(application: Application) -> None:
    answer = application.post("/v1/rank", {**RANK, "candidates": ["a", "b", "c"], "limit": 2, "explain": True})
    scores = [item["score"] for item in answer["items"]]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)
    assert all(item["propensity"] == 1.0 and item["features"] for item in answer["items"])


def test_the_interface_describes_itself(application: Application) -> None:
    description = application.get("/v1/openapi.json")
    assert set(description["paths"]) >= {"/v1/rank", "/v1/events", "/v1/users/{id}", "/v1/model"}
