"""A learner that learns the wrong thing under load: its versions are held, and people go on with what answers."""

import contextlib
from typing import Any

import pytest

from tests.cluster.broken.test_rollback import loaded, model_of
from tests.cluster.conftest import Application, Tell, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def lines(application: Application) -> list[dict[str, Any]]:
    """What became of versions."""
    with contextlib.suppress(AssertionError):
        found: list[dict[str, Any]] = application.get("/v1/model/versions")["history"]
        return found
    return []


def test_what_a_poisoned_learner_offers_is_held_and_learning_begins_anew_from_what_answers(
    broken: Application, tell: Tell
) -> None:
    with loaded(broken):
        eventually(lambda: broken.get("/v1/model")["judged"]["figures"].get("slates", 0) >= 512, "slates", 90.0)
        began_ms = lines(broken)[-1]["until_ms"]
        broken.call("poison", True)
        n_before = broken.get("/v1/model")["version"]

        def back() -> dict[str, Any] | None:
            return next((one for one in lines(broken) if one["what"] == "went back" and one["first"] > n_before), None)

        went_back = eventually(back, lambda: f"gone back; {model_of(broken)}", 120.0)
        held = next(one for one in lines(broken) if one["what"] == "held" and one["until_ms"] > began_ms)
        tell("versions of the poisoned learner before one was held", held["first"] - n_before - 1)
        tell("why", held["why"])
        assert went_back["who"] == "gate" and "in a row" in went_back["why"]
        assert "above that of what answers" in held["why"]
        broken.call("poison", False)
        newest = broken.get("/v1/model")["version"]
        eventually(
            lambda: (now := model_of(broken)).get("state") == "live" and now["live"] > newest + 3,
            lambda: f"versions pass again; {model_of(broken)}",
            120.0,
        )


def test_nothing_is_published_while_the_judge_is_away_and_then_everything(broken: Application) -> None:
    with loaded(broken):
        eventually(lambda: broken.kill("judge"), "the judge killed")
        eventually(lambda: "judge is away" in ((model_of(broken).get("held") or {}).get("why", "")), "held", 30.0)
        newest = broken.get("/v1/model")["version"]
        eventually(lambda: model_of(broken).get("live", 0) > newest, "versions pass again", 60.0)
        assert broken.get("/v1/model")["state"] == "live"
