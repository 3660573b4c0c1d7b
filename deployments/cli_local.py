"""`headrace up|down|status`: everything on this machine."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any, Final

import httpx

from deployments import processes
from deployments.app import Run
from deployments.client import HeadraceError
from deployments.cluster import remove_run_folder
from deployments.config import Config, load_config, with_store
from deployments.credentials import connected
from deployments.terminal import console

LOG: Final = "HEADRACE_LOG"
DETACH_S: Final = 150.0
STOP_S: Final = 30.0


def run_up(options: argparse.Namespace) -> int:
    """Start everything and stay until told to stop; with --detach in a process of its own."""
    config = _up_config(options)
    if options.detach:
        return _detach(options, config.cluster.port)
    run = Run(config, say=lambda text: console.print(f"[dim]{text}[/dim]"), log_path=os.environ.get(LOG, ""))
    began_s = time.monotonic()
    with run, processes.termination() as stop:
        console.print(f"ready at {run.url} after {time.monotonic() - began_s:.1f} s; Ctrl-C ends it", markup=False)
        stop.wait()
        console.print("stopping")
    return 0


def _up_config(options: argparse.Namespace) -> Config:
    config = load_config(options.config)
    if options.port is not None:
        config = replace(config, cluster=replace(config.cluster, port=options.port))
    if options.clock is not None:
        config = with_store(config, clock=options.clock)
    if options.ephemeral:
        config = with_store(config, ephemeral=True)
    return config


def _detach(options: argparse.Namespace, port: int) -> int:
    arguments = [part for part in sys.argv[1:] if part != "--detach"]
    processes.home().mkdir(parents=True, exist_ok=True)
    log = processes.home() / f"up-{port}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, LOG: str(log)},
        )
    deadline_s = time.monotonic() + DETACH_S
    while time.monotonic() < deadline_s:
        record = processes.read_record(port)
        if record is not None and record.pid == child.pid:
            console.print(f"ready at http://127.0.0.1:{port}; log {log}; end it with: headrace down --port {port}")
            return 0
        if child.poll() is not None:
            break
        time.sleep(0.1)
    child.terminate()
    console.print(f"did not start; the end of {log}:\n{log.read_text()[-2000:]}", style="red", markup=False)
    return 1


def run_down(options: argparse.Namespace) -> int:
    """End a run by its record: ask its leader, then sweep whatever carries its mark."""
    record = processes.read_record(options.port)
    if record is None:
        console.print(f"nothing is recorded on port {options.port}")
        return 1
    if not processes.is_stale(record):
        processes.ask_to_stop(record, wait_s=STOP_S)
    left = processes.sweep(record.run_id)
    remove_run_folder(record.run_id)
    processes.remove_record(record.port, record.run_id)
    console.print(f"down{f'; {len(left)} leftover processes ended' if left else ''}")
    return 0


def run_status(options: argparse.Namespace) -> int:
    """Show the run, the model, the log and the sources of events; exit status 1 if it does not answer."""
    record = processes.read_record(options.port)
    status: dict[str, Any] = {"running": record is not None and not processes.is_stale(record), "port": options.port}
    options.url = f"http://127.0.0.1:{options.port}"
    try:
        with connected(options.url, timeout_s=5.0) as client:
            status["health"] = client.get("/v1/health")["status"]
            status["model"] = client.get("/v1/model")
            status["running"] = True
            status["events"] = client.get("/v1/log")
            status["sources"] = client.get("/v1/sources")["problems"]
    except (HeadraceError, httpx.TransportError) as error:
        status["health"] = str(error)
    if record is not None:
        status |= {"pid": record.pid, "ray": record.ray_address, "log": record.log_path}
    if options.json:
        print(json.dumps(status))
    else:
        for name, value in status.items():
            console.print(f"{name:8} {value}", markup=False)
    return 0 if status["health"] == "ok" else 1
