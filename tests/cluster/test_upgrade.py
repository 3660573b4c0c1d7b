"""Another release takes the place of one that runs, and nobody notices."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Application, eventually
from tests.cluster.traffic import DEADLINE_MS, EVENTS, RANK, Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ITEMS = [f"i{index}" for index in range(20)]
ACTORS = ("hub", "projector", "learner")
DEPLOY_S = 200.0


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application to be upgraded; of each replica there is one, so its successor must be there before it goes."""
    application = Application(tmp_path_factory.mktemp("upgraded"))
    yield application
    assert application.close() == []


def _pids(application: Application) -> dict[str, int]:
    return {actor: application.call("pid", actor) for actor in ACTORS}


def test_another_release_takes_over_without_a_failed_request(upgraded: Application) -> None:
    with Traffic([upgraded.url]) as traffic:
        eventually(lambda: upgraded.get("/v1/model")["version"] > 1, "versions")
        actors, replicas = _pids(upgraded), upgraded.replicas("Ranker")
        upgraded.call("redeploy", {"offer_s": 1.5}, wait_s=DEPLOY_S)
        now = _pids(upgraded)
        assert all(now[actor] != actors[actor] for actor in ACTORS)
        eventually(lambda: not set(upgraded.replicas("Ranker")) & set(replicas), "the old replicas gone", 60.0)
        before = upgraded.get("/v1/model")["version"]
        eventually(lambda: upgraded.get("/v1/model")["version"] > before, "learning goes on")
    assert set(traffic.outcomes()) == {(RANK, 200), (EVENTS, 202)}, traffic.outcomes()
    eventually(lambda: upgraded.get("/v1/model")["events"] >= traffic.n_taken, "everything learned", 60.0)
    assert upgraded.get("/v1/model")["events"] == traffic.n_taken


def test_the_same_release_leaves_everything_in_place(upgraded: Application) -> None:
    actors, replicas = _pids(upgraded), upgraded.replicas("Ranker")
    upgraded.call("redeploy", {"offer_s": 1.5, "policy": {"name": "plackett_luce"}}, wait_s=DEPLOY_S)
    body = {"user": "u1", "candidates": ITEMS, "deadline_ms": DEADLINE_MS}
    eventually(lambda: upgraded.post("/v1/rank", body)["items"][0]["propensity"] < 1.0, "a drawn slate")
    assert (_pids(upgraded), upgraded.replicas("Ranker")) == (actors, replicas)
