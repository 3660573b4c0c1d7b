"""What the whole application serves is what its log gives: no feature of any decision differs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from deployments.processes import HOME_VARIABLE
from tests.cluster.conftest import Application, Tell, eventually
from tests.cluster.traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

N_RANKS = 500


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application that makes many versions, so that there is soon a whole one."""
    application = Application(tmp_path_factory.mktemp("skew"), offer_s=0.2)
    yield application
    assert application.close() == []


def checked(application: Application, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status of the command, and what it found."""
    ended = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "check-skew", "--port", str(application.port), "--json", *options],
        env={**os.environ, HOME_VARIABLE: str(application.folder / "home")},
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, msgspec.json.decode(ended.stdout.encode())


def differing(found: dict[str, Any]) -> dict[str, Any]:
    totals = {**found["item_features"], **{f"user.{name}": total for name, total in found["user_features"].items()}}
    return {name: total for name, total in totals.items() if total["differing"]}


def test_nothing_that_is_served_differs_from_what_the_log_gives(application: Application, tell: Tell) -> None:
    prices = [{"id": f"i{n}", "attributes": {"price": 1.5 * n, "category": "news"}} for n in range(20)]
    application.post("/v1/items", {"items": prices})
    with Traffic([application.url], senders=2) as traffic:
        eventually(lambda: len(traffic.ranks()) >= N_RANKS, f"{N_RANKS} ranks", 120.0)
        first = application.get("/v1/model")["version"]
    n_ranks = sum(answer.is_good for answer in traffic.ranks())

    def all_logged() -> Any:
        status, found = checked(application)
        return (status, found) if found["decisions"]["seen"] >= n_ranks else None

    status, found = eventually(all_logged, "all decisions in the log", 60.0)
    tell("decisions", found["decisions"])
    tell("events", traffic.n_taken)
    assert differing(found) == {}
    assert status == 0
    assert found["decisions"]["judged"] >= 0.9 * n_ranks
    assert first > 0


def test_what_came_after_a_version_follows_from_the_rows_that_its_learner_had(
    application: Application, tell: Tell
) -> None:
    """Of a log whose beginning is gone this is all that can be judged."""
    with Traffic([application.url], senders=2):
        first = application.get("/v1/model")["version"]
        eventually(lambda: application.get("/v1/model")["version"] >= max(first, 60) + 20, "a whole version", 120.0)
    status, found = checked(application, "--from-version")
    tell("decisions", found["decisions"])
    assert differing(found) == {}
    assert status == 0
    assert found["decisions"]["judged"] > 20
