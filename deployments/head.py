"""Ray's head of a cluster as its operator's machine sees it: by REST, with the operator's token.

What comes back is Ray's own JSON, as Ray 2.60 writes it; `cluster_status.py` makes sense of it.
"""

import importlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from deployments.errors import ClusterError, ConfigError

TIMEOUT_S: Final = 20.0  # a head that has just been started takes some seconds for its first answers
POLL_S: Final = 0.5
MAX_ROWS: Final = 10_000  # the most that Ray lists
N_LAST_CHARACTERS: Final = 4000


def read_token(environment: Mapping[str, str] = os.environ) -> str:
    """Find the token of this machine's clusters where Ray does.

    Raises:
        ConfigError: If there is none.
    """
    if "RAY_AUTH_TOKEN" in environment:
        return environment["RAY_AUTH_TOKEN"].strip()
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"no token: {error}; make one with: ray get-auth-token --generate") from None


class Head:
    """A connection to the head at an address such as `http://host:8265`.

    Every method raises `httpx.TransportError` if nobody answers, and `ClusterError` for an answer other than success.
    """

    def __init__(self, address: str, token: str) -> None:
        self.address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=self.address, timeout=TIMEOUT_S, headers=self._headers)

    def nodes(self) -> list[dict[str, Any]]:
        """List nodes, the dead ones of a while too."""
        return self._listed("nodes", detail=1)

    def actors(self) -> list[dict[str, Any]]:
        """List actors, the dead ones of a while too."""
        return self._listed("actors")

    def serving(self) -> dict[str, Any]:
        """Describe Serve: its proxies and applications, with every replica."""
        return self._get("/api/serve/applications/")

    def being_set_up(self) -> list[str] | None:
        """Name what the autoscaler still sets up, in its words; None until it has looked for the first time."""
        report = self._get("/api/cluster_status")["data"]["clusterStatus"].get("autoscalerReport")
        if report is None:
            return None
        launches = sum(report["pendingLaunches"].values())
        pending = [f"{address} ({state})" for address, _, state in report["pendingNodes"]]
        return [*pending, *([f"{launches} to be started"] if launches else [])]

    def run(self, command: str, say: Callable[[str], None], folder: Path | None = None) -> None:
        """Run a command on the head; wait for its end.

        Args:
            folder: It runs in a copy of it, its workers on all nodes too; None: with what nodes were started with.
            say: Told each line that the command prints.
        Raises:
            ClusterError: If it fails, with the end of what it printed.
        """
        sdk = importlib.import_module("ray.job_submission")
        logging.disable(logging.INFO)  # of how it is sent
        try:
            runtime_env = {} if folder is None else {"working_dir": str(folder)}
            client = sdk.JobSubmissionClient(self.address, headers=self._headers)
            job = client.submit_job(entrypoint=command, runtime_env=runtime_env)
            log = _follow(client, job, say)
            info = client.get_job_info(job)
        except (OSError, RuntimeError) as error:  # what Ray's client raises, and what it lets through
            raise ClusterError(f"{self.address}: {error}") from None
        if info.status != sdk.JobStatus.SUCCEEDED:
            raise ClusterError(f"{command}: {info.message}\n{log[-N_LAST_CHARACTERS:]}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listed(self, kind: str, **options: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._get(f"/api/v0/{kind}", limit=MAX_ROWS, **options)["data"]["result"]["result"]
        return rows

    def _get(self, path: str, **options: int) -> dict[str, Any]:
        response = self._http.get(path, params=options)
        if response.status_code in {401, 403}:
            raise ClusterError(
                f"{self.address} does not know this machine's token ({response.text}); it must be the one that "
                "`ray up` brought to the nodes (~/.ray/auth_token)"
            )
        if response.status_code != 200:
            raise ClusterError(f"{self.address}{path}: {response.status_code} {response.text[:500]}")
        body: dict[str, Any] = response.json()
        return body


def _follow(client: Any, job: str, say: Callable[[str], None]) -> str:
    """Tell each line that a job prints once it is whole; returns all of it when the job has ended."""
    n_said = 0
    while True:
        is_over = client.get_job_status(job).is_terminal()
        log: str = client.get_job_logs(job)
        lines = log.splitlines() if is_over else log.splitlines()[: log.count("\n")]
        for line in lines[n_said:]:
            say(line)
        if is_over:
            return log
        n_said = len(lines)
        time.sleep(POLL_S)
