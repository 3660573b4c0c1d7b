"""What rivals begin with: the weights of a folder, wherever a framework makes its workers."""

from pathlib import Path

import pytest

from benchmarks.rivals.work import load_weights
from features.schema import Schema
from learners import snapshots
from learners.checkpoints import Checkpoints
from learners.folder_files import FolderFiles
from learners.online import LearnerConfig, OnlineLearner

SCHEMA = Schema()
VERSION = 3


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A folder with one version."""
    full = OnlineLearner(SCHEMA, LearnerConfig()).take_delta(VERSION, None)
    await Checkpoints(FolderFiles(str(tmp_path)), SCHEMA).write_whole(snapshots.pack(full), VERSION)
    return tmp_path


async def test_weights_are_loaded_in_a_loop_that_runs(folder: Path) -> None:
    assert load_weights(folder, SCHEMA).live.version == VERSION


def test_weights_are_loaded_without_a_loop(folder: Path) -> None:
    assert load_weights(folder, SCHEMA).live.version == VERSION


def test_a_folder_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no version"):
        load_weights(tmp_path, SCHEMA)
