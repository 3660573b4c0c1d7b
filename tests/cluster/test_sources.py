"""Bad producers on a real cluster: who sends nonsense is put in quarantine by rule, wherever it comes in."""

import subprocess
import sys
from typing import Any

import pytest

from deployments.client import Headrace
from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

N_NEWEST = 256  # as `SourceRules` has it


def sent(n: int, **fields: Any) -> list[dict[str, Any]]:
    """Clicks of many people on many items, unless told otherwise."""
    return [{"type": "click", "user": f"s{number}", "item": f"i{number % 20}", **fields} for number in range(n)]


def test_a_source_that_sends_nonsense_is_held_by_rule_until_it_is_released(application: Application) -> None:
    with Headrace(application.url, source="kiosk") as kiosk, Headrace(application.url, source="app") as app:

        def held() -> Any:
            return app.get("/v1/sources")["sources"]["kiosk"]["quarantine"]

        for _ in range(2):
            app.send(sent(N_NEWEST))
        kiosk.send(sent(N_NEWEST, user="always-the-same"))
        found = eventually(held, "the kiosk in quarantine", wait_s=10.0)
        assert found["who"] == "rule" and "user is the same in 100%" in found["why"]
        before = app.get("/v1/users/held")
        assert kiosk.send(sent(5, user="held"))["quarantined"] == 5
        assert app.send(sent(5))["accepted"] == 5
        assert app.get("/v1/users/held") == before
        _command("release", "kiosk", application.url)
        assert kiosk.send(sent(1, user="held"))["accepted"] == 1
        assert held() is None


def test_what_a_pipeline_pushes_is_held_too(application: Application) -> None:
    assert "headrace release pipeline" in _command("quarantine", "pipeline", application.url)

    def is_held() -> bool:
        return bool(application.call("push", sent(3, source="pipeline"))["quarantined"] == 3)

    eventually(is_held, "what is pushed in quarantine", wait_s=10.0)
    assert application.call("push", sent(3, source="another"))["accepted"] == 3
    assert "in quarantine, by" in _command("sources", "", application.url)
    _command("release", "pipeline", application.url)


def _command(name: str, source: str, url: str) -> str:
    arguments = [name, *filter(None, [source]), "--url", url]
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout + done.stderr
