"""One thread for all that learns: laws that hold bit for bit hold on one, and small batches gain nothing from two."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Restored afterwards, for whatever else runs in this process."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
