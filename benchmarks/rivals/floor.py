"""The floor of Headrace: an answer that never changes, through the same HAProxy, Serve and hand-over as a ranking.

Same cluster settings, same deployment options, same raw ASGI `App` built late inside the replica. No learner, no
projector, no events, nothing read but the body.
"""

import importlib

from benchmarks.rivals.options import Options
from deployments.app import replica_options
from deployments.cluster import ClusterConfig, LocalCluster
from deployments.config import Config
from deployments.processes import termination


def run(options: Options) -> None:
    """Serve until told to stop."""
    config = Config(cluster=ClusterConfig(port=options.port))
    with LocalCluster(config.cluster):
        serve = importlib.import_module("ray.serve")
        floor = importlib.import_module("benchmarks.rivals.floor_replica").Floor
        serve.run(floor.options(**replica_options(config, 1)).bind(), name="rank", route_prefix="/v1/rank")
        with termination() as stop:
            stop.wait()
