"""A proposed schema as TOML that `deployments.config` reads back, each line with what speaks for it as a comment.

    [schema]
    n_recent = 32  # nine of ten events have at most 11 of the same person before them

Every field is written, so that nothing changes when defaults do. Names and values come from data: they are quoted, and
comments keep to their line whatever is in them.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from features.autoschema.proposal import Proposal
from features.schema import Attribute, Counter

INDENT: Final = "    "
WIDTH: Final = 120  # a comment that would go beyond it stands above its line
PLAIN: Final = ("n_recent", "n_successors", "successor_span", "successor_window_s", "successor_half_lives_s")


def toml_of(proposal: Proposal, head: Sequence[str] = ()) -> str:
    """The whole file.

    Args:
        head: Lines of the comment above it.
    """
    schema, notes, asides = proposal.schema, proposal.notes, proposal.asides
    lines = [_comment(line) for line in head] + ["", "[schema]"]
    lines += _names("event_types", schema.event_types, notes)
    lines += _names("context", schema.context, notes) + _left("not proposed: ", asides.get("context", []))
    for name in PLAIN:
        lines += _line(name, getattr(schema, name), notes.get(name, ""))
    lines += [f"{name} = []" for name in ("counters", "attributes") if not getattr(schema, name)]
    for counter in schema.counters:
        lines += ["", "[[schema.counters]]", *_counter(counter, notes)]
    lines += _left("not split: ", asides.get("counters", []))
    for attribute in schema.attributes:
        lines += ["", "[[schema.attributes]]", *_attribute(attribute, notes)]
    lines += _left("not proposed: ", asides.get("attributes", []))
    return "\n".join(lines) + "\n"


def _names(key: str, names: Iterable[str], notes: dict[str, str]) -> list[str]:
    rows = [f"{INDENT}{_value(name)},  {_comment(notes.get(f'{key}.{name}', ''))}" for name in names]
    return [f"{key} = [", *rows, "]"] if rows else [f"{key} = []"]


def _counter(counter: Counter, notes: dict[str, str]) -> list[str]:
    where = f"counters.{counter.entity}.{counter.name}"
    fields = ["name", "entity", "types", "half_lives_s"]
    fields += ["split", "n_buckets"] if counter.split is not None else []
    fields += ["use_value"] if counter.use_value else []
    return [line for name in fields for line in _line(name, getattr(counter, name), notes.get(f"{where}.{name}", ""))]


def _attribute(attribute: Attribute, notes: dict[str, str]) -> list[str]:
    note = notes.get(f"attributes.{attribute.entity}.{attribute.name}", "")
    fields = ["name", "entity", "kind"] + (["max_tags"] if attribute.kind == "tags" else [])
    noted = {fields[-1]: note}
    return [line for name in fields for line in _line(name, getattr(attribute, name), noted.get(name, ""))]


def _left(what: str, asides: Iterable[str]) -> list[str]:
    return [_comment(what + aside) for aside in asides]


def _line(name: str, value: Any, note: str) -> list[str]:
    line = f"{name} = {_value(value)}"
    if not note:
        return [line]
    beside = f"{line}  {_comment(note)}"
    return [beside] if len(beside) <= WIDTH else [_comment(note), line]


def _value(value: Any) -> str:
    """A string, a number, true or false, or a row of these."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)


def _comment(text: str) -> str:
    """A comment of one line: TOML allows no control characters in it, and some others end lines for people."""
    return f"# {''.join(c if c.isprintable() else ' ' for c in text)}".rstrip()
