"""`headrace`: the command line. Parses arguments, and leaves the work to the module of the command.

That one is imported only then: what a node of a cluster is asked at its start must not wait for torch.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

import httpx

from deployments.access_commands import add_access
from deployments.client import HeadraceError
from deployments.data_commands import add_data
from deployments.errors import ApiError, ClusterError, ConfigError
from deployments.serving_commands import add_serving
from deployments.terminal import console
from features.errors import FeatureError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return int(options.run(options) or 0)
    except (ConfigError, ClusterError, ApiError, FeatureError, HeadraceError) as error:
        console.print(f"headrace {options.command}: {error}", style="red", markup=False)
        return 1
    except httpx.TransportError as error:
        console.print(f"headrace {options.command}: no answer from {options.url}: {error}", style="red", markup=False)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace", description="Real-time individualization as a cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_serving(commands)
    add_access(commands)
    add_data(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
