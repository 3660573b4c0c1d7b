"""Files between the passes: each shard is read by itself, and a file is there whole or not at all."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.backfill.distinct import Distinct
from features.backfill.pieces import Folder


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 7))
@settings(deadline=None)
def test_a_shard_has_its_rows_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, shards: list[int], n: int
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("pieces")))
    table = pa.table({"number": np.arange(len(shards)), "name": [f"row {at}" for at in range(len(shards))]})
    folder.write_piece("one", table, np.array(shards, dtype=np.int64), n)
    numbers = [number for part in folder.read_column("one", "number") for number in part.to_pylist()]
    assert sorted(numbers) == list(range(len(shards)))
    for shard in range(6):
        batches = list(folder.read_piece("one", shard))
        assert all(0 < batch.num_rows <= n for batch in batches)
        numbers = [number for batch in batches for number in batch["number"].to_pylist()]
        assert numbers == [at for at, other in enumerate(shards) if other == shard]


def test_what_is_half_written_is_not_there(tmp_path: Path) -> None:
    folder = Folder(f"file://{tmp_path}/made")
    with pytest.raises(ZeroDivisionError), folder.whole("one") as file:
        file.write(b"half of")
        _ = 1 // 0
    folder.write("two", b"2")
    assert folder.names() == {"two"}
    assert folder.read("two") == b"2"
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["two"]
    folder.delete()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("n", [0, 1, 1000, 200_000])
def test_the_count_of_distinct_things_is_about_right(n: int) -> None:
    rng = np.random.default_rng(n)
    things = rng.integers(1 << 64, size=n, dtype=np.uint64)
    one, other = Distinct(), Distinct()
    one.add(rng.choice(things, n) if n else things)
    one.add(things[: n // 2])
    other.add(things)
    one.merge(other.pack())
    assert one.count() == pytest.approx(n, rel=0.1 if n > 1000 else 0.0)
    assert Distinct(one.pack()).count() == one.count()
