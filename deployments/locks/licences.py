"""Which licence everything has that the locks name, and whether it goes with ours: `make licences` writes LICENCES.md.

    metadata of what is installed (an SPDX expression, or a usual name for one) ─┐
    licences.toml: what was read where those leave it open                      ─┴► LICENCES.md ◄─ `make check`

The check is about every locked package, installed or not: it stands in LICENCES.md in the version of the lock, with a
licence that is on the list, or is an exception with its reason; and what is installed must have that licence. A licence
that is neither, or that nobody knows, fails: it is for a person to read.
"""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.version import Version

from deployments.locks.reading import APPLICATION, CPU, CUDA, FOLDER, Locked, read_lock

TABLE: Final = FOLDER / "LICENCES.md"
RULES: Final = FOLDER / "licences.toml"
GROUPS: Final = {
    "The application": (APPLICATION, CPU),
    "For `ray up` in a cloud": ("aws", "gcp"),
    "Development": ("dev",),
    "Benchmarks": ("bench",),
    "torch with CUDA, where the index has no other": (CUDA,),
}
_USUAL: Final = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd 3-clause or apache-2.0": "BSD-3-Clause OR Apache-2.0",
    "gplv2": "GPL-2.0-only",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "psfl": "PSF-2.0",
}
_ROW: Final = re.compile(r"^\| (?P<name>[a-z0-9-]+) \| (?P<version>\S+) \| (?P<licence>[^|]+) \|")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    version: str
    """Public: without what tells builds apart."""
    licence: str
    """An SPDX expression."""


def main(options: list[str]) -> int:
    """Write the table, or `--check` it; returns 1 if something is wrong, and says what."""
    rules = tomllib.loads(RULES.read_text())
    groups = {title: [one for name in names for one in read_lock(name)] for title, names in GROUPS.items()}
    if "--check" not in options:
        TABLE.write_text(written(groups, {name: known(name, rules["read"]) for name in _named(groups.values())}, rules))
    wrong = problems([one for entries in groups.values() for one in entries], read_table(TABLE.read_text()), rules)
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


def known(name: str, read: Mapping[str, str]) -> str:
    """The licence of a package; empty if nobody has read it and its metadata do not say."""
    return read.get(name) or declared(name)


def declared(name: str) -> str:
    """The licence that the metadata of what is installed say, as an SPDX expression; empty if they leave it open."""
    try:
        said = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    classified = [
        one.rpartition(" :: ")[2] for one in said.get_all("Classifier", []) if one.startswith("License :: OSI")
    ]
    written = [text for field in ("License-Expression", "License") for text in said.get_all(field, [])]
    texts = [*written, *(classified if len(classified) == 1 else [])]
    return next((found for text in texts if (found := _expression(text))), "")


def _expression(text: str) -> str:
    line = text.strip().partition("\n")[0].strip()
    try:
        return str(canonicalize_license_expression(_USUAL.get(line.lower(), line)))
    except InvalidLicenseExpression:
        return ""


def is_compatible(expression: str, compatible: Collection[str]) -> bool:
    """Say whether one may do what an SPDX expression asks, when some licences are allowed: all of AND, one of OR."""
    tokens = re.findall(r"[()]|[^\s()]+ WITH [^\s()]+|[^\s()]+", expression)

    def alternatives() -> bool:
        found = [together()]
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            found.append(together())
        return any(found)

    def together() -> bool:
        found = [single()]
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            found.append(single())
        return all(found)

    def single() -> bool:
        token = tokens.pop(0)
        if token != "(":
            return token in compatible
        found = alternatives()
        tokens.pop(0)
        return found

    return alternatives()


def problems(entries: Iterable[Locked], table: Collection[Row], rules: Mapping[str, Any]) -> list[str]:
    """What is wrong between locks, a table and rules; nothing if all is well."""
    locked = {(one.name, _public(one.version)) for one in entries}
    listed = {(row.name, row.version) for row in table}
    wrong = [f"{name} {version}: locked, and not in {TABLE.name}: `make licences`" for name, version in locked - listed]
    wrong += [
        f"{name} {version}: in {TABLE.name}, and not locked: `make licences`" for name, version in listed - locked
    ]
    for row in table:
        here = known(row.name, rules["read"])
        if here and here != row.licence:
            wrong.append(
                f"{row.name}: {row.licence} in {TABLE.name}, and {here} where it is installed: `make licences`"
            )
        if row.name not in rules["exceptions"] and not is_compatible(row.licence, rules["compatible"]):
            wrong.append(
                f"{row.name} {row.version}: {row.licence} is neither on the list nor an exception ({RULES.name})"
            )
    for kind in ("exceptions", "read"):
        wrong += [
            f"{name}: in {RULES.name}, and not locked" for name in set(rules[kind]) - {name for name, _ in locked}
        ]
    return sorted(wrong)


def read_table(text: str) -> list[Row]:
    """The lines of LICENCES.md."""
    found = filter(None, map(_ROW.match, text.splitlines()))
    return [Row(name=one["name"], version=one["version"], licence=one["licence"].strip()) for one in found]


def written(groups: Mapping[str, list[Locked]], licences: Mapping[str, str], rules: Mapping[str, Any]) -> str:
    """The text of LICENCES.md.

    Args:
        groups: By title. A package stands in the first one that has it.
        licences: By name; what is not known is written so, and fails the check.
    """
    lines = [_HEAD]
    done: set[tuple[str, str]] = set()
    for title, entries in groups.items():
        new = sorted({(one.name, _public(one.version)) for one in entries} - done)
        done |= set(new)
        lines += ["", f"## {title}", "", "| Package | version | licence |", "|---|---|---|"]
        lines += [f"| {name} | {version} | {licences[name] or 'UNKNOWN'} |" for name, version in new]
    lines += ["", "## Exceptions", "", "| Package | why it may be there |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in rules["exceptions"].items()]
    lines += ["", "## What wheels bring along", "", "| Package | what | licence | |", "|---|---|---|---|"]
    lines += [f"| `{one['in']}` | {one['what']} | {one['licence']} | {one['note']} |" for one in rules["bundled"]]
    return "\n".join([*lines, ""])


_HEAD: Final = """# Licences of what is installed beside Headrace

Made by `make licences` from the locks, the metadata of what is installed, and `licences.toml`; `make check` compares.
Headrace is under Apache-2.0 (`LICENSE`) and is handed on as source: nothing of this comes with it."""


def _named(groups: Iterable[list[Locked]]) -> set[str]:
    return {one.name for entries in groups for one in entries}


def _public(version: str) -> str:
    return Version(version).public


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
