"""Laws of the declaration."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from features.errors import SchemaError
from features.schema import Attribute, Counter, Schema, bucket, hash64, schema_from_dict
from tests.features.examples import SCHEMA

COUNTER = Counter(name="c", entity="user", types=("click",), half_lives_s=(60.0,))


@pytest.mark.parametrize("schema", [Schema(), SCHEMA])
def test_a_schema_reads_back_from_plain_values(schema: Schema) -> None:
    again = schema_from_dict(schema.as_dict())
    assert again == schema
    assert again.fingerprint == schema.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"n_recent": 33},
        {"event_types": ("view", "click", "cart", "purchase", "like", "share")},
        {"event_types": ("click", "view", "cart", "purchase", "like")},
        {"counters": (COUNTER,)},
        {"counters": (replace(COUNTER, half_lives_s=(61.0,)),)},
        {"attributes": ()},
        {"successor_window_s": 1.0},
    ],
)
def test_every_change_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert replace(Schema(), **change).fingerprint not in {Schema().fingerprint, 0}


def test_the_fingerprint_outlives_the_process() -> None:
    """Stored state depends on it: a new value here means that every stored state is refused."""
    assert Schema(counters=(COUNTER,), attributes=()).fingerprint == 5_050_156_411_564_112_176


def test_groups_lie_side_by_side() -> None:
    for groups in (SCHEMA.user_groups, Schema().item_groups):
        for one, other in pairwise(groups):
            assert other.offset == one.offset + 8 + 4 * one.n_values
            assert other.start == one.start + one.n_values
            assert other.index == one.index + 1
    last = SCHEMA.user_groups[-1]
    assert SCHEMA.user_block_bytes == last.offset + 8 + 4 * last.n_values


def test_a_bucket_is_the_hash_of_the_split_field() -> None:
    group = SCHEMA.user_groups[2]
    assert bucket(group, {"device": "mobile"}) == hash64("mobile") % 5
    assert bucket(group, {"device": 7}) == bucket(group, {"device": "7"})
    assert bucket(group, {}) is None
    assert bucket(SCHEMA.user_groups[0], {}) == 0


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"event_types": ()}, "schema.event_types"),
        ({"event_types": ("click", "click"), "counters": ()}, "schema.event_types: 'click' is declared twice"),
        ({"context": ("a", "a"), "counters": ()}, "schema.context: 'a' is declared twice"),
        ({"n_recent": 0}, "schema.n_recent"),
        ({"n_recent": 257}, "schema.n_recent"),
        ({"n_successors": 0}, "schema.n_successors"),
        ({"successor_span": 33}, "schema.successor_span: expected 1 to 32"),
        ({"counters": (COUNTER, COUNTER)}, "'user.c' is declared twice"),
        ({"attributes": (Attribute(name="a", entity="item", kind="number"),) * 2}, "'item.a' is declared twice"),
        ({"counters": (replace(COUNTER, types=()),)}, "schema.counters[c].types"),
        ({"counters": (replace(COUNTER, types=("sneeze",)),)}, "sneeze"),
        ({"counters": (replace(COUNTER, half_lives_s=()),)}, "schema.counters[c].half_lives_s"),
        ({"counters": (replace(COUNTER, half_lives_s=(0.0,)),)}, "schema.counters[c].half_lives_s"),
        ({"counters": (replace(COUNTER, split="mood", n_buckets=2),)}, "'mood' is not a declared context field"),
        ({"counters": (replace(COUNTER, n_buckets=2),)}, "schema.counters[c].n_buckets"),
        ({"counters": (replace(COUNTER, split="device", n_buckets=5000),)}, "schema.counters[c].n_buckets"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_by_name(change: dict[str, Any], where: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(where)):
        replace(Schema(), **change)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"colour": 1}, "schema: unknown field 'colour'"),
        ({"counters": [{"colour": 1}]}, "schema.counters: unknown field 'colour'"),
        ({"attributes": [{"name": "a", "entity": "item", "kind": "vibe"}]}, "$.attributes[0].kind"),
        ({"n_recent": "many"}, "$.n_recent"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_path(values: dict[str, Any], where: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(where)):
        schema_from_dict(values)


def test_no_hash_is_zero() -> None:
    assert hash64("") != 0
    assert hash64("a") != hash64("b")
