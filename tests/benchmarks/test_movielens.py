"""The tables of MovieLens, in the form that its configuration declares."""

from pathlib import Path

import pyarrow as pa

import benchmarks
from benchmarks.movielens import items_of, users_of
from deployments.config import load_config
from features.attribute_table import attribute_rows
from features.events import LoggedAttributes
from features.intake import attributes_record
from features.keys import Keys

MOVIES = pa.table(
    {
        "item_id": pa.array([1, 2], pa.int32()),
        "title": ["Toy Story", "untitled"],
        "release_year": ["1995", "V"],
        "genres": ["Animation Children's Comedy", "unknown"],
    }
)
PEOPLE = pa.table({"user_id": [7], "age": [24], "gender": ["M"], "occupation": ["technician"], "zip": ["85711"]})


def test_genres_become_tags_and_years_decades() -> None:
    first, second = attribute_rows(items_of(MOVIES), "item")
    assert first.attributes == {"title": "Toy Story", "decade": 1990, "genres": ["Animation", "Children's", "Comedy"]}
    assert second.attributes == {"title": "untitled", "genres": ["unknown"]}


def test_the_rows_fit_what_the_configuration_declares() -> None:
    schema = load_config(Path(benchmarks.__file__).parent / "movielens.toml").schema
    rows = [*attribute_rows(items_of(MOVIES), "item"), *attribute_rows(users_of(PEOPLE), "user")]
    for row in rows:
        attributes_record(row.entity, LoggedAttributes(row.id, row.attributes, row.ts_ms), schema, Keys())
    assert {a.name for a in schema.user_attributes} == set(rows[-1].attributes)
    assert {a.name for a in schema.item_attributes} == set(rows[0].attributes) - {"title"}
