"""Laws of what is proposed, on streams of which it is known what they are made of."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.autoschema.attributes import attribute_columns
from features.autoschema.context import buckets
from features.autoschema.declaration import toml_of
from features.autoschema.forecast import popularity
from features.autoschema.half_lives import LADDER, covering, rungs_within, words
from features.autoschema.head import head, row_bytes, user_bytes
from features.autoschema.proposal import Proposal, propose
from features.autoschema.sample import coded
from features.errors import InvalidInput
from features.schema import Attribute, Schema, bucket_of, schema_from_dict
from tests.features.autoschema.simulated import START_MS, clicks, sampled


def proposed(folder: Path, columns: dict[str, Any], **tables: pa.Table) -> Proposal:
    return propose(sampled(folder, columns), **tables)


def splits_of(proposal: Proposal) -> list[str | None]:
    return [counter.split for counter in proposal.schema.counters if counter.split is not None]


def read_back(text: str) -> Schema:
    return schema_from_dict(tomllib.loads(text)["schema"])


@pytest.mark.parametrize("seed", range(3))
def test_a_field_that_shifts_what_people_choose_splits_counters_and_one_that_does_not_does_not(
    tmp_path: Path, seed: int
) -> None:
    proposal = proposed(tmp_path, clicks(seed=seed))
    assert splits_of(proposal) == ["segment"]
    assert {"segment", "noise"} <= set(proposal.schema.context)
    assert any(text.startswith("noise: ") for text in proposal.asides["counters"])


def test_what_is_known_only_with_the_item_splits_nothing(tmp_path: Path) -> None:
    """`section` is a third of the items, so within an event it tells much; the one before tells little of the next."""
    columns = clicks()
    columns["section"] = columns["item"] % 7
    assert "section" not in splits_of(proposed(tmp_path, columns))


def test_of_two_fields_that_say_the_same_one_splits(tmp_path: Path) -> None:
    columns = clicks()
    columns["copy"] = [f"the {value} ones" for value in columns["segment"]]
    assert len(splits_of(proposed(tmp_path, columns))) == 1


def test_habits_of_one_person_are_not_those_of_a_group(tmp_path: Path) -> None:
    """Everybody comes back to one item of their own; the group that people were drawn into says nothing."""
    columns = clicks(n_users=200)
    columns["item"] = (columns["user"] * 17) % 60
    columns["segment"] = columns["section"] = np.random.default_rng(1).integers(0, 2, 200)[columns["user"]]
    assert splits_of(proposed(tmp_path, columns)) == []


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (np.arange(6000) // 3, "keep coming"),
        (START_MS + np.arange(6000), "keep coming"),
        (np.full(6000, "same"), "nearly constant"),
        (np.append(["other"], np.full(5999, "same")), "nearly constant"),
        (np.random.default_rng(0).random(6000), "measurement"),
        (pa.array([None] * 6000, pa.string()), "no event has a value"),
        (pa.array([*["x"] * 3, *[None] * 5997]), "nearly always missing"),
    ],
)
def test_fields_that_nothing_can_be_learned_from_are_refused_with_the_reason(
    tmp_path: Path, column: Any, named: str
) -> None:
    proposal = proposed(tmp_path, {**clicks(), "session": column})
    assert "session" not in proposal.schema.context
    assert [named in text for text in proposal.asides["context"] if text.startswith("session: ")] == [True]


def test_popularity_that_drifts_faster_gives_shorter_half_lives(tmp_path: Path) -> None:
    best = []
    for drift_s in (60.0, 600.0, 6000.0):
        sample = sampled(tmp_path, clicks(20_000, drift_s=drift_s))
        found = popularity(sample, rungs_within(sample.span_s))
        best.append(found.half_lives_s[found.best])
        (counter, *_) = propose(sample).schema.counters
        assert best[-1] in counter.half_lives_s
        assert counter.half_lives_s[0] < best[-1] < counter.half_lives_s[-1]
    assert best == sorted(set(best))


def test_a_history_cut_into_stretches_gives_much_the_same(tmp_path: Path) -> None:
    whole, part = (propose(sampled(tmp_path, clicks(20_000), n)) for n in (20_000, 8000))
    assert splits_of(whole) == splits_of(part) == ["segment"]
    assert whole.schema.context == part.schema.context


def test_frequent_types_are_counted_apart_and_rare_ones_together(tmp_path: Path) -> None:
    columns = clicks()
    kinds = np.random.default_rng(3).choice(["view", "buy", "other", "share"], 6000, p=[0.7, 0.29, 0.005, 0.005])
    schema = proposed(tmp_path, {**columns, "type": kinds}).schema
    assert schema.event_types[:2] == ("view", "buy") and set(schema.event_types) == set(kinds)
    for entity in ("item", "user"):
        plain = {c.name: set(c.types) for c in schema.counters if c.entity == entity and c.split is None}
        assert plain == {"view": {"view"}, "buy": {"buy"}, "other_": {"other", "share"}}


def test_half_lives_of_people_follow_the_pauses_between_visits(tmp_path: Path) -> None:
    found = []
    for pause_s in (4 * 3600, 3 * 86400):
        columns = clicks(1000, n_users=10)
        number = np.arange(1000) // 10
        columns["user"] = np.arange(1000) % 10
        columns["ts_ms"] = START_MS + 1000 * (number // 5 * pause_s + number % 5 * 60 + columns["user"])
        schema = proposed(tmp_path, columns).schema
        (counter,) = (counter for counter in schema.counters if counter.entity == "user")
        found.append(counter.half_lives_s[-1])
    assert found[0] in (7200.0, 21600.0) and found[1] == 3 * 86400.0


def test_items_that_follow_one_another_are_remembered_and_others_are_not(tmp_path: Path) -> None:
    columns = clicks(n_users=30)
    rng = np.random.default_rng(5)
    columns["item"] = rng.integers(0, 60, 6000)
    loose = proposed(tmp_path, columns)
    assert (loose.schema.n_successors, loose.schema.successor_span) == (16, 1)
    columns["user"] = np.arange(6000) % 30
    columns["item"] = (np.arange(6000) // 30 * 7 + 5 * columns["user"] + rng.integers(0, 2, 6000)) % 60
    bound = proposed(tmp_path, columns)
    assert "nats an event" in bound.notes["successor_span"]
    assert bound.schema.successor_window_s <= 7200.0


def test_a_stream_of_one_event_has_a_schema(tmp_path: Path) -> None:
    columns = {name: column[:1] for name, column in clicks(10).items()}
    schema = proposed(tmp_path, columns).schema
    assert schema.event_types == ("click",) and schema.context == () and schema.counters


TABLE = {
    "item": [f"i{n}" for n in range(200)],
    "ts_ms": [START_MS] * 200,
    "title": [f"The adventures of {n}" for n in range(200)],
    "category": ["sport", "news", "film", None] * 50,
    "stock": list(range(200)),
    "decade": [1900 + n % 10 * 10 for n in range(200)],
    "price": [n / 7 for n in range(200)],
    "is_new": [n % 3 == 0 for n in range(200)],
    "genres": [["a", "b", "c"][: n % 4] for n in range(200)],
    "words": ["one two", "two three four", "three one", "four two one"] * 50,
    "currency": ["eur"] * 200,
    "empty": pa.array([None] * 200, pa.string()),
    "parts": [[1, 2]] * 200,
    "seen": pa.array([0] * 200, pa.timestamp("ms")),
}


def test_attributes_are_of_the_kind_that_their_values_are(tmp_path: Path) -> None:
    found = {column.name: column for column in attribute_columns(pa.table(TABLE), "item")}
    kinds = {name: column.attribute and column.attribute.kind for name, column in found.items()}
    assert kinds == {
        "title": None, "category": "category", "stock": "number", "decade": "category", "price": "number",
        "is_new": "category", "genres": "tags", "words": "category", "currency": None, "empty": None, "parts": None,
        "seen": None,
    }  # fmt: skip
    assert found["genres"].attribute == Attribute(name="genres", entity="item", kind="tags", max_tags=3)
    for name, named in (("title", "free text"), ("currency", "constant"), ("empty", "missing"), ("seen", "timestamp")):
        assert named in found[name].evidence, name
    proposal = proposed(tmp_path, clicks(200), items=pa.table(TABLE))
    assert [attribute.name for attribute in proposal.schema.item_attributes] == [n for n, k in kinds.items() if k]
    assert any(text.startswith("item title: ") for text in proposal.asides["attributes"])


def test_words_in_one_text_are_seen_to_be_tags() -> None:
    rng = np.random.default_rng(0)
    genres = np.array(["drama", "comedy", "action", "war", "crime", "music"])
    rows = ["|".join(rng.permutation(genres)[: rng.integers(2, 6)]) for _ in range(500)]
    (column,) = attribute_columns(pa.table({"item": list(range(500)), "genres": rows}), "item")
    assert "6 words between '|'" in column.evidence


def test_a_table_without_its_ids_is_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'user' is missing, got id, age"):
        attribute_columns(pa.table({"id": [1], "age": [2]}), "user")


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=80))
def test_few_events_share_a_bucket_or_there_are_as_many_buckets_as_may_be(counts: list[int]) -> None:
    column = coded(pa.chunked_array([np.repeat(np.arange(len(counts)), counts)]))
    n_buckets, shared = buckets(column)
    largest: dict[int, int] = {}
    for value, count in zip(column.values.to_pylist(), column.counts.tolist(), strict=True):
        place = bucket_of(value, n_buckets)
        largest[place] = max(largest.get(place, 0), count)
    assert shared == pytest.approx(1.0 - sum(largest.values()) / sum(counts))
    assert n_buckets == 64 or (shared <= 0.05 and n_buckets.bit_count() == 1)


@given(
    st.integers(1, len(LADDER)).flatmap(
        lambda n: st.tuples(st.lists(st.floats(0, 1), min_size=n, max_size=n), st.integers(0, n - 1))
    )
)
def test_a_ladder_is_a_run_of_rungs_around_the_best(drawn: tuple[list[float], int]) -> None:
    weights, best = drawn
    rungs = LADDER[: len(weights)]
    ladder = covering(rungs, np.array(weights), best)
    at = rungs.index(ladder[0])
    assert ladder == rungs[at : at + len(ladder)] and rungs[best] in ladder and len(ladder) <= 8


ODD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(seed=st.integers(0, 2**32 - 1), names=st.lists(ODD, min_size=3, max_size=6, unique=True), n=st.integers(1, 400))
def test_what_is_written_reads_back_as_what_was_proposed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, names: list[str], n: int
) -> None:
    """Whatever fields, types and values are called, and whatever the stream is like."""
    rng = np.random.default_rng(seed)
    kinds, *fields = names
    columns = clicks(n, seed % 1000, n_users=int(rng.integers(1, 50)), drift_s=float(rng.choice([30.0, 1e9])))
    columns["type"] = rng.choice([kinds, "click"], n)
    others = {
        name: rng.choice(np.array(names, dtype=object), n) for name in fields if name not in {*columns, "id", "value"}
    }
    sample = sampled(tmp_path_factory.mktemp("events"), columns | {k: v for k, v in others.items() if k != "decision"})
    proposal = propose(sample)
    text = toml_of(proposal, head(sample, proposal.schema, ["a\nname", *names]))
    assert read_back(text) == proposal.schema
    assert toml_of(propose(sample), head(sample, proposal.schema, ["a\nname", *names])) == text


def test_every_part_of_a_schema_is_written() -> None:
    schema = Schema()
    odd = replace(schema.counters[0], name='a "b" \\c', use_value=True)
    for one in (schema, replace(schema, counters=(odd,)), replace(schema, counters=(), attributes=(), context=())):
        assert read_back(toml_of(Proposal(one))) == one


def test_the_head_tells_what_a_schema_costs(tmp_path: Path) -> None:
    sample = sampled(tmp_path, clicks(500))
    schema = propose(sample).schema
    wider = replace(schema, n_recent=schema.n_recent + 1, n_successors=schema.n_successors + 1)
    assert row_bytes(wider) - row_bytes(schema) == 16 + 4 * len(schema.successor_half_lives_s)
    assert 0 < user_bytes(wider, sample) - user_bytes(schema, sample) < 32
    assert any(f"{row_bytes(schema):,} bytes in memory" in line for line in head(sample, schema, ["events"]))


def test_durations_in_words() -> None:
    assert [words(s) for s in (0.5, 30, 120, 5400, 86400, 31536000)] == [
        "0.5 s", "30 s", "2 min", "1.5 h", "1 d", "365 d"
    ]  # fmt: skip
