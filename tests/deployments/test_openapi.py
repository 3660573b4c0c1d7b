"""The description says what the routes do."""

from typing import Any

import msgspec

from deployments.openapi import openapi
from features.schema import Schema


def test_every_reference_leads_somewhere() -> None:
    description = msgspec.json.decode(msgspec.json.encode(openapi(Schema())))
    named = set(_references(description))
    assert named <= {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}


def test_rank_takes_one_or_many_in_json_and_msgpack() -> None:
    operation = openapi(Schema())["paths"]["/v1/rank"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/msgpack"}
    assert {"200", "400", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert "deadline_ms" in openapi(Schema())["components"]["schemas"]["RankRequest"]["properties"]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in ([inner] if name == "$ref" else _references(inner))]
    return [found for inner in value for found in _references(inner)] if isinstance(value, list) else []
