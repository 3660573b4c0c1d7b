"""Who is erased is in no version, and nobody who learns, judges or ranks has anything of them left."""

from pathlib import Path
from typing import Any, Final

import pytest

from features.keys import Keys
from tests.cluster.conftest import Application, Tell, eventually
from tests.people import in_files, in_process, traces_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PERSON: Final = "mlle-de-lespinasse"
OWN: Final = {"referrer": "ivory-secretaire", "age": "as-old-as-she-says"}
CONTEXT: Final = {"referrer": OWN["referrer"]}
TRACES: Final = traces_of(PERSON, [f"{name}={value}" for name, value in OWN.items()])
LEARNED: Final = TRACES.keys() - {"id"}
CANDIDATES: Final = [f"i{number}" for number in range(20)]


def clicks(user: str, n: int, **context: str) -> list[dict[str, Any]]:
    return [{"type": "click", "user": user, "item": f"i{number % 20}", "context": context} for number in range(n)]


def others(application: Application) -> None:
    """Forty people do something."""
    events = [one for number in range(40) for one in clicks(f"u{number}", 3, referrer="a-page-of-all")]
    application.post("/v1/events", {"events": events})


def test_of_who_is_erased_nothing_is_left_in_versions_and_she_is_a_stranger(erasing: Application, tell: Tell) -> None:
    versions = erasing.folder / "home" / "versions" / erasing.run_id
    others(erasing)
    assert erasing.http.put(f"/v1/users/{PERSON}", json={"attributes": {"age": OWN["age"]}}).status_code == 202
    erasing.post("/v1/events", {"events": clicks(PERSON, 60, **CONTEXT)})
    eventually(lambda: found(versions) == LEARNED, "versions know of her")
    eventually(lambda: asked(erasing, PERSON) != asked(erasing, "a-stranger"), "so do replicas")
    tell("in memory before", in_memory(erasing))
    log_ms = erasing.http.delete(f"/v1/users/{PERSON}").json()["log_ms"]
    position = (Keys().user_partition(PERSON), log_ms, 0)
    eventually(lambda: erasing.call("erase", [PERSON], [position]), "she is erased")
    assert found(versions) == set()
    tell("in memory after", in_memory(erasing))
    others(erasing)
    assert erasing.call("erase", [PERSON], [position]) and found(versions) == set()
    # Asked last: a decision for her, or with a value of hers, is known of again.
    eventually(lambda: asked(erasing, PERSON) == asked(erasing, "a-stranger"), "she is a stranger")


def found(folder: Path) -> set[str]:
    """Traces in files."""
    return {name for some in in_files(folder, TRACES).values() for name in some}


def in_memory(application: Application) -> dict[str, dict[str, int]]:
    """Traces in the memory of processes, that which is free included."""
    return {name: in_process(application.call("pid", name), TRACES) for name in ("learner", "hub", "judge")}


def asked(application: Application, user: str) -> list[Any]:
    """Scores."""
    answer = application.post("/v1/rank", {"user": user, "candidates": CANDIDATES})
    return [(item["id"], round(item["score"], 4)) for item in answer["items"]]
