"""Who may come in, what was done with power, and what people may ask for."""

import argparse
from pathlib import Path
from typing import Any

from deployments.arguments import add_config, command, count, lazily, seconds


def add_access(commands: Any) -> None:
    """Declare them."""
    _add_keys(commands)
    _add_people(commands)


def _add_keys(commands: Any) -> None:
    """Who may come in, and what was done with power."""
    keys = command(
        commands, "keys", lazily("cli_keys", "run_keys"),
        "Show the API keys of a store; with a second word, make one, replace one, or take some away.",
        'HEADRACE_REDIS_URL=redis://… headrace keys add web --scope rank --scope events --per-s 500',
    )  # fmt: skip
    keys.add_argument("--json", action="store_true")
    _add_store(keys)
    changes = keys.add_subparsers(title="changes", metavar="add|rotate|revoke")
    add = command(
        changes, "add", lazily("cli_keys", "run_add"), "Make a key; it is shown once.",
        "headrace keys add kiosk --scope events --days 90",
    )  # fmt: skip
    add.add_argument("name", help="of whoever holds it: so it stands in the record, and its events have this source")
    add.add_argument("--scope", action="append", required=True, choices=("rank", "events", "admin"), help="what it may")
    add.add_argument(
        "--per-s", type=float, default=0.0, metavar="N", help="rankings and events a second (default: any)"
    )
    add.add_argument("--source", action="append", metavar="NAME", help="it sends events of this source; * of any")
    add.add_argument("--days", type=float, default=0.0, metavar="D", help="how long it opens (default: for ever)")
    rotate = command(
        changes, "rotate", lazily("cli_keys", "run_rotate"),
        "Make a key with the rights of another one, which opens for a while yet.", "headrace keys rotate web",
    )  # fmt: skip
    rotate.add_argument("name", help="whose")
    rotate.add_argument("--keep-s", type=seconds, default=3600.0, metavar="S", help="how long (default 3600)")
    revoke = command(
        changes, "revoke", lazily("cli_keys", "run_revoke"), "Take keys away, within a second.",
        "headrace keys revoke web",
    )  # fmt: skip
    revoke.add_argument("name", help="of the keys, or the id of one")
    for one in (add, rotate, revoke):
        _add_store(one)
    audit = command(
        commands, "audit", lazily("cli_keys", "run_audit"),
        "Show what was done with power: by whom, when, from which version to which.", "headrace audit --last 20",
    )  # fmt: skip
    audit.add_argument("--last", type=count, default=100, metavar="N", help="so many (default 100)")
    audit.add_argument("--json", action="store_true")
    audit.add_argument("--url", default="http://127.0.0.1:8000")


def _add_people(commands: Any) -> None:
    """What people may ask for."""
    erase = command(
        commands, "erase", lazily("cli_people", "run_erase"),
        "Have a person erased: the state at once; log, archive and versions of the model by and by.",
        "headrace erase u1 --wait",
    )  # fmt: skip
    erase.add_argument("user")
    erase.add_argument("--wait", action="store_true", help="return when nothing of this person is left")
    erase.add_argument("--url", default="http://127.0.0.1:8000")
    export = command(
        commands, "export", lazily("cli_people", "run_export"),
        "Write everything that is known of a person, a JSON object a line: the state, then every entry of the log.",
        "headrace export u1 --out u1.ndjson",
    )  # fmt: skip
    export.add_argument("user")
    export.add_argument("--out", type=Path, help="where to write it (default: standard output)")
    export.add_argument("--archive", metavar="FOLDER", help="of the log (default: [store] archive)")
    export.add_argument("--port", type=int, default=8000, help="of the run on this machine, whose store it reads")
    add_config(export)


def _add_store(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--port", type=int, default=8000, help="of the run on this machine, whose store it is")
