"""Replicas come with the load and go with it."""

import concurrent.futures
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

BODY = {"user": "u", "candidates": [f"i{index}" for index in range(100)], "deadline_ms": 20_000}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application that may have two rankers, and soon does."""
    scale = {"max_rankers": 2, "busy_ratio": 0.2, "up_s": 1.0, "down_s": 2.0, "late_ms": 1000}
    application = Application(tmp_path_factory.mktemp("scaled"), autoscale=scale)
    yield application
    assert application.close() == []


def _load(url: str, stop: threading.Event) -> int:
    """Rank until told to stop; returns how many requests failed."""
    n_failed = 0
    with httpx.Client(base_url=url, timeout=30.0) as http:
        while not stop.is_set():
            n_failed += http.post("/v1/rank", json=BODY).status_code != 200
    return n_failed


def test_a_second_ranker_comes_under_load_goes_without_and_no_request_fails(scaled: Application) -> None:
    assert len(scaled.replicas("Ranker")) == 1
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(_load, scaled.url, stop) for _ in range(4)]
        try:
            eventually(lambda: len(scaled.replicas("Ranker")) == 2, "a second ranker", 90.0)
        finally:
            stop.set()
        n_failed = sum(worker.result() for worker in workers)
    eventually(lambda: len(scaled.replicas("Ranker")) == 1, "one ranker again", 90.0)
    assert scaled.post("/v1/rank", BODY)["items"]
    assert n_failed == 0
