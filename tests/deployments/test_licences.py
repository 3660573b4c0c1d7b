"""Every locked package has a licence that goes with ours, or is an exception with its reason."""

from typing import Any

import pytest

from deployments.locks import licences
from deployments.locks.licences import Row, declared, is_compatible, known, problems, read_table, written
from deployments.locks.reading import ROOT, Locked

ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
RULES: dict[str, Any] = {"compatible": ["MIT"], "exceptions": {}, "read": {}, "bundled": []}
ENTRY = Locked(name="not-installed", version="1.0+cpu", marker="", hashes=("a" * 64,), text="")
ROW = Row(name="not-installed", version="1.0", licence="MIT")


def test_everything_that_is_locked_may_be_there():
    assert licences.main(["--check"]) == 0


def test_ours_is_what_the_list_is_for():
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT WITH LLVM-exception", False),
        ("MIT AND (GPL-3.0-only OR Apache-2.0)", True),
        ("GPL-3.0-only OR MIT AND Apache-2.0", True),
        ("(GPL-3.0-only OR MIT) AND GPL-2.0-only", False),
        ("UNKNOWN", False),
    ],
)
def test_an_expression_is_judged_as_it_is_written(expression: str, may: bool):
    assert is_compatible(expression, ALLOWED) is may


def test_all_is_well_if_table_locks_and_rules_agree():
    assert problems([ENTRY], [ROW], RULES) == []


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        ([], {}, "locked, and not in LICENCES.md"),
        ([ROW, Row(name="gone", version="1", licence="MIT")], {}, "and not locked"),
        ([Row(name="not-installed", version="0.9", licence="MIT")], {}, "locked, and not in LICENCES.md"),
        ([Row(name="not-installed", version="1.0", licence="UNKNOWN")], {}, "neither on the list nor an exception"),
        (
            [Row(name="not-installed", version="1.0", licence="GPL-3.0-only")],
            {},
            "neither on the list nor an exception",
        ),
        ([ROW], {"read": {"not-installed": "ISC"}}, "ISC where it is installed"),
        ([ROW], {"exceptions": {"gone": "why"}}, "licences.toml, and not locked"),
    ],
)
def test_what_does_not_agree_is_told(table: list[Row], change: dict[str, Any], told: str):
    assert told in "\n".join(problems([ENTRY], table, {**RULES, **change}))


def test_an_exception_may_be_there():
    table = [Row(name="not-installed", version="1.0", licence="GPL-3.0-only")]
    assert problems([ENTRY], table, {**RULES, "exceptions": {"not-installed": "a process of its own"}}) == []


def test_metadata_that_leave_it_open_are_not_guessed_at():
    """`License: BSD` may be any of several."""
    assert (declared("numba"), known("numba", {"numba": "BSD-2-Clause"})) == ("", "BSD-2-Clause")
    assert (declared("requests"), declared("packaging")) == ("Apache-2.0", "Apache-2.0 OR BSD-2-Clause")
    assert declared("no-such-package") == ""


def test_a_table_is_read_as_it_was_written():
    table = written({"Some": [ENTRY], "Others": [ENTRY]}, {"not-installed": "MIT"}, RULES)
    assert read_table(table) == [ROW]
    assert read_table(written({"Some": [ENTRY]}, {"not-installed": ""}, RULES))[0].licence == "UNKNOWN"
