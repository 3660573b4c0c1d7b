"""Replicas come with the load and go with it."""

import pytest

from tests.cluster.conftest import Application, eventually
from tests.cluster.traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_second_ranker_comes_under_load_goes_without_and_no_request_fails(replaced: Application) -> None:
    assert len(replaced.replicas("Ranker")) == 1
    with Traffic([replaced.url], rankers=4, senders=0, n_candidates=100, pause_s=0.0) as traffic:
        eventually(lambda: len(replaced.replicas("Ranker")) == 2, "a second ranker", 90.0)
    eventually(lambda: len(replaced.replicas("Ranker")) == 1, "one ranker again", 90.0)
    assert replaced.post("/v1/rank", {"user": "u", "candidates": ["i1"]})["items"]
    assert traffic.failed() == []
