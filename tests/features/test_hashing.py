"""The compiled hash is the library's."""

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from features.hashing import LONGEST, xxh3_64


@pytest.mark.parametrize("n", range(LONGEST + 1))
def test_every_length_hashes_as_in_the_library(n: int) -> None:
    data = np.random.default_rng(n).integers(0, 256, n + 7).astype(np.uint8)
    assert int(xxh3_64(data, 3, n)) == xxhash.xxh3_64_intdigest(data[3 : 3 + n].tobytes())


@given(st.binary(max_size=LONGEST))
def test_any_bytes_hash_as_in_the_library(packed: bytes) -> None:
    assert int(xxh3_64(np.frombuffer(packed, np.uint8), 0, len(packed))) == xxhash.xxh3_64_intdigest(packed)
