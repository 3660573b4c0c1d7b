"""Attributes of MovieLens 100K as `headrace evaluate` and `headrace replay` take them.

    python -m benchmarks.movielens ITEMS USERS FOLDER

ITEMS (`item_id, title, release_year, genres`, genres in one text) and USERS (`user_id, age, gender, occupation, zip`)
are the tables of the data set; FOLDER gets `items.parquet` and `users.parquet` with the attributes that
`benchmarks/movielens.toml` declares. All is known from the start: the data set does not say since when.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def items_of(movies: pa.Table) -> pa.Table:
    """`item, title, decade, genres`; a year that is not a number is missing."""
    years = [int(year) if year.isdecimal() else None for year in movies["release_year"].to_pylist()]
    return pa.table(
        {
            "item": movies["item_id"],
            "title": movies["title"],
            "decade": pa.array([year and year // 10 * 10 for year in years], pa.int64()),
            "genres": [text.split() for text in movies["genres"].to_pylist()],
        }
    )


def users_of(people: pa.Table) -> pa.Table:
    """`user, age, gender, occupation`."""
    return people.select(["user_id", "age", "gender", "occupation"]).rename_columns(
        ["user", "age", "gender", "occupation"]
    )


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.movielens", description=__doc__.partition("\n")[0])
    parser.add_argument("items", type=Path, help="Parquet: item_id, title, release_year, genres")
    parser.add_argument("users", type=Path, help="Parquet: user_id, age, gender, occupation")
    parser.add_argument("folder", type=Path, help="gets items.parquet and users.parquet")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(items_of(pq.read_table(options.items)), options.folder / "items.parquet")
    pq.write_table(users_of(pq.read_table(options.users)), options.folder / "users.parquet")


if __name__ == "__main__":
    main()
