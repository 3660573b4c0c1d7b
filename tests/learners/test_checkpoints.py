"""Laws of durable commits: what was written is found again, and what is corrupt is skipped by name."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from features.store_files import StoreFiles
from learners import checkpoints, snapshots
from learners.checkpoints import LEFT, Checkpoints, Files
from learners.errors import UnknownVersion
from learners.folder_files import FolderFiles
from learners.online import OnlineLearner
from learners.snapshots import Delta
from tests.learners.examples import CONFIG, SCHEMA, learned, log, stream

N_VERSIONS = 5


@pytest.fixture(params=["folder", "store", "store on a cluster"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Files]:
    """Every place where versions are kept, empty."""
    if request.param == "folder":
        yield FolderFiles(str(tmp_path))
        return
    servers = request.getfixturevalue("empty_server" if request.param == "store" else "empty_cluster")
    made = StoreFiles(servers.url)
    yield made
    await made.close()


def versions(n: int = N_VERSIONS) -> list[Delta]:
    """Successive versions of one learner; the first is whole."""
    entries = log(stream(60 * n))
    learner = OnlineLearner(SCHEMA, CONFIG)
    deltas = []
    for version in range(1, n + 1):
        learned(entries[60 * (version - 1) : 60 * version], learner)
        deltas.append(learner.take_delta(version, version - 1 or None))
    return deltas


async def written(files: Files, deltas: list[Delta]) -> Delta:
    """Write versions as the hub does; returns the whole state after the last."""
    subject = Checkpoints(files, SCHEMA)
    full = await subject.load()
    for delta in deltas:
        await subject.write(snapshots.pack(delta), delta.version)
        full = delta if full is None else snapshots.merge(full, delta)
        if subject.is_due(full.version):
            await subject.write_whole(snapshots.pack(full), full.version)
            await subject.thin(full.version)
    assert full is not None
    return full


def assert_same(left: Delta | None, right: Delta) -> None:
    """Equal versions, weights, rows and positions."""
    assert left is not None and left.version == right.version
    assert left.progress == right.progress
    np.testing.assert_array_equal(left.weights, right.weights)
    for name, rows in right.tables.items():
        np.testing.assert_array_equal(left.tables[name].values, rows.values)
        np.testing.assert_array_equal(left.tables[name].keys, rows.keys)


async def test_what_was_written_is_loaded_again(files: Files) -> None:
    assert await Checkpoints(files, SCHEMA).load() is None
    full = await written(files, versions())
    assert_same(await Checkpoints(files, SCHEMA).load(), full)


async def test_deltas_go_when_two_whole_versions_are_behind_them(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FULL_EVERY", 2)
    full = await written(files, versions())
    assert sorted(await files.names()) == [
        "v0000000002.full",
        "v0000000003.delta",
        "v0000000004.delta",
        "v0000000004.full",
        "v0000000005.delta",
    ]
    assert_same(await Checkpoints(files, SCHEMA).load(), full)


async def test_every_version_that_is_named_is_put_together_as_it_was_and_no_other(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FULL_EVERY", 2)
    deltas, was = versions(7), {}
    for number, delta in enumerate(deltas, 1):
        await written(files, [delta])
        was[number] = snapshots.pack(await Checkpoints(files, SCHEMA).at(number))
        kept = await Checkpoints(files, SCHEMA).numbers()
        assert kept == sorted(kept) and kept[-1] == number
        for version in kept:
            assert snapshots.pack(await Checkpoints(files, SCHEMA).at(version)) == was[version]
        for version in {0, number + 1, *range(1, number)} - set(kept):
            with pytest.raises(UnknownVersion, match=f"version {version} is not kept; kept are .*{number}"):
                await Checkpoints(files, SCHEMA).at(version)


def test_whole_versions_are_kept_thinner_the_older_they_are() -> None:
    kept: set[int] = set()
    every = checkpoints.FULL_EVERY
    for number in range(every, every * 2000, every):
        kept = checkpoints.thinned(kept | {number}, 8)
        assert number in kept and len(kept) <= 8
        far = sorted(number - each for each in kept)
        if number > every * 300:
            assert every * 32 < far[-1] <= every * 64 and far[1] == every
            reach = [every << power for power in range(7)]
            assert all(any(bound / 4 < each <= bound for each in far) for bound in reach)


def test_numbers_are_told_in_spans() -> None:
    assert checkpoints.spans([3, 7, 8, 9, 12, 13]) == "3, 7-9, 12-13"
    assert checkpoints.spans([]) == "none"


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
async def test_a_corrupt_whole_state_is_skipped_for_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    monkeypatch.setattr(checkpoints, "FULL_EVERY", 2)
    full = await written(FolderFiles(str(tmp_path)), versions())
    broken = tmp_path / "v0000000004.full"
    data = broken.read_bytes()
    changed = {"cut": data[:-3], "altered": data[:-3] + b"xyz", "empty": b""}[damage]
    broken.write_bytes(changed)
    with caplog.at_level(logging.WARNING):
        assert_same(await Checkpoints(FolderFiles(str(tmp_path)), SCHEMA).load(), full)
    assert "v0000000004.full is skipped" in caplog.text


async def test_nothing_is_built_on_a_corrupt_delta(tmp_path: Path) -> None:
    deltas = versions()
    await written(FolderFiles(str(tmp_path)), deltas)
    (tmp_path / "v0000000003.delta").write_bytes(b"half a fi")
    loaded = await Checkpoints(FolderFiles(str(tmp_path)), SCHEMA).load()
    assert loaded is not None and loaded.version == 2
    assert not (tmp_path / "v0000000004.delta").exists()


async def test_a_file_that_was_being_written_is_not_met_nor_kept_unless_somebody_is_leaving_it(tmp_path: Path) -> None:
    full = await written(FolderFiles(str(tmp_path)), versions(2))
    for name in ("v0000000003.delta", LEFT):
        (tmp_path / f".{name}.tmp").write_bytes(b"half a fi")
    assert_same(await Checkpoints(FolderFiles(str(tmp_path)), SCHEMA).load(), full)
    assert [path.name for path in tmp_path.glob(".*")] == [f".{LEFT}.tmp"]


async def test_a_version_from_elsewhere_takes_the_place_of_all_before_it(files: Files) -> None:
    full = await written(files, versions())
    other = learned(log(stream(90, seed=9)), OnlineLearner(SCHEMA, CONFIG)).snapshot(full.version + 1)
    subject = Checkpoints(files, SCHEMA)
    await subject.load()
    await subject.replace(other)
    assert_same(await Checkpoints(files, SCHEMA).load(), other)
    assert await files.names() == [f"v{other.version:010d}.full"]
    assert not subject.is_due(other.version)
    assert await files.names() == [f"v{other.version:010d}.full"]


async def test_what_is_left_for_adoption_is_no_version_until_it_is(files: Files) -> None:
    subject = Checkpoints(files, SCHEMA)
    assert await subject.left() is None
    await files.write(LEFT, b"a version from elsewhere")
    full = await written(files, versions())
    assert_same(await Checkpoints(files, SCHEMA).load(), full)
    assert await subject.left() == b"a version from elsewhere"
    await subject.drop_left()
    assert await subject.left() is None
    assert_same(await Checkpoints(files, SCHEMA).load(), full)


async def test_the_last_whole_version_but_one_is_found_beside_a_hub_and_nothing_is_dropped(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FULL_EVERY", 2)
    assert await Checkpoints(files, SCHEMA).before_last() is None
    deltas = versions()
    await written(files, deltas[:1])
    first = await Checkpoints(files, SCHEMA).before_last()
    assert first is not None and (first.version, first.base) == (1, None)
    await written(files, deltas[1:])
    await files.write("v0000000009.delta", b"of a hub that goes on meanwhile")
    names = await files.names()
    found = await Checkpoints(files, SCHEMA).before_last()
    assert found is not None and found.version == min(int(name[1:11]) for name in names if name.endswith(".full"))
    assert found.private is not None and found.private.items
    assert await files.names() == names
