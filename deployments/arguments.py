"""How a command of `headrace` is declared, and the arguments that several share."""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[argparse.Namespace], int | None]


def lazily(module: str, function: str) -> Run:
    """The command that a function of a module runs; imported only when it is."""

    def run(options: argparse.Namespace) -> int | None:
        imported: Run = getattr(importlib.import_module(f"deployments.{module}"), function)
        return imported(options)

    return run


def command(commands: Any, name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
    """Declare a command; its text says what it does, for the list and for its own page."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def here_or_there(command: str) -> Run:
    """With an address what a command does to a cluster, else to what runs on this machine."""

    def run(options: argparse.Namespace) -> int | None:
        return lazily(f"cli_{command}" if options.address else "cli_local", f"run_{command}")(options)

    return run


def add_address(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Where a cluster is."""
    parser.add_argument(
        "--address", metavar="URL", required=required, help="head of a cluster of several machines, http://HOST:8265"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Which settings."""
    parser.add_argument("--config", type=Path, help="TOML file; every setting has a default")


def add_queries(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Recorded queries, and where their answers go."""
    parser.add_argument("--queries", type=Path, required=required, help="Parquet: query_id, ts_ms, user, candidates")
    parser.add_argument("--out", type=Path, required=required, help="where to write query_id, scores")


def add_attributes(parser: argparse.ArgumentParser) -> None:
    """Attributes of items and users."""
    for entity in ("item", "user"):
        text = f"Parquet: {entity}, perhaps ts_ms (when it became known), and an attribute a column"
        parser.add_argument(f"--{entity}s", type=Path, help=text)


def speed(text: str) -> float | None:
    """How fast to live through events; None: as fast as can be."""
    if text == "max":
        return None
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("expected max, or a number above 0")
    return value


def milliseconds(text: str) -> int:
    """A duration of up to an hour."""
    value = int(text)
    if not 0 <= value <= 3_600_000:
        raise argparse.ArgumentTypeError("expected 0 to 3600000")
    return value


def count(text: str) -> int:
    """A number above 0."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return value


def seconds(text: str) -> float:
    """A duration of any length."""
    value = float(text)
    if not 0.0 <= value <= 1e9:
        raise argparse.ArgumentTypeError("expected 0 to 1e9")
    return value
