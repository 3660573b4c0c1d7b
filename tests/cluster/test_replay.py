"""What a source taught is undone in a running application: by a lineage that is made beside it, and promoted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.processes import HOME_VARIABLE
from tests.cluster.conftest import Application, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

USERS, ITEMS = [f"u{n}" for n in range(12)], [f"i{n}" for n in range(24)]
N_GOOD, N_BAD = 240, 168


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """One that archives its log."""
    folder = tmp_path_factory.mktemp("replayed")
    application = Application(folder, store={"url": "", "archive": str(folder / "archive")})
    (folder / "config.toml").write_text(f'[store]\narchive = "{folder}/archive"\n')
    yield application
    assert application.close() == []


def headrace(application: Application, *arguments: str) -> str:
    """What a command says; it must go well."""
    done = subprocess.run(
        [
            sys.executable, "-m", "deployments.cli", *arguments,
            "--port", str(application.port), "--config", str(application.folder / "config.toml"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, HOME_VARIABLE: str(application.folder / "home"), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


def send(application: Application, source: str, n: int) -> None:
    events = [
        {"type": "click", "user": USERS[number % 12], "item": _item(number), "source": source} for number in range(n)
    ]
    assert application.post("/v1/events", {"events": events})["accepted"] == n


def _item(number: int) -> str:
    """Every item as often as any other, and of one person none so often that it does not count."""
    return ITEMS[(number + 5 * (number // 24)) % 24]


def clicks(application: Application, path: str) -> int:
    """Clicks counted, by the longest half-life there is; an item has no row before the projector has made one."""
    response = application.http.get(path)
    if response.status_code == 404:
        return 0
    counters: dict[str, float] = response.raise_for_status().json()["counters"]
    counted = {name: value for name, value in counters.items() if name.startswith("click.")}
    return round(max(counted.values(), default=0.0))


def counted(application: Application) -> tuple[list[int], list[int]]:
    users = [clicks(application, f"/v1/users/{user}") for user in USERS]
    return users, [clicks(application, f"/v1/items/{item}") for item in ITEMS]


def expected(n_events: int) -> tuple[list[int], list[int]]:
    return [n_events // 12] * 12, [n_events // 24] * 24


def adopted(application: Application) -> list[dict[str, Any]]:
    history = application.get("/v1/model/versions")["history"]
    return [change for change in history if change["what"] == "adopted"]


def test_a_source_is_left_out_of_states_rows_and_model(application: Application) -> None:
    send(application, "good", N_GOOD)
    send(application, "bad", N_BAD)
    eventually(lambda: counted(application) == expected(N_GOOD + N_BAD), lambda: f"both: {counted(application)}", 60.0)
    told = headrace(application, "replay", "--without", "bad")
    assert f"{N_GOOD} events count, MRR" in told and f"{N_BAD} events of bad are left out" in told
    name = told.rpartition("headrace promote ")[2].strip()
    assert counted(application) == expected(N_GOOD + N_BAD) and adopted(application) == []
    send(application, "good", 24)
    headrace(application, "promote", name)
    newest = application.get("/v1/audit?last=1")["actions"][0]
    assert (newest["what"], newest["about"]) == ("promote", name)
    eventually(lambda: counted(application) == expected(N_GOOD + 24), lambda: f"good: {counted(application)}", 60.0)
    eventually(lambda: adopted(application), "the model is adopted", 30.0)
    send(application, "good", 24)
    eventually(lambda: counted(application) == expected(N_GOOD + 48), lambda: f"after: {counted(application)}", 60.0)
    eventually(lambda: application.get("/v1/model")["events"] == N_GOOD + 48, "everything learned", 60.0)
    answer = application.post("/v1/rank", {"user": "u1", "candidates": ITEMS})
    assert answer["degraded"] == [] and answer["model"]["version"] > 0
