"""What makes a machine a node of a cluster: `headrace node`, before `ray start`.

    ~/headrace/node/   environment.sh    to be sourced before `ray start`
                       haproxy, …        the program that Ray starts in HAProxy's place, and its files
                       compiled/         loops, compiled once for all processes of the node
                       firewall.nft      who reaches its ports, see `firewall.py`

`cluster.yaml` says when. A node has its machine to itself: ports are Serve's own, the same on every node.
"""

import argparse
import importlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import psutil

from deployments.environment import EVERYWHERE, LOOPBACK, ray_environment, serve_environment
from deployments.errors import ConfigError
from deployments.firewall import PEERS, close_to_others, find_nft
from deployments.haproxy import write_haproxy_wrapper
from deployments.terminal import console

GCS_REDIS: Final = "HEADRACE_GCS_REDIS"
ENVIRONMENT_FILE: Final = "environment.sh"
DRAINING_S: Final = 5.0  # until the HAProxy of every node has heard that a replica goes; one takes about a second
PROXY_DRAINING_S: Final = 120.0  # a node's only replicas may be replaced meanwhile, and its front door stays open
CORES_PER_PROXY_THREAD: Final = 8  # a thread of HAProxy carries what ten replicas answer, each of which fills a core
JOINED_WAIT_S: Final = 5.0
HEAD_AWAY_S: Final = 600  # that nodes go on without a head, for which somebody must first be called; Ray's own: 60
# What one can write to a shell without quotes.
PLAIN: Final = re.compile(r"[\w.~%+=@:,/-]+")


def run_node(options: argparse.Namespace) -> int:
    """Make this machine a node; with --joined only say, by the exit status, whether it is a live one already."""
    if options.joined:
        return 0 if has_joined(options.joined) else 1
    file = write_node(options.folder.expanduser(), gcs_redis=os.environ.get(GCS_REDIS, ""))
    if peers := os.environ.get(PEERS, ""):
        close_to_others(options.folder.expanduser(), peers, find_nft())
    console.print(f"before `ray start`: source {file}", markup=False, highlight=False)
    return 0


def write_node(folder: Path, *, gcs_redis: str = "", n_cores: int | None = None) -> Path:
    """Write what a node needs; return the file to source.

    Args:
        folder: Where to; only for this.
        gcs_redis: For the head: where it keeps what it knows, see `head_settings`; empty: nowhere.
        n_cores: Of this machine; by default it is asked.
    Raises:
        ConfigError: If `gcs_redis` can't be read.
    """
    kept = head_settings(gcs_redis)
    (folder / "compiled").mkdir(parents=True, exist_ok=True)
    write_haproxy_wrapper(folder, LOOPBACK)
    lines = [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    settings = node_environment(folder, n_cores or os.cpu_count() or 1) | kept
    lines += [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    file = folder / ENVIRONMENT_FILE
    half = file.with_suffix(".half")
    half.touch(mode=0o600)  # a password may be in it
    half.write_text("\n".join((*lines, "")))
    half.replace(file)
    return file


def node_environment(folder: Path, n_cores: int) -> dict[str, str]:
    """Return the variables that a node's Ray is started under."""
    n_threads = max(1, n_cores // CORES_PER_PROXY_THREAD)
    return {
        **ray_environment(EVERYWHERE),
        **serve_environment(
            folder, draining_s=DRAINING_S, proxy_draining_s=PROXY_DRAINING_S, n_proxy_threads=n_threads
        ),
        # Ray puts the node's id before the last part, 57 bytes of the 97 that HAProxy takes: a home may be too long.
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"/tmp/headrace-{os.getuid()}/admin.sock",
        # A silent node is declared dead after 3 s; by default after a minute.
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "250",
        "RAY_health_check_timeout_ms": "750",
        "RAY_health_check_failure_threshold": "3",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_AWAY_S),
        # The source that `ray up` brought; that of a deployment comes before it.
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(folder / "compiled"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "features.compile_cache.CacheByContent",
    }


def head_settings(gcs_redis: str) -> dict[str, str]:
    """Return what lets a head find its cluster again after it was lost: nodes, actors, Serve's applications.

    Args:
        gcs_redis: `host:port`, or `redis://:password@host:port` (`rediss:` for TLS), of one Redis; empty: nothing.
    Raises:
        ConfigError: If it is neither.
    """
    if not gcs_redis:
        return {}
    try:
        parts = urlsplit(gcs_redis if "://" in gcs_redis else f"redis://{gcs_redis}")
        port = parts.port
    except ValueError:
        port = None
    if port is None or not parts.hostname or parts.scheme not in {"redis", "rediss"} or parts.path.strip("/"):
        raise ConfigError(f"{GCS_REDIS}: expected host:port or redis://:password@host:port, without more")
    named = {"username": parts.username, "password": parts.password}
    secrets = {name: unquote(value) for name, value in named.items() if value}
    if not all(PLAIN.fullmatch(value) for value in secrets.values()):
        raise ConfigError(f"{GCS_REDIS}: expected a password that a shell takes without quotes ({PLAIN.pattern})")
    return {
        "RAY_REDIS_ADDRESS": f"{'rediss://' if parts.scheme == 'rediss' else ''}{parts.hostname}:{port}",
        "RAY_external_storage_namespace": "headrace",
        "HEADRACE_HEAD_OPTIONS": " ".join(f"--redis-{name}={value}" for name, value in secrets.items()),
    }


def has_joined(head: str) -> bool:
    """Say whether this machine is a live node of the cluster whose head listens there.

    Ray's autoscaler starts workers that it does not know of, also those that a head which was lost and has come back
    finds at work: they must be left alone.

    Args:
        head: `host:port` of Ray's head.
    """
    if not any(process.name() == "raylet" for process in psutil.process_iter()):
        return False
    os.environ.update(ray_environment(EVERYWHERE))
    nodes = importlib.import_module("ray._raylet").GcsClient(address=head).get_all_node_info(timeout=JOINED_WAIT_S)
    alive = importlib.import_module("ray.core.generated.gcs_pb2").GcsNodeInfo.ALIVE
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return any(node.state == alive and node.node_manager_address in own for node in nodes.values())
