"""One thread for all that learns: laws that hold bit for bit hold on one, and small batches gain nothing from two."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Restored afterwards, for whatever else runs in this process."""
    with threadpool_limits(1):
        yield
