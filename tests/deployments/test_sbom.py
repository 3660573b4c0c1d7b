"""`make sbom` names every package that the application installs, and is CycloneDX."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.locks import sbom
from deployments.locks.licences import TABLE, read_table
from deployments.locks.reading import APPLICATION, CPU, CUDA, LockError, read_lock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return sbom.of_environment()


@pytest.fixture(scope="module")
def licences() -> dict[str, str]:
    return {row.name: row.licence for row in read_table(TABLE.read_text())}


@pytest.fixture(scope="module")
def bom(environment: dict[str, Any], licences: dict[str, str]) -> dict[str, Any]:
    return sbom.of_application(environment, sbom.application_here(), licences)


def named(bom: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["purl"].removeprefix("pkg:pypi/").partition("@")[0]: one for one in bom["components"]}


def test_it_names_each_locked_package_and_no_other(bom: dict[str, Any]):
    wanted = {one.name for lock in (APPLICATION, CPU) for one in read_lock(lock) if one.is_for()}
    assert wanted <= set(named(bom)) <= wanted | {one.name for one in read_lock(CUDA)}


def test_digests_and_licences_are_those_of_the_lock_and_the_table(bom: dict[str, Any], licences: dict[str, str]):
    locked = sbom.application_here()
    for name, one in named(bom).items():
        told = {digest["content"] for file in one["externalReferences"] for digest in file.get("hashes", [])}
        assert set(locked[name].hashes) <= told
        assert [told["expression"] for told in one["licenses"]] == [licences[name]]


def test_it_says_what_needs_what(bom: dict[str, Any]):
    needs = {one["ref"]: set(one["dependsOn"]) for one in bom["dependencies"]}
    refs = {name: one["bom-ref"] for name, one in named(bom).items()}
    assert {refs["ray"], refs["torch"]} <= needs[bom["metadata"]["component"]["bom-ref"]]
    assert refs["six"] not in needs[bom["metadata"]["component"]["bom-ref"]]
    assert refs["llvmlite"] in needs[refs["numba"]]


def test_it_names_copies_of_packages_inside_packages(bom: dict[str, Any]):
    assert {"aiohttp", "psutil"} <= {one["name"] for one in named(bom)["ray"]["components"]}


def test_what_is_not_there_or_in_another_version_is_an_error(environment: dict[str, Any], licences: dict[str, str]):
    locked = sbom.application_here()
    (redis,) = (place for place, one in enumerate(environment["components"]) if one["name"] == "redis")
    newer = copy.deepcopy(environment)
    newer["components"][redis]["version"] = "99"
    with pytest.raises(LockError, match=r"redis: expected .* got 99"):
        sbom.of_application(newer, locked, licences)
    del newer["components"][redis]
    with pytest.raises(LockError, match=r"redis: expected .* got nothing"):
        sbom.of_application(newer, locked, licences)


def test_it_is_cyclonedx_and_is_written_where_it_is_wanted(tmp_path: Path):
    """What is not valid is not written."""
    assert sbom.main([str(tmp_path / "made" / "sbom.json")]) == 0
    written = json.loads((tmp_path / "made" / "sbom.json").read_text())
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
