"""Versions come and go under load: no failed request, and every answer is exactly the version it names."""

import concurrent.futures
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from features.encoding import Inputs
from features.schema import Schema
from learners.editions import Head, Part, heads, parts
from learners.scorer import Scorer
from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

N_SWAPS = int(os.environ.get("HEADRACE_SWAPS", "6"))  # about a second each; a full minute: HEADRACE_SWAPS=60


def test_no_request_fails_and_every_score_is_that_of_the_version_it_names(application: Application) -> None:
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        workers = [
            pool.submit(_feed, application.url, stop),
            *(pool.submit(_rank, application.url, stop, index) for index in range(4)),
        ]
        try:
            first = eventually(lambda: application.get("/v1/model")["version"], "a first version")
            eventually(lambda: application.get("/v1/model")["version"] >= first + N_SWAPS, "versions", 10.0 * N_SWAPS)
        finally:
            stop.set()
        answers = [answer for worker in workers for answer in worker.result()]
    assert all(status in (200, 202) for status, _ in answers)
    seen = {version for _, version in answers if version}
    assert len(seen) >= N_SWAPS // 2
    assert seen <= _rescore(application.folder / "captured", application.folder / "versions")


def test_settings_change_while_replicas_answer(application: Application) -> None:
    """A policy that draws slates, and a longer deadline; and back."""
    (replica,) = application.replicas("Ranker")
    body = {"user": "settings", "candidates": [f"i{n}" for n in range(20)]}

    def propensity() -> float:
        items = application.post("/v1/rank", {**body, "deadline_ms": 5000})["items"]
        return float(items[0]["propensity"])

    assert propensity() == 1.0
    application.call("configure", {"policy": {"name": "plackett_luce"}, "rank": {"deadline_ms": 60_000}})
    eventually(lambda: propensity() < 1.0, "a drawn slate")
    application.call("configure", {})
    eventually(lambda: propensity() == 1.0, "the best first")
    assert application.replicas("Ranker") == [replica]


def _feed(url: str, stop: threading.Event) -> list[tuple[int, int]]:
    rng = np.random.default_rng(1)
    results = []
    with httpx.Client(base_url=url, timeout=30.0) as http:
        while not stop.is_set():
            events = [
                {"type": "click", "user": f"u{rng.integers(200)}", "item": f"i{rng.integers(200)}"} for _ in range(50)
            ]
            results.append((http.post("/v1/events", json={"events": events}).status_code, 0))
            stop.wait(0.1)
    return results


def _rank(url: str, stop: threading.Event, seed: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    results = []
    with httpx.Client(base_url=url, timeout=30.0) as http:
        while not stop.is_set():
            n_candidates = int(rng.integers(1, 100))
            body = {
                "user": f"u{rng.integers(200)}",
                "candidates": [f"i{item}" for item in rng.permutation(200)[:n_candidates]],
            }
            response = http.post("/v1/rank", json=body)
            results.append((response.status_code, response.json()["model"]["version"]))
    return results


def _rescore(captured: Path, versions: Path) -> set[int]:
    """Score every captured batch again with the version it names; returns the versions that were compared.

    An erasure is an edition more of the same version: a batch has the scores of one of them.
    """
    by_version: dict[int, list[tuple[Inputs, Any]]] = {}
    for path in captured.glob("*.npz"):
        with np.load(path) as batch:
            arrays = dict(batch)
        version, scores = int(arrays.pop("version")), arrays.pop("scores")
        by_version.setdefault(version, []).append((Inputs(**arrays), scores))
    scorer, differing = Scorer(Schema()), dict[int, list[tuple[Inputs, Any]]]()

    def kept() -> list[Path]:
        files = sorted(versions.glob("*.bin"))
        return files if files and _edition(files[-1])[0].version >= max(by_version) else []

    for path in eventually(kept, "the last versions are kept", 10.0):
        for _ in scorer.apply(*_edition(path)):
            pass
        asked = differing.get(scorer.version, by_version.get(scorer.version, []))
        differing[scorer.version] = [(inputs, scores) for inputs, scores in asked if not _gives(scorer, inputs, scores)]
    assert set(by_version) - {0} <= set(differing)
    assert {version: len(batches) for version, batches in differing.items() if batches} == {}
    return set(by_version)


def _gives(scorer: Scorer, inputs: Inputs, scores: Any) -> bool:
    return np.allclose(scorer.score(inputs)[inputs.mask], scores[inputs.mask], atol=1e-5, rtol=1e-5)


def _edition(path: Path) -> tuple[Head, list[Part]]:
    head, *rows = msgspec.msgpack.decode(path.read_bytes(), type=list[bytes])
    return heads.unpack(head), [parts.unpack(part) for part in rows]
