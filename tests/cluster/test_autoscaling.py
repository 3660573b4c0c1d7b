"""Replicas come with the load and go with it."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Application, eventually
from tests.cluster.traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application that may have two rankers, and soon does."""
    scale = {"max_rankers": 2, "busy_ratio": 0.2, "up_s": 1.0, "down_s": 2.0, "late_ms": 1000}
    application = Application(tmp_path_factory.mktemp("scaled"), autoscale=scale)
    yield application
    assert application.close() == []


def test_a_second_ranker_comes_under_load_goes_without_and_no_request_fails(scaled: Application) -> None:
    assert len(scaled.replicas("Ranker")) == 1
    with Traffic([scaled.url], rankers=4, senders=0, n_candidates=100, pause_s=0.0) as traffic:
        eventually(lambda: len(scaled.replicas("Ranker")) == 2, "a second ranker", 90.0)
    eventually(lambda: len(scaled.replicas("Ranker")) == 1, "one ranker again", 90.0)
    assert scaled.post("/v1/rank", {"user": "u", "candidates": ["i1"]})["items"]
    assert traffic.failed() == []
