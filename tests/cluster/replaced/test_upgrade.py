"""Another release takes the place of one that runs, and nobody notices.

Of each replica there is one, so its successor must be there before it goes.
"""

import pytest

from tests.cluster.conftest import Application, eventually
from tests.cluster.traffic import DEADLINE_MS, EVENTS, RANK, Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ITEMS = [f"i{index}" for index in range(20)]
ACTORS = ("hub", "projector", "learner")
DEPLOY_S = 200.0


def _pids(application: Application) -> dict[str, int]:
    return {actor: application.call("pid", actor) for actor in ACTORS}


def test_another_release_takes_over_without_a_failed_request(replaced: Application) -> None:
    with Traffic([replaced.url]) as traffic:
        eventually(lambda: replaced.get("/v1/model")["version"] > 1, "versions")
        actors, replicas = _pids(replaced), replaced.replicas("Ranker")
        replaced.call("redeploy", {"offer_s": 1.5}, wait_s=DEPLOY_S)
        now = _pids(replaced)
        assert all(now[actor] != actors[actor] for actor in ACTORS)
        eventually(lambda: not set(replaced.replicas("Ranker")) & set(replicas), "the old replicas gone", 60.0)
        before = replaced.get("/v1/model")["version"]
        eventually(lambda: replaced.get("/v1/model")["version"] > before, "learning goes on")
    assert set(traffic.outcomes()) == {(RANK, 200), (EVENTS, 202)}, traffic.outcomes()
    eventually(lambda: replaced.get("/v1/model")["events"] >= traffic.n_taken, "everything learned", 60.0)
    assert replaced.get("/v1/model")["events"] == traffic.n_taken


def test_the_same_release_leaves_everything_in_place(replaced: Application) -> None:
    actors, replicas = _pids(replaced), replaced.replicas("Ranker")
    replaced.call("redeploy", {"offer_s": 1.5, "policy": {"name": "plackett_luce"}}, wait_s=DEPLOY_S)
    body = {"user": "u1", "candidates": ITEMS, "deadline_ms": DEADLINE_MS}
    eventually(lambda: replaced.post("/v1/rank", body)["items"][0]["propensity"] < 1.0, "a drawn slate")
    assert (_pids(replaced), replaced.replicas("Ranker")) == (actors, replicas)
