"""Say what the application is made of, as CycloneDX: `make sbom` writes build/sbom.json.

    cyclonedx-py: everything installed here, and what needs what ─► what headrace.lock and torch's locks name
       ─► with the digests of the lock, the licences of LICENCES.md, and the packages that are inside packages

Invariant: every package of those locks that is for this machine is there in its version, or there is no file.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from deployments.locks.licences import TABLE, read_table
from deployments.locks.reading import APPLICATION, CPU, CUDA, ROOT, Locked, LockError, read_lock

WRITTEN: Final = ROOT / "build" / "sbom.json"
SPEC: Final = SchemaVersion.V1_6
Component = dict[str, Any]


def main(options: list[str]) -> int:
    """Write the bill of materials, by default to build/sbom.json."""
    written = Path(options[0]) if options else WRITTEN
    licences = {row.name: row.licence for row in read_table(TABLE.read_text())}
    bom = of_application(of_environment(), application_here(), licences)
    text = json.dumps(bom, indent=1)
    invalid = JsonStrictValidator(SPEC).validate_str(text)
    if invalid:
        print(f"not what CycloneDX {SPEC.to_version()} asks for: {invalid}", file=sys.stderr)
        return 1
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(text)
    print(f"{written}: {len(bom['components'])} packages")
    return 0


def application_here() -> dict[str, Locked]:
    """What the application needs on this machine, by name, with torch as it is installed."""
    torch = CPU if any(one.version == _installed("torch") for one in _here(CPU)) else CUDA
    return {one.name: one for one in (*_here(APPLICATION), *_here(torch))}


def _here(lock: str) -> list[Locked]:
    return [one for one in read_lock(lock) if one.is_for()]


def _installed(name: str) -> str:
    return importlib.metadata.version(name)


def of_environment() -> dict[str, Any]:
    """What cyclonedx-py finds in the environment of this process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bom.json"
        command = [str(Path(sys.executable).with_name("cyclonedx-py")), "environment", sys.executable]
        options = ["--pyproject", str(ROOT / "pyproject.toml"), "--spec-version", SPEC.to_version(), "--no-validate"]
        subprocess.run([*command, *options, "--output-reproducible", "--output-file", str(file)], check=True)
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def of_application(bom: dict[str, Any], locked: Mapping[str, Locked], licences: Mapping[str, str]) -> dict[str, Any]:
    """Keep of a bill of materials what locks name, and add what they and LICENCES.md know.

    Raises:
        LockError: If something is not there, or in another version.
    """
    found = {_comparable(one["name"]): one for one in bom["components"]}
    for name, entry in locked.items():
        there = found[name]["version"] if name in found else "nothing"
        if there != entry.version:
            raise LockError(f"{name}: expected {entry.version} as locked, got {there}: `make` installs it")
    components = [_with_known(found[name], entry, licences[name]) for name, entry in locked.items()]
    kept = {one["bom-ref"] for one in components}
    root = bom["metadata"]["component"]["bom-ref"]
    asked = {found[_comparable(name)]["bom-ref"] for name in _asked_for()}
    needs = [
        {
            **one,
            "dependsOn": [ref for ref in one.get("dependsOn", []) if ref in (asked if one["ref"] == root else kept)],
        }
        for one in bom["dependencies"]
        if one["ref"] in kept | {root}
    ]
    return {**bom, "components": components, "dependencies": needs}


def _asked_for() -> list[str]:
    """What Headrace itself names, without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line).name for line in project["dependencies"]]


def _with_known(component: Component, entry: Locked, licence: str) -> Component:
    files = {
        "type": "distribution",
        "url": component["purl"],
        "comment": "any of the files that deployments/locks allow",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in entry.hashes],
    }
    known = {**component, "externalReferences": [*component.get("externalReferences", []), files]}
    if licence != "NOASSERTION":
        known["licenses"] = [{"expression": licence, "acknowledgement": "declared"}]
    inside = _inside(entry.name, component["bom-ref"])
    return {**known, "components": inside} if inside else known


def _inside(name: str, ref: str) -> list[Component]:
    """Packages that a package carries as copies of its own."""
    found = importlib.metadata.files(name) or []
    others = [file for file in found if file.name == "METADATA" and len(file.parts) > 2]
    told = [importlib.metadata.PathDistribution(Path(str(file.locate())).parent) for file in others]
    pairs = sorted({(_comparable(one.name), one.version) for one in told})
    return [
        {
            **{"type": "library", "name": inner, "version": version},
            **{"bom-ref": f"{ref}/{inner}=={version}", "purl": f"pkg:pypi/{inner}@{version}"},
        }
        for inner, version in pairs
    ]


def _comparable(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
