"""A cluster run as a process of its own by `test_cluster.py`.

Started as `python -m tests.deployments.cluster_program MODE PORT FILE`; of the modes,
`apps` deploys `cluster_apps`; `again` starts a cluster, stops it and starts the next on the same port. Both then write
their run id and timings to FILE and wait for a signal.
"""

import importlib
import sys
import time
from pathlib import Path

import msgspec

from deployments.cluster import ClusterConfig, LocalCluster
from deployments.processes import termination


def main(mode: str, port: int, ready: Path) -> None:
    """Start everything, say so, wait, stop."""
    began_s = time.monotonic()
    config = ClusterConfig(port=port)
    if mode == "again":
        LocalCluster(config).start().stop()
    with LocalCluster(config) as cluster, termination() as stop:
        started_s = time.monotonic() - began_s
        if mode == "apps":
            importlib.import_module("tests.deployments.cluster_apps").deploy()  # imports ray.serve: only after start
        report = {"run_id": cluster.run_id, "started_s": started_s, "deployed_s": time.monotonic() - began_s}
        half = ready.with_suffix(".half")
        half.write_bytes(msgspec.json.encode(report))
        half.replace(ready)
        stop.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
