"""`headrace down --address`: what runs on a cluster and its workers end, from their operator's machine."""

import argparse

from deployments.head import Head, read_token
from deployments.terminal import console

COMMAND = "python -m deployments.down_job"


def run_down(options: argparse.Namespace) -> int:
    """End everything but the head; return once it has."""
    options.url = options.address
    with Head(options.address, read_token()) as head:
        head.run(COMMAND, lambda text: console.print(text, markup=False, highlight=False))
    return 0
