"""Back to an earlier version under load, and on again: all replicas within a second, and nothing fails."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Application, Tell, eventually
from tests.cluster.traffic import RANK, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

BODY = {"user": "u", "candidates": ["i1", "i2", "i3"]}


@contextlib.contextmanager
def loaded(application: Application) -> Iterator[Traffic]:
    """Ranks and events all the time; none of them fails."""
    with Traffic([application.url], rankers=4, senders=1, pause_s=0.02) as traffic:
        first = application.get("/v1/model")["version"]
        eventually(lambda: application.get("/v1/model")["version"] >= first + 4, "some versions")
        yield traffic
    assert {outcome for (path, outcome) in traffic.outcomes() if path == RANK} == {200}, traffic.outcomes()


def model_of(application: Application) -> dict[str, Any]:
    """What is told of the model, or the error instead, while the hub is away or has no time to answer."""
    told: dict[str, Any] = application.http.get("/v1/model").json()
    return told


def version_of(application: Application) -> int:
    """The newest version, as soon as that is told."""
    told = eventually(lambda: "version" in (model := model_of(application)) and model, "what the hub says", 60.0)
    return int(told["version"])


def seen_by_all(application: Application, is_so: Callable[[int], bool]) -> float:
    """Seconds until no replica answers by any other version: as 60 answers in a row show."""
    began_s = since_s = time.monotonic()
    n_in_row = 0
    with httpx.Client(base_url=application.url) as http:
        while n_in_row < 60:
            version = http.post("/v1/rank", json=BODY).json()["model"]["version"]
            if not is_so(version):
                n_in_row, since_s = 0, time.monotonic()
                assert since_s - began_s < 30.0, version
            n_in_row += 1
    return since_s - began_s


def test_all_replicas_are_at_an_earlier_version_and_back_within_a_second(broken: Application, tell: Tell) -> None:
    with loaded(broken):
        told = broken.get("/v1/model/versions")
        earlier = told["kept"][-4]
        began_s = time.monotonic()
        assert (
            broken.post("/v1/model/rollback", {"version": earlier, "who": "ann", "reason": "a test"})["version"]
            == earlier
        )
        asked_s = time.monotonic() - began_s
        back_s = asked_s + seen_by_all(broken, lambda version: version == earlier)
        tell("rolled back, seen by every replica", f"{back_s:.2f} s")
        model = broken.get("/v1/model")
        assert (model["state"], model["live"], model["pinned"]["who"]) == ("pinned", earlier, "ann")
        eventually(lambda: broken.get("/v1/model")["version"] > told["current"] + 2, "learning goes on")
        assert broken.post("/v1/rank", BODY)["model"]["version"] == earlier
        newest = broken.get("/v1/model")["version"]
        began_s = time.monotonic()
        broken.post("/v1/model/resume", {"who": "ann"})
        on_s = time.monotonic() - began_s + seen_by_all(broken, lambda version: version >= newest)
        tell("resumed, seen by every replica", f"{on_s:.2f} s")
        assert broken.get("/v1/model")["state"] == "live"
    assert max(back_s, on_s) < 10.0  # far beyond a second, as machines are shared; what it takes is told
    lines = broken.get("/v1/model/versions")["history"]
    assert [line["what"] for line in lines[-3:]] == ["rolled back", "resumed", "published"]


def test_a_pin_survives_hub_and_replica(broken: Application) -> None:
    with loaded(broken):
        earlier = broken.get("/v1/model/versions")["kept"][-3]
        broken.post("/v1/model/rollback", {"version": earlier})
        eventually(lambda: broken.kill("hub"), "the hub killed")
        (victim, *_) = broken.replicas("Ranker")
        seen_by_all(broken, lambda version: version == earlier)
        eventually(lambda: model_of(broken).get("state") == "pinned", "the hub back", 60.0)
        victim.kill()
        eventually(lambda: victim not in (now := broken.replicas("Ranker")) and len(now) == 2, "a new replica", 60.0)
        before = version_of(broken)
        eventually(lambda: version_of(broken) > before, "learning goes on", 60.0)
        seen_by_all(broken, lambda version: version == earlier)
        assert [line["what"] for line in broken.get("/v1/model/versions")["history"]].count("rolled back") >= 1
        broken.post("/v1/model/resume", {})
        eventually(lambda: broken.post("/v1/rank", BODY)["model"]["version"] > before, "the newest version")


def test_a_version_that_is_not_kept_is_refused_and_nothing_changes(broken: Application) -> None:
    response = broken.http.post("/v1/model/rollback", json={"version": 10**9})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["path"] == "$.version" and "kept are" in error["message"]
    assert broken.get("/v1/model")["state"] == "live"
