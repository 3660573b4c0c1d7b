"""Holds and releases versions of a running cluster: `python -m benchmarks.publishing PORT`.

Reads `hold` or `release`, one a line, from standard input, and answers each with the hub's version.
"""

import importlib
import os
import sys

from deployments.cluster import join


def main() -> None:
    """Join the run on a port and obey until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints to standard output what its daemons report
    ray = join(int(sys.argv[1]))
    hub = importlib.import_module("learners.hub").get_hub()
    for line in sys.stdin:
        method = line.strip()
        if method not in ("hold", "release"):
            raise ValueError(f"expected hold or release, got {method!r}")
        print(ray.get(getattr(hub, method).remote()), file=answers, flush=True)


if __name__ == "__main__":
    main()
