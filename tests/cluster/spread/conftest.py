"""An application whose store and learners are several."""

from collections.abc import Iterator

import pytest

from features.embedded_cluster import EmbeddedCluster
from tests.cluster.conftest import Application


@pytest.fixture(scope="package")
def servers() -> Iterator[EmbeddedCluster]:
    """Three masters with replicas that sync what they are sent."""
    with EmbeddedCluster(("--appendfsync", "always")) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def spread(servers: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Two learners on them; an event counts when a replica has it."""
    store = {"url": servers.url, "durability": "replica"}
    learner = {"rounds": {"n_learners": 2}}
    application = Application(tmp_path_factory.mktemp("spread"), store=store, learner=learner)
    yield application
    assert application.close() == []
