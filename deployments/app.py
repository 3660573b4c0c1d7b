"""The whole application: binds the Serve graph, and runs all of it on this machine.

    store (private, or by URL) ─► Ray, Serve, HAProxy ─► hub, projector, learner ─► Ranker at /v1/rank, Events at /

`Run` owns what it starts and ends all of it, in reverse. Ray is imported only after its environment is set, so the
modules that need Ray are imported by name, inside functions.
"""

import asyncio
import importlib
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from deployments import processes
from deployments.cluster import MAX_ONGOING, QUIET, LocalCluster
from deployments.config import Config, as_dict, with_store
from deployments.environment import LEARNING, SERVING, TRACE
from deployments.errors import ConfigError, UnavailableError
from deployments.key_ring import KeyRing
from deployments.load_policy import LoadPolicy
from deployments.node import DRAINING_S
from deployments.release import release_of
from features.access import ADMIN
from features.archiving import Archiver
from features.clock import WallClock
from features.connect import access_of, bulk_of, connect
from features.embedded import EmbeddedServer
from features.errors import FeatureError
from features.log_files import LogFiles

READY_S: Final = 120.0
LOOK_BACK_S: Final = 10.0  # over which loads are averaged; replicas take theirs five times in it

logger = logging.getLogger(__name__)


def try_store(config: Config) -> None:
    """See that the store can keep the promises, and that the archive is its own, before anything relies on it.

    Raises:
        StoreRefused: If it cannot; the message says how to mend that.
        StoreUnavailable: If it does not answer.
        LogGap, BadFile, FilesUnavailable: If the archive is another log's, or none.
    """

    async def open_and_close() -> None:
        store, bulk = connect(config.store, config.schema), bulk_of(config.store)
        try:
            await store.open()
            await store.try_replicas()
            if config.store.archive:
                await Archiver(store, bulk, LogFiles(config.store.archive)).check()
        finally:
            await store.close()
            await bulk.close()

    asyncio.run(open_and_close())


def deploy(config: Config, n_nodes: int | None = None) -> None:
    """Start the learning side and the Serve applications on the Ray cluster this process is connected to.

    What runs there of another release is replaced, without a failed request; of the same release it stays, and takes
    over the settings that it can.

    Args:
        n_nodes: Of several machines, how many serve: each gets the configured number of replicas. None: this one
            machine, which has no roles.
    """
    release = release_of(config)
    group, metrics = importlib.import_module("learners.group"), importlib.import_module("deployments.metrics")
    settings = group.GroupConfig(
        folder=config.folder,
        offer_s=config.offer_s,
        edition_bytes=config.edition_bytes,
        keep_versions=config.keep_versions,
        export=metrics.export,
        export_agreement=metrics.export_agreement,
        sources=config.sources,
        release=release,
        resources={} if n_nodes is None else {LEARNING: TRACE},
    )
    started = group.start_group(config.store, config.schema, config.learner, config.judge, settings)
    _keep_log(config, settings)
    _watch_skew(config, settings)
    ray, serve = importlib.import_module("ray"), importlib.import_module("ray.serve")
    ray.get(started.hub.configure.remote(msgspec.json.encode(config.replica.live)))
    access = config.access.at(is_loopback=n_nodes is None and config.is_loopback)
    replica = replace(config.replica, access=access)
    ranker = _deployment("Ranker", config, config.n_rankers, n_nodes, release).bind(replica)
    events = _deployment("Events", config, config.n_events, n_nodes, release).bind(
        replica.store, replica.schema, config.sources, access
    )
    serve.run_many(
        [
            serve.RunTarget(ranker, name="rank", route_prefix="/v1/rank"),
            serve.RunTarget(events, name="events", route_prefix="/"),
        ]
    )


def _keep_log(config: Config, settings: Any) -> None:
    """Have the log trimmed and archived."""
    group, keeper = importlib.import_module("learners.group"), importlib.import_module("deployments.log_keeper")
    group.started(keeper.LogKeeper, keeper.KEEPER_NAME, settings, config.store, config.schema, config.keep_log_s)


def _watch_skew(config: Config, settings: Any) -> None:
    """Have some decisions checked, or none."""
    group, watch = importlib.import_module("learners.group"), importlib.import_module("deployments.skew_watch")
    if config.check_skew:
        what = config.store, config.schema, config.folder, config.check_skew
        group.started(watch.SkewWatch, watch.WATCH_NAME, settings, *what)
    else:
        group.end_actor(watch.WATCH_NAME)


def _deployment(name: str, config: Config, n_replicas: int, n_nodes: int | None, release: str) -> Any:
    deployment = getattr(importlib.import_module(f"deployments.{name.lower()}"), name)
    most = max(n_replicas, config.autoscale.max_rankers) if name == "Ranker" else n_replicas
    options = replica_options(config, n_replicas * (n_nodes or 1))
    if n_nodes is not None:
        # A lone replica's successor is started beside it.
        options |= {
            "max_replicas_per_node": most if n_replicas * n_nodes > 1 else None,
            "graceful_shutdown_timeout_s": DRAINING_S,
            "ray_actor_options": {**options["ray_actor_options"], "resources": {SERVING: TRACE}},
        }
    if most > n_replicas:
        del options["num_replicas"]
        options["autoscaling_config"] = _autoscaling(config, n_nodes or 1)
    # Serve takes every deployment for a new version and replaces all replicas, unless it is told that it is none; which
    # it wants to hear from itself alone.
    return deployment.options(**options, version=release, _internal=True)


def _autoscaling(config: Config, n_nodes: int) -> Any:
    scale, serve = config.autoscale, importlib.import_module("ray.serve.config")
    return serve.AutoscalingConfig(
        min_replicas=config.n_rankers * n_nodes,
        max_replicas=scale.max_rankers * n_nodes,
        upscale_delay_s=scale.up_s,
        downscale_delay_s=scale.down_s,
        look_back_period_s=LOOK_BACK_S,
        policy=serve.AutoscalingPolicy(
            policy_function=f"{LoadPolicy.__module__}:{LoadPolicy.__name__}", policy_kwargs=asdict(scale)
        ),
    )


def replica_options(config: Config, n_replicas: int) -> dict[str, Any]:
    """How Serve runs a deployment of ours."""
    return {
        "num_replicas": n_replicas,
        # A lone replica's successor answers before it goes; of several, the others answer while one is replaced.
        "max_surge_percent": 100 if n_replicas == 1 else 0,
        "max_ongoing_requests": MAX_ONGOING,
        "graceful_shutdown_timeout_s": config.cluster.draining_s,
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 10.0,
        "logging_config": QUIET,
        "ray_actor_options": {"num_cpus": 0.1},
    }


class Run:
    """Everything on this machine: `start`, use `url`, `stop`; or a `with` block.

    Args:
        say: Told in words what is going on.
    """

    def __init__(self, config: Config, say: Callable[[str], None] = logger.info, log_path: str = "") -> None:
        self.config = config
        self.cluster = LocalCluster(config.cluster)
        self.server: EmbeddedServer | None = None
        self.api_key: str | None = None
        """Opens everything; None where nobody needs one."""
        self._say = say
        self._log_path = log_path

    @property
    def url(self) -> str:
        """Where the application answers."""
        return f"http://{self.config.cluster.host}:{self.config.cluster.port}"

    def start(self) -> Self:
        """Start everything; return once a rank succeeds.

        Raises:
            UnavailableError: If the port is taken, or the application does not answer in time.
            StoreRefused: If the given store cannot keep the promises.
        """
        try:
            run_id = processes.mark_this_process()
            self._start_store(run_id)
            self.api_key = self._make_key()
            self._say("starting Ray and Serve")
            self.cluster.start()
            self._say("starting learner, projector, hub and replicas")
            deploy(self.config)
            self._wait_until_ready()
            record = processes.new_record(
                run_id,
                self.config.cluster.port,
                host=self.config.cluster.host,
                redis_url=self.config.store.url,
                ray_address=self.cluster.ray_address,
                log_path=self._log_path,
                api_key=self.api_key or "",
            )
            processes.write_record(record)
        except BaseException:
            self.stop()
            raise
        logger.info("effective configuration: %s", msgspec.json.encode(as_dict(self.config)).decode())
        return self

    def stop(self) -> None:
        """End everything that was started; what is durable stays."""
        self.cluster.stop()
        if self.api_key is not None:
            self._drop_key()
            self.api_key = None
        if self.server is not None:
            self.server.close()
            self.server = None
            shutil.rmtree(run_versions(self.cluster.run_id), ignore_errors=True)  # worthless without their log
        if self.cluster.run_id:
            processes.remove_record(self.config.cluster.port, self.cluster.run_id)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_store(self, run_id: str) -> None:
        if self.config.store.url:
            try_store(self.config)
            return
        self._say("starting a private store")
        self.server = EmbeddedServer(is_ephemeral=self.config.store.ephemeral, has_password=True).start()
        if self.server.pid is not None:
            self.cluster.spare.add(self.server.pid)
        folder = self.config.folder or str(run_versions(run_id))
        self.config = with_store(replace(self.config, folder=folder), url=self.server.url)
        try_store(self.config)

    @property
    def _key_name(self) -> str:
        return f"operator@{os.uname().nodename}.{self.config.cluster.port}"

    def _make_key(self) -> str | None:
        """The key of commands on this machine, in the place of what a run before may have left."""
        if self.config.access.at(is_loopback=self.config.is_loopback).keys == "off":
            return None
        name = self._key_name

        async def made(ring: KeyRing) -> str:
            for key in await ring.all():
                if key.name == name:
                    await ring.revoke(key.id)
            return await ring.make(name, [ADMIN])

        token: str = self._with_ring(made)
        return token

    def _drop_key(self) -> None:
        try:
            self._with_ring(lambda ring: ring.revoke(self._key_name))
        except (FeatureError, ConfigError) as error:
            logger.warning("the key of this run is not taken away: %s", error)

    def _with_ring(self, work: Callable[[KeyRing], Awaitable[Any]]) -> Any:
        async def done() -> Any:
            async with KeyRing(access_of(self.config.store), "headrace up", WallClock().now_ms) as ring:
                return await work(ring)

        return asyncio.run(done())

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_S
        body = {"user": "headrace-ready", "candidates": ["headrace-ready"]}
        headers = {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}
        with httpx.Client(timeout=5.0, headers=headers) as client:
            while True:
                try:
                    answers = client.post(f"{self.url}/v1/rank", json=body), client.get(f"{self.url}/v1/health")
                    if all(answer.status_code == 200 for answer in answers):
                        return
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline_s:
                    raise UnavailableError(f"no answer at {self.url} within {READY_S:g} s")
                time.sleep(0.1)


def run_versions(run_id: str) -> Path:
    """Where a run with a private store keeps its durable versions when no folder is configured; they go with it."""
    return processes.home() / "versions" / run_id
