"""Laws of the configuration: every field has a default, and whatever is wrong is named."""

from pathlib import Path

import pytest

from deployments.config import Config, as_dict, config_from_dict, load_config
from deployments.errors import ConfigError
from learners.policies import PolicyConfig


def test_everything_has_a_default() -> None:
    assert load_config(None, {}) == Config()


def test_the_environment_names_the_store_and_a_file_may_set_anything(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text('n_rankers = 2\n[store]\nclock = "event"\n[learner]\nbatch_span_s = 5.0\n[schema]\nn_recent = 8\n')
    config = load_config(path, {"HEADRACE_REDIS_URL": "redis://example:1"})
    assert (config.n_rankers, config.store.clock, config.store.url) == (2, "event", "redis://example:1")
    assert (config.learner.batch_span_s, config.schema.n_recent) == (5.0, 8)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[store]\ncolour = 1", "store.colour"),
        ("[store]\nlog_max_bytes = -1", "store.log_max_bytes: expected 0 or more"),
        ('[store]\nclock = "sun"', "store"),
        ("[schema]\ncolour = 1", "colour"),
        ("[schema]\nn_recent = 0", "n_recent"),
        ("[learner]\nbatch_size = 0", "learner"),
        ("[learner.sampling]\ncolour = 1", "learner.sampling.colour"),
        ("[learner.drift]\ndelta = 0", "drift.delta"),
        ("[judge.sources]\ncolour = 1", "judge.sources.colour"),
        ("[judge.sources]\nsigmas = -1.0", "sources.sigmas"),
        ("[judge.sources.duel]\nalarms = 1.0", "duel.alarms"),
        ("n_rankers = 0", "n_rankers"),
        ("[rank]\ndeadline_ms = 0", "rank: deadline_ms"),
        ('[policy]\nname = "best"', "policy"),
        ("[policy]\ntemperature = 0", "policy.temperature"),
        ("[policy]\nepsilon = 0.1", "policy.epsilon"),
        ("not toml", "headrace.toml"),
        ("# \udcff", "headrace.toml"),
        ("x = " + "[" * 100_000, "headrace.toml"),
        ("store = 1", "store: expected a table, got 1"),
        ("schema = [1]", "schema: expected a table"),
        ("rank = 1", "rank: expected a table"),
        ("[schema]\ncounters = 1", "schema"),
        ("[schema]\nattributes = [1]", "schema"),
        ('n_rankers = "two"', "n_rankers"),
        ("folder = 1", "folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=named):
        load_config(path, {})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(Path("nowhere.toml"), {})


def test_a_replica_gets_the_policy() -> None:
    config = config_from_dict({"policy": {"name": "plackett_luce", "temperature": 2}})
    assert config.replica.live.policy == PolicyConfig(name="plackett_luce", temperature=2.0)
    assert Config().replica.live.policy.name == "greedy"


def test_partial_tables_keep_the_other_defaults() -> None:
    assert config_from_dict({"cluster": {"port": 9000}}).cluster.host == "127.0.0.1"


def test_what_is_shown_has_no_secrets() -> None:
    urls = {"url": "redis://name:secret@host:1/0", "archive": "s3://key:secret@bucket/log@home"}
    shown = as_dict(config_from_dict({"store": urls, "folder": "s3://key:secret@bucket/versions"}))
    assert "secret" not in str(shown)
    assert (shown["store"]["archive"], shown["folder"]) == ("s3://bucket/log@home", "s3://bucket/versions")
