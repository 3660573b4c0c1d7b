"""The application whose replicas come and go."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Application


@pytest.fixture(scope="package")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Of each replica there is one; there may be two rankers, and soon are."""
    scale = {"max_rankers": 2, "busy_ratio": 0.2, "up_s": 1.0, "down_s": 2.0, "late_ms": 1000}
    application = Application(tmp_path_factory.mktemp("replaced"), autoscale=scale)
    yield application
    assert application.close() == []
