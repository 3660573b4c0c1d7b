"""`headrace autoschema`: TOML on standard output or in a file, that loads; what people read goes to standard error."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments import cli_autoschema
from deployments.cli import main
from deployments.config import load_config
from features.schema import Schema
from tests.features.autoschema.simulated import clicks, write

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the recorded streams are not here")


@pytest.fixture
def events(tmp_path: Path) -> str:
    return write(tmp_path / "history", clicks())


def loaded(text: str, folder: Path) -> Schema:
    path = folder / "loaded.toml"
    path.write_text(text)
    return load_config(path, {}).schema


def test_standard_output_is_a_configuration_and_nothing_else(
    events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["autoschema", events]) == 0
    out, err = capsys.readouterr()
    schema = loaded(out, tmp_path)
    assert schema.event_types == ("click",) and "segment" in schema.context
    assert f"# looked at   {events}" in out
    assert "6,000 of 6,000 events looked at" in err.replace("\n", " ")


def test_a_folder_with_tables_of_attributes_is_written_to_a_file(
    events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, users, out = tmp_path / "items.parquet", tmp_path / "users.parquet", tmp_path / "my.toml"
    pq.write_table(pa.table({"item": list(range(60)), "brand": ["a", "b", "c"] * 20}), items)
    pq.write_table(pa.table({"user": list(range(300)), "age": list(range(300))}), users)
    tables = ["--items", str(items), "--users", str(users)]
    assert main(["autoschema", str(Path(events).parent), *tables, "--out", str(out)]) == 0
    schema = load_config(out, {}).schema
    assert {(a.entity, a.name, a.kind) for a in schema.attributes} == {
        ("item", "brand", "category"), ("user", "age", "number")
    }  # fmt: skip
    assert capsys.readouterr().out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"history", "items.parquet", "users.parquet", "my.toml"}


def test_a_file_that_is_there_is_replaced_only_by_force(
    events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my.toml"
    out.write_text("mine")
    assert main(["autoschema", events, "--out", str(out)]) == 1
    assert out.read_text() == "mine" and "--force" in capsys.readouterr().err
    assert main(["autoschema", events, "--out", str(out), "--force"]) == 0
    assert load_config(out, {}).schema.event_types == ("click",)


def test_the_same_files_give_the_same_text(events: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        assert main(["autoschema", events, "--sample", "3000"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "3,000 of 6,000, in 8 stretches" in texts[0]


def test_a_bad_file_is_named_and_nothing_is_written(
    events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = Path(events).with_name("other.parquet"), tmp_path / "my.toml"
    bad.write_bytes(Path(events).read_bytes()[:-50])
    assert main(["autoschema", str(bad.parent), "--out", str(out)]) == 1
    assert "other.parquet" in capsys.readouterr().err.replace("\n", "")
    assert not out.exists()


def test_events_that_cannot_be_taken_are_told_in_a_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = clicks(200)
    columns["user"] = [None, *columns["user"].tolist()[1:]]
    assert main(["autoschema", write(tmp_path, columns)]) == 0
    assert "#             1 left out: user is missing" in capsys.readouterr().out
    columns["user"] = pa.array([None] * 200, pa.string())
    assert main(["autoschema", write(tmp_path, columns)]) == 1
    assert "200 left out: user is missing" in capsys.readouterr().err.replace("\n", " ")


class Interrupted(list[str]):
    """Names of files, whoever reads which is interrupted."""

    def __iter__(self) -> Iterator[str]:
        raise KeyboardInterrupt


def test_who_interrupts_it_finds_nothing_written(tmp_path: Path) -> None:
    options = argparse.Namespace(
        events=Interrupted(), items=None, users=None, out=tmp_path / "my.toml", force=False, sample=10
    )
    assert cli_autoschema.run_autoschema(options) == 130
    assert [*tmp_path.iterdir()] == []


def test_what_cannot_be_written_is_told(events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autoschema", events, "--out", str(tmp_path / "nowhere" / "my.toml")]) == 1
    assert "my.toml" in capsys.readouterr().err.replace("\n", "")


def test_passwords_in_addresses_are_not_written(tmp_path: Path) -> None:
    for named, shown in (("s3://key:secret@bucket/x", "s3://bucket/x"), ("events/a@b", "events/a@b")):
        assert cli_autoschema.shown(named) == shown


@needs_data
def test_news_clicks_are_split_by_region_and_referrer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a hand has tuned in benchmarks/globo.toml."""
    assert main(["autoschema", str(DATA / "globo_dev_events.parquet"), "--sample", "200000"]) == 0
    schema = loaded(capsys.readouterr().out, tmp_path)
    assert {c.split for c in schema.counters if c.split is not None} == {"region", "referrer_type"}
    assert "session" not in schema.context
    assert {120.0, 600.0, 1800.0, 7200.0} <= set(schema.counters[0].half_lives_s)


@needs_data
def test_films_are_remembered_for_months(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autoschema", str(DATA / "ml100k_events.parquet")]) == 0
    schema = loaded(capsys.readouterr().out, tmp_path)
    assert set(schema.event_types) == {"like", "view"} and schema.context == ()
    assert min(schema.counters[0].half_lives_s) >= 86400.0 <= max(schema.successor_half_lives_s)
    assert schema.successor_span >= 5 and schema.n_successors >= 256
