"""The application to be broken."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Application

LOG_MAX_BYTES = 64_000_000


@pytest.fixture(scope="package")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Two rankers, and a log that is archived and may not grow large."""
    folder = tmp_path_factory.mktemp("broken")
    store = {"url": "", "archive": str(folder / "archive"), "log_max_bytes": LOG_MAX_BYTES}
    application = Application(folder, n_rankers=2, store=store)
    yield application
    assert application.close() == []
