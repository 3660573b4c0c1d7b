"""What runs on a cluster's head when an operator deploys: `python -m deployments.deploy_job`, in what was sent.

    learner, projector, hub of before end ─► the new ones go on from the last version ─► replicas change, one by one

Replicas of before answer meanwhile, with the weights they have. Says on standard output what it does.
"""

import importlib.metadata
import logging
import sys
import time
import tomllib
from pathlib import Path
from typing import Final

import ray
from packaging.requirements import Requirement
from ray import serve

from deployments.app import deploy
from deployments.cluster import NAMESPACE, QUIET
from deployments.cluster_status import ACTOR_PREFIX
from deployments.environment import EVERYWHERE, FRONT_PORT, SERVING
from deployments.shipping import DEPENDENCIES_FILE, unpack

GONE_S: Final = 30.0
POLL_S: Final = 0.05


def main() -> int:
    """Deploy; returns the exit status."""
    logging.disable(logging.INFO)  # Serve tells at length what is said here in a line
    folder = Path.cwd()
    lacking = missing_dependencies(folder / DEPENDENCIES_FILE)
    if lacking:
        say(f"the nodes lack what this source needs: {'; '.join(lacking)}: bring them up again, with `ray up`")
        return 1
    config = unpack(folder)
    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    serve.start(proxy_location="EveryNode", http_options={"host": EVERYWHERE, "port": FRONT_PORT}, logging_config=QUIET)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    n_nodes = len([node for node in nodes if node["Alive"] and SERVING in node["Resources"]])
    say(f"ending what learned before: {', '.join(end_learning()) or 'nothing'}")
    say(f"starting learner, projector, hub, and replicas on {n_nodes} nodes")
    deploy(config, n_nodes)
    say("deployed")
    return 0


def say(text: str) -> None:
    """Tell the operator."""
    print(text, flush=True)


def missing_dependencies(file: Path) -> list[str]:
    """Say which packages that a source needs are not installed here as it needs them; a missing file needs none."""
    if not file.exists():
        return []
    needed = [Requirement(line) for line in tomllib.loads(file.read_text())["project"]["dependencies"]]
    found = {one.name: _installed(one.name) for one in needed}
    return [
        f"{one}, not {found[one.name] or 'installed'}" for one in needed if not one.specifier.contains(found[one.name])
    ]


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def end_learning() -> list[str]:
    """End the actors that learn, and return their names once these are free again."""
    names = sorted(name for name in ray.util.list_named_actors() if name.startswith(ACTOR_PREFIX))
    for name in names:
        ray.kill(ray.get_actor(name), no_restart=True)
    deadline_s = time.monotonic() + GONE_S
    while set(names) & set(ray.util.list_named_actors()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{', '.join(names)}: still there after {GONE_S:g} s")
        time.sleep(POLL_S)
    return names


if __name__ == "__main__":
    sys.exit(main())
