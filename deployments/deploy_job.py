"""What runs on a cluster's head when an operator deploys: `python -m deployments.deploy_job`, in what was sent.

    hub, projector, learners of another release end ─► new ones go on from the last version ─► replicas, one by one

Replicas of before answer meanwhile, with the weights they have. Says on standard output what it does.
"""

import asyncio
import importlib.metadata
import logging
import sys
import tomllib
from pathlib import Path

import ray
from packaging.requirements import Requirement
from ray import serve

from deployments.app import deploy, try_store
from deployments.cluster import NAMESPACE, QUIET
from deployments.config import Config
from deployments.environment import EVERYWHERE, FRONT_PORT, SERVING
from deployments.release import release_of
from deployments.shipping import DEPENDENCIES_FILE, Visitor, unpack, unpack_visitor
from features.access import Action
from features.clock import WallClock
from features.connect import access_of


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
    try_store(config)
    asyncio.run(let_in(config, unpack_visitor(folder)))
    say(f"starting learner, projector, hub, and replicas on {n_nodes} nodes, in the place of those of another release")
    deploy(config, n_nodes)
    say("deployed")
    return 0


async def let_in(config: Config, visitor: Visitor) -> None:
    """Keep who deploys what, and the key by which the doors are seen to open."""
    store = access_of(config.store)
    try:
        await store.note_action(Action(WallClock().now_ms(), visitor.who, "deploy", release_of(config)))
        await store.put_key(visitor.key)
    finally:
        await store.close()


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


if __name__ == "__main__":
    sys.exit(main())
