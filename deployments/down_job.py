"""What runs on a cluster's head when an operator ends it: `python -m deployments.down_job`.

    replicas and front doors ─► hub, projector, learners and their like ─► Ray on every node but the head's, which
    `ray down` ends

`ray down` knows nothing of workers that have addresses of their own: by themselves they end only when they have given
their head up (`HEAD_AWAY_S` in node.py).
"""

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.cluster import NAMESPACE
from deployments.deploy_job import say
from deployments.log_keeper import KEEPER_NAME
from deployments.skew_watch import WATCH_NAME
from learners.group import end_actor, end_group

END_S: Final = 60.0  # Ray asks its processes to end, and kills what has not after 16 s
POLL_S: Final = 0.5


def main() -> int:
    """End everything that a deployment started, then all workers; returns the exit status."""
    logging.disable(logging.INFO)
    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    serve.shutdown()  # type: ignore[no-untyped-call]
    for name in (WATCH_NAME, KEEPER_NAME):
        end_actor(name)
    end_group()
    say("nothing is deployed any more")
    workers = _others()
    stops = [_stop_on(node) for node in workers]
    if stops:
        ray.wait(stops, num_returns=len(stops), timeout=END_S)
    deadline_s = time.monotonic() + END_S
    while left := _others():
        if time.monotonic() > deadline_s:
            say(f"not ended within {END_S:g} s: {', '.join(node['NodeManagerAddress'] for node in left)}")
            return 1
        time.sleep(POLL_S)
    say(f"{len(workers)} workers ended; the head ends by `ray down`")
    return 0


def _others() -> list[dict[str, Any]]:
    """Nodes that are alive, without this one."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["NodeID"] != here]


def _stop_on(node: dict[str, Any]) -> Any:
    affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(_stop).options(scheduling_strategy=affinity).remote()


def _stop() -> None:
    """End Ray on this node, from a process that outlives the one it ends."""
    subprocess.run(["setsid", "--fork", str(Path(sys.executable).with_name("ray")), "stop"], check=True)


if __name__ == "__main__":
    sys.exit(main())
