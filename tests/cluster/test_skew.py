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

N_RANKS, WATCHED = 500, 5
ITEMS = [f"i{n}" for n in range(20)]
PROMISED, LATE = ("--behind-ms", "500"), ("--behind-ms", "10000")
"""How far behind rows may be; and may not, but are while other programs have all the cores."""


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application that makes many versions, so that there is soon a whole one."""
    application = Application(tmp_path_factory.mktemp("skew"), offer_s=0.2, check_skew=WATCHED)
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


def nothing_differs(application: Application, tell: Tell, *options: str) -> dict[str, Any]:
    """See that nothing does, but for rows that were late; returns what became of decisions."""
    _, found = checked(application, *options, *PROMISED)
    tell("decisions", decisions := found["decisions"])
    assert not any(total["differing"] for total in found["user_features"].values())
    assert decisions["differing"] == decisions["late"]
    if decisions["late"]:
        status, found = checked(application, *options, *LATE)
        assert status == 0, found["item_features"]
    return decisions


def test_nothing_that_is_served_differs_from_what_the_log_gives(application: Application, tell: Tell) -> None:
    prices = [{"id": item, "attributes": {"price": 1.5 * n, "category": "news"}} for n, item in enumerate(ITEMS)]
    application.post("/v1/items", {"items": prices})
    application.post("/v1/events", {"events": [{"type": "click", "user": "first", "item": ITEMS[0]}]})
    eventually(lambda: application.http.get(f"/v1/items/{ITEMS[0]}").json().get("last_seen_ms"), "a projector at work")
    with Traffic([application.url], senders=2, n_candidates=len(ITEMS)) as traffic:
        eventually(lambda: len(traffic.ranks()) >= N_RANKS, f"{N_RANKS} ranks", 120.0)
    tell("events", traffic.n_taken)
    n_ranks = sum(answer.is_good for answer in traffic.ranks())
    eventually(lambda: checked(application)[1]["decisions"]["seen"] >= n_ranks, "all decisions in the log", 60.0)
    assert nothing_differs(application, tell)["judged"] >= 0.9 * n_ranks


def test_what_came_after_a_version_follows_from_the_rows_that_its_learner_had(
    application: Application, tell: Tell
) -> None:
    """Of a log whose beginning is gone this is all that can be judged."""

    def version() -> int:
        return int(application.get("/v1/model")["version"])

    first = version()
    with Traffic([application.url], senders=2, n_candidates=len(ITEMS)):
        eventually(lambda: version() >= max(first, 60) + 20, "a whole version", 120.0)
    assert nothing_differs(application, tell, "--from-version")["judged"] > 20


def test_the_watch_finds_no_more_while_everything_runs(application: Application, tell: Tell) -> None:
    """By now it has seen what the tests before have done; one decision of a few is enough."""

    def found() -> dict[str, Any]:
        told = application.call("status", "skew")
        return {name: n for name, n in told.items() if name.startswith("headrace_skew_")}

    least = 0.5 * N_RANKS / WATCHED
    eventually(lambda: found()["headrace_skew_decisions_total"] >= least, "decisions that the watch looked at", 60.0)
    tell("watch", values := found())
    assert values["headrace_skew_compared_total"] > least * len(ITEMS)
    assert values["headrace_skew_differing_total"] == 0 or values["headrace_skew_late_decisions_total"] > 0
