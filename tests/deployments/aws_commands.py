"""Commands of AWS's own command line, as a guide tells them, done through boto3: so what a reader types is tried out.

The command line makes its options from the names that boto3 knows (`--group-id` from `GroupId`), which refuses an
unknown one. Understood are `NAME=$(aws … --query PATH --output text)`, `$NAME`, JSON in quotes, `file://` and `fileb://`.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import jmespath

ASSIGNMENT = re.compile(r"(?:(?P<name>\w+)=\$\()?(?P<command>aws .*?)\)?")


def commands_of(guide: str) -> list[str]:
    """The lines of a guide's blocks that call `aws ec2` or `aws iam`, continued lines joined."""
    blocks = re.findall(r"^```\n(.*?)^```", guide, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"(\w+=\$\()?aws (ec2|iam) ", line)]


def run(commands: list[str], folder: Path, given: Mapping[str, str], region: str) -> dict[str, str]:
    """Run commands in order.

    Args:
        folder: What `file://` is relative to.
        given: Variables from before.
    Returns:
        All variables.
    """
    known = dict(given)
    for line in commands:
        found = ASSIGNMENT.fullmatch(line)
        assert found, f"not understood: {line}"
        value = _run_one(found["command"], folder, known, region)
        if found["name"]:
            known[found["name"]] = value
    return known


def _run_one(command: str, folder: Path, known: Mapping[str, str], region: str) -> Any:
    _, service, operation, *words = shlex.split(command)
    options: dict[str, Any] = {}
    for name, word in zip(words[::2], words[1::2], strict=True):
        assert name.startswith("--"), f"not an option: {name} in {command}"
        options[name[2:]] = re.sub(r"\$(\w+)", lambda match: known[match[1]], word)
    query, _ = options.pop("query", None), options.pop("output", None)
    client = boto3.client(service, region)
    method = getattr(client, operation.replace("-", "_"))
    shape = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[method.__name__]).input_shape
    by_option = {_option_of(member): (member, kind) for member, kind in shape.members.items()}
    arguments = {}
    for name, word in options.items():
        member, kind = by_option[name]
        arguments[member] = _value(word, kind.type_name, folder)
    answer = method(**arguments)
    return jmespath.search(query, answer) if query else answer


def _option_of(member: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", member).lower()


def _value(word: str, kind: str, folder: Path) -> Any:
    if word.startswith("file://"):
        return (folder / word.removeprefix("file://")).read_text()
    if word.startswith("fileb://"):
        return Path(word.removeprefix("fileb://")).read_bytes()
    return json.loads(word) if kind in {"structure", "list"} else word
