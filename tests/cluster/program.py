"""The whole application in a process of its own, obeying a test: `python -m tests.cluster.program CONFIG_JSON`.

Reads one JSON command a line from standard input, answers each with one JSON line on standard output. The commands are
what a test can't do from outside: push from inside the cluster, hold versions back, kill an actor, take the store away
and bring it back, keep every published version.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import msgspec

from deployments.app import Run, deploy
from deployments.config import config_from_dict
from deployments.processes import termination
from learners.editions import Place

ACTORS = {
    "learner": "headrace-learner",
    "learner-1": "headrace-learner-1",
    "projector": "headrace-projector",
    "hub": "headrace-hub",
    "judge": "headrace-judge",
    "log": "headrace-log",
    "skew": "headrace-skew",
}


class Commands:
    """What a test may ask for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ray = importlib.import_module("ray")
        self._is_over = threading.Event()
        self._follower = threading.Thread()

    def close(self) -> None:
        """To be called before Ray ends: who then still asks it for something ends the whole process at once."""
        self._is_over.set()
        if self._follower.ident:
            self._follower.join(30.0)

    @property
    def _controller(self) -> Any:
        return self._ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")

    def push(self, events: list[dict[str, Any]]) -> Any:
        """`learners.push` from a Ray task, as a pipeline would."""
        return self._ray.get(_push_task(self._ray).remote(events))

    def status(self, actor: str) -> dict[str, Any]:
        """What an actor tells of itself."""
        handle = self._ray.get_actor(ACTORS[actor])
        told: dict[str, Any] = self._ray.get(handle.status.remote())
        return told

    def pid(self, actor: str) -> int:
        """Process id of an actor."""
        return int(self.status(actor)["pid"])

    def kill(self, actor: str) -> int:
        """SIGKILL an actor's process."""
        pid = self.pid(actor)
        os.kill(pid, signal.SIGKILL)
        return pid

    def controller_pid(self) -> int:
        """Process id of Serve's controller."""
        return int(self._ray.get(self._controller.get_pid.remote()))

    def serving(self) -> dict[str, dict[str, int]]:
        """What runs by the account of Serve's controller: by deployment, each replica and its port."""
        replicas = self._ray.get(self._controller._all_running_replicas.remote())
        return {
            deployment.name: {replica.actor_name: replica.backend_http_port for replica in running}
            for deployment, running in replicas.items()
        }

    def hub(self, method: str) -> Any:
        """Call a method of the hub that takes nothing."""
        return self._ray.get(getattr(self._ray.get_actor(ACTORS["hub"]), method).remote())

    def erase(self, users: list[str], positions: list[tuple[int, int, int]]) -> bool:
        """Have the hub erase people, whose erasures are at these positions: partition, milliseconds, number."""
        ends = {partition: (ms, seq) for partition, ms, seq in positions}
        return bool(self._ray.get(self._ray.get_actor(ACTORS["hub"]).erase.remote(users, ends)))

    def save_version(self, path: str) -> str:
        """Write the current version to a file, whole."""
        Path(path).write_bytes(self.hub("committed"))
        return path

    def configure(self, values: dict[str, Any]) -> str:
        """Have replicas follow other settings, as a deployment does that changes nothing else."""
        settings = msgspec.json.encode(config_from_dict(values).replica.live)
        self._ray.get(self._ray.get_actor(ACTORS["hub"]).configure.remote(settings))
        return "configured"

    def poison(self, is_poisoned: bool) -> str:
        """Replace the learner by one that learns the wrong thing, or back."""
        importlib.import_module("tests.cluster.poison").replace_learner(self._run.config, is_poisoned=is_poisoned)
        return "replaced"

    def redeploy(self, values: dict[str, Any]) -> str:
        """Deploy anew with some settings changed, which makes another release."""
        config = config_from_dict({**values, "store": {"url": self._run.config.store.url}})
        deploy(replace(config, folder=self._run.config.folder, cluster=self._run.config.cluster))
        return "deployed"

    def store_kill(self) -> str:
        """SIGKILL the private store."""
        assert self._run.server is not None
        self._run.server.kill()
        return "killed"

    def store_start(self) -> str:
        """Bring the private store back, on its port and with its data."""
        assert self._run.server is not None
        self._run.server.start()
        return "started"

    def keep_versions(self, folder: str) -> str:
        """Keep every edition published from now on as a file: a list of its packed head and parts."""
        self._follower = threading.Thread(target=self._follow, args=(Path(folder),), daemon=True)
        self._follower.start()
        return folder

    def _follow(self, folder: Path) -> None:
        hub = self._ray.get_actor(ACTORS["hub"])
        place = Place()
        while not self._is_over.is_set():
            news = self._ray.get(hub.follow.remote(place, 0, 0.5))
            for number, refs in enumerate(news["editions"], news["place"].number - len(news["editions"]) + 1):
                packed = [bytes(part) for part in self._ray.get(refs)]
                (folder / f"{number:08d}.part").write_bytes(msgspec.msgpack.encode(packed))
                (folder / f"{number:08d}.part").rename(folder / f"{number:08d}.bin")
            place = news["place"]


def _push_task(ray: Any) -> Any:
    def push(events: list[dict[str, Any]]) -> Any:
        return importlib.import_module("learners").push(events)

    return ray.remote(num_cpus=0)(push)


def main() -> None:
    """Start, say ready, obey until the input ends or a signal comes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints to standard output what its daemons report
    config = config_from_dict(msgspec.json.decode(sys.argv[1].encode()))
    with (
        Run(config, say=lambda text: print(text, file=sys.stderr, flush=True)) as run,
        termination(),
        contextlib.closing(Commands(run)) as commands,
    ):
        _answer(answers, lambda: {"url": run.url, "run_id": run.cluster.run_id})
        for line in sys.stdin:
            name, *arguments = msgspec.json.decode(line.encode())
            _answer(answers, lambda name=name, arguments=arguments: getattr(commands, name)(*arguments))


def _answer(answers: TextIO, compute: Callable[[], Any]) -> None:
    try:
        answer = {"ok": compute()}
    except Exception as error:  # noqa: BLE001  told to the test, which fails on it
        answer = {"error": repr(error)}
    print(msgspec.json.encode(answer).decode(), file=answers, flush=True)


if __name__ == "__main__":
    main()
