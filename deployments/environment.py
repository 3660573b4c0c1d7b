"""The variables that Ray and Serve are started under, on one machine and on a node of a cluster.

Both read them when they are imported, so they must be set before; Ray's daemons hand theirs to every worker. Said here
is what both kinds of start have in common. What one machine adds (ports chosen free, for there may be other runs)
stands in `cluster.py`, what a node adds in `node.py`.
"""

from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"
FRONT_PORT: Final = 8000  # of every node of a cluster
# Roles of nodes: resources that they are started with (cluster.yaml), and of which replicas and actors ask for a trace.
SERVING: Final = "serving"
LEARNING: Final = "learning"
TRACE: Final = 0.001


def ray_environment(host: str) -> dict[str, str]:
    """Return the variables that Ray's daemons, and every program that joins them, must be started under.

    Args:
        host: Interface of the frontend; it decides where Ray's own servers listen.
    """
    return {
        # With each report Ray's agent replays what was counted, see `make_agent_idle` (default 10 s).
        "RAY_metrics_report_interval_ms": "100000",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs every worker at niceness 15; replicas belong before learners, which lower themselves.
        "RAY_worker_niceness": "0",
        # A slate is too small to be worth a second thread, and the replica has no core for one.
        "OPENBLAS_NUM_THREADS": "1",
        # Ray's ports run what they are sent, and one per replica listens on every interface whatever one says. What
        # guards them is the token (~/.ray/auth_token, made by the first start); said here so that it is never off.
        "RAY_AUTH_MODE": "token",
        # setproctitle would write the titles of Ray's agents over their environment, and with it over the run's mark.
        "SPT_NOENV": "1",
        # "No cluster of several machines": makes Ray's own servers listen on 127.0.0.1 only, on Linux too. Without it
        # they listen on every interface, guarded by Ray's token.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if host == LOOPBACK else "1",
        # Ray 2.60 warns at every start unless one says that zero-GPU tasks may see the GPUs; ours do not look.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def serve_environment(
    folder: Path, *, draining_s: float, proxy_draining_s: float, n_proxy_threads: int
) -> dict[str, str]:
    """Return the variables Serve must be started under, on top of Ray's.

    Args:
        folder: For HAProxy's files and the wrapper; short, a unix socket's path has 108 bytes at most.
        draining_s: How long a replica stays reachable after it is told to stop.
        proxy_draining_s: How long HAProxy stays where there is no replica any more.
        n_proxy_threads: Of HAProxy.
    """
    return {
        # HAProxy in front of the replicas' own servers: one Python hop instead of two.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Requests run on the replica's main loop, logs are buffered, the heap is frozen after the start.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(n_proxy_threads),
        # With metrics on, Python parses a datagram per request.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Events may carry no id: only a request that never left HAProxy is sent again. Ranks: see haproxy.py.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure",
        # A dead replica is noticed within a second.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # HAProxy itself is missed after three failed looks; Ray looks every 10 s.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # It is started while replicas are, and imports as much; given up and begun again it takes longer still (5 s).
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # A process replaced by a reload keeps its old list of replicas for at most this long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # Serve raises every ingress deployment's shutdown timeout to this plus 5 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(draining_s),
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(proxy_draining_s),
        # Ray's smallest bucket is 1 ms, about our median.
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "0.25,0.5,0.75,1,1.5,2,3,5,7.5,10,15,25,50,100,250,1000",
    }
