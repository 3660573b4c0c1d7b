"""Who asked to be erased is nowhere when it is told to be done, and is ranked as a stranger."""

from typing import Any, Final

import pytest

from deployments.client import Headrace
from deployments.processes import HOME_VARIABLE, read_record
from features.people import LATE_MS
from tests.cluster.conftest import Application, Tell, eventually
from tests.scanning import traces_in_files, traces_in_servers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PERSON: Final = "the-person-who-asked"
CANDIDATES: Final = [f"i{n}" for n in range(20)]
DONE_S: Final = LATE_MS / 1000 + 60


def some(user: str, n: int) -> list[dict[str, Any]]:
    return [{"type": "click", "user": user, "item": f"i{k % 20}", "id": f"{user}-{k}"} for k in range(n)]


def test_who_is_erased_is_nowhere_and_is_ranked_as_a_stranger(
    erasing: Application, monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(erasing.folder / "home"))
    record = read_record(erasing.port)
    assert record is not None
    servers, files = [record.redis_url], erasing.folder / "archive"
    with Headrace(erasing.url) as client:
        for number in range(40):
            client.send(some(f"u{number}", 10))
        client.send(some(PERSON, 200))
        client.user(PERSON, {"segment": "gold"})
        client.rank(PERSON, CANDIDATES)
        eventually(lambda: any(e["kind"] == "decision" for e in client.export(PERSON)[1:]), "the decision is logged")
        assert len(client.export(PERSON)) == 1 + 200 + 1 + 1
        assert traces_in_servers(servers, [PERSON])
        name = client.erase(PERSON)

        def is_done() -> bool:
            client.send([{"type": "click", "user": "u1", "item": "i1"}])
            return bool(client.erasure(name)["state"] == "done")

        eventually(is_done, lambda: f"{client.erasure(name)}, {client.get('/v1/log')}", DONE_S)
        told = client.erasure(name)
        tell("done after", f"{(told['done_ms'] - told['asked_ms']) / 1000:.0f} s")
        tell("steps", {step: (ms - told["asked_ms"]) / 1000 for step, ms in told["steps"].items()})
        assert traces_in_servers(servers, [PERSON]) == []
        assert list(files.rglob("*.parquet")) and traces_in_files(files, [PERSON]) == []
        versions = erasing.folder / "home" / "versions"
        assert list(versions.rglob("v*")) and traces_in_files(versions, [PERSON]) == []
        assert client.export(PERSON)[1:] == []
        answers = client.rank_many([{"user": user, "candidates": CANDIDATES} for user in (PERSON, "a-stranger")])
    first, second = ({item["id"]: item["score"] for item in answer["items"]} for answer in answers)
    assert first == pytest.approx(second, abs=1e-4) and answers[0]["degraded"] == []
