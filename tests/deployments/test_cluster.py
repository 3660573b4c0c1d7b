"""A whole cluster behind HAProxy: what passes through it, what it survives, and that it leaves nothing behind.

The cluster is a process of its own (`cluster_program`), spoken to by HTTP and signals only.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import msgspec
import psutil
import pytest

from deployments.cluster import LOOPBACK, remove_run_folder, run_folder
from deployments.gate import MAX_BODY_BYTES
from deployments.processes import RUN_ID_VARIABLE, marked_processes, sweep
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


class Program:
    """`cluster_program` under a run id we chose."""

    def __init__(self, mode: str, port: int, folder: Path) -> None:
        self.run_id = f"{mode}{time.time_ns()}"[-12:]
        self.port = port
        self._ready = folder / f"{mode}.json"
        self._log = (folder / f"{mode}.log").open("w+")
        command = [sys.executable, "-m", "tests.deployments.cluster_program", mode, str(port), str(self._ready)]
        environment = {**os.environ, RUN_ID_VARIABLE: self.run_id}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def wait_ready(self) -> dict[str, float]:
        """Wait until the program says that it is up; return its timings."""
        eventually(
            lambda: self._ready.exists() or self.process.poll() is not None, "the program is ready or has ended", 90.0
        )
        assert self._ready.exists(), self.log()
        return msgspec.json.decode(self._ready.read_bytes(), type=dict[str, object])  # type: ignore[return-value]

    def log(self) -> str:
        """Return what it printed."""
        self._log.seek(0)
        return self._log.read()

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal signals the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def close(self) -> None:
        """End it whatever its state."""
        self.process.kill()
        self.process.wait()
        self._log.close()
        sweep(self.run_id)
        remove_run_folder(self.run_id)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    started = Program("apps", free_port(), tmp_path_factory.mktemp("cluster"))
    try:
        started.wait_ready()
        yield started
    finally:
        started.close()


@pytest.fixture
def client(program: Program) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{LOOPBACK}:{program.port}", timeout=10) as connected:
        yield connected


def haproxies(run_id: str) -> list[psutil.Process]:
    return [process for process in marked_processes(run_id) if process.name() == "haproxy"]


@pytest.mark.parametrize(
    ("path", "app", "root_path"),
    [("/v1/rank", "rank", "/v1/rank"), ("/v1/rank?a=1", "rank", "/v1/rank"), ("/v1/health", "rest", "")],
)
def test_the_app_sees_the_whole_path(client: httpx.Client, path: str, app: str, root_path: str) -> None:
    seen = client.get(path).json()
    assert (seen["app"], seen["root_path"]) == (app, root_path)
    assert seen["path"] == seen["raw_path"] == path.split("?", maxsplit=1)[0]


def test_an_encoded_slash_survives(client: httpx.Client) -> None:
    assert client.get("/v1/users/a%2Fb%20%C3%A4").json()["params"] == {"id": "a/b ä"}


@pytest.mark.parametrize("path", ["/", "/v1/rankx", "/v1/rank/", "/v1/rank/x", "/v1/nothing"])
def test_an_unknown_path_is_404_as_json_whoever_gets_it(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("status", "code", "retry_after"),
    [
        (400, "malformed", None),
        (413, "too_large", None),
        (422, "invalid", None),
        (429, "overloaded", "7"),
        (503, "unavailable", "9"),
    ],
)
def test_our_errors_pass_unchanged(client: httpx.Client, status: int, code: str, retry_after: str | None) -> None:
    answer = client.get("/v1/rank", headers={"x-fail": str(status)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.parametrize(("n_bytes", "status"), [(MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413), (8 << 20, 413)])
def test_large_bodies_arrive_or_are_refused(client: httpx.Client, n_bytes: int, status: int) -> None:
    answer = client.post("/v1/events", content=bytes(n_bytes))
    assert answer.status_code == status
    assert status != 200 or answer.json()["n_bytes"] == n_bytes


async def hang_up(port: int, head: bytes) -> None:
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(head)
    await writer.drain()
    writer.close()


async def test_thousands_that_hang_up_midway_stall_nobody(program: Program) -> None:
    waiting = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\nx-sleep: 0.2\r\ncontent-length: 1\r\n\r\nx"
    uploading = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx"
    for head in (waiting, uploading) * 8:
        await asyncio.gather(*(hang_up(program.port, head) for _ in range(150)))
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{program.port}", timeout=2) as client:
        async with asyncio.timeout(10):  # so many at once are shed, and for a second after
            while True:
                answers = await asyncio.gather(*(client.get("/v1/rank") for _ in range(50)))
                found = {answer.status_code for answer in answers}
                assert found <= {200, 429}
                if found == {200}:
                    break
                await asyncio.sleep(0.2)


def test_only_the_token_guarded_ports_listen_beyond_loopback(program: Program) -> None:
    """The exception is Serve's port for calls between deployments: Ray opens it to everyone, its token closes it."""
    open_ports = []
    for process in marked_processes(program.run_id):
        for connection in process.net_connections(kind="tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN
            if is_listening and connection.laddr.ip.removeprefix("::ffff:") not in (LOOPBACK, "::1"):
                open_ports.append((process.name(), connection.laddr.port))
    assert open_ports
    assert all(name.startswith("ray::ServeReplica") for name, _ in open_ports), open_ports
    for _, port in open_ports:
        with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel, pytest.raises(grpc.RpcError) as refusal:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            call(b"", timeout=5)
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def outcome_of_a_slow_get(base_url: str, path: str) -> tuple[int, str]:
    """Ask for an answer that takes 3 s; return the status (0: closed without a word) and the error's code."""
    async with httpx.AsyncClient(base_url=base_url, timeout=20) as client:
        try:
            answer = await client.get(path, headers={"x-sleep": "3"})
        except httpx.RemoteProtocolError:
            return 0, ""
    return answer.status_code, answer.json().get("error", {}).get("code", "")


async def kill_midway(client: httpx.AsyncClient, path: str) -> tuple[int, list[asyncio.Task[tuple[int, str]]]]:
    """Kill a replica that has slow requests under way; return its process id, and what becomes of the requests."""
    victim = (await client.get(path)).json()["pid"]
    held = [asyncio.create_task(outcome_of_a_slow_get(str(client.base_url), path)) for _ in range(8)]
    await asyncio.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    return victim, held


async def test_ranks_that_a_killed_replica_held_are_answered_by_the_other(program: Program) -> None:
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{program.port}", timeout=20) as client:
        victim, held = await kill_midway(client, "/v1/rank")
        after = [await client.get("/v1/rank") for _ in range(20)]
        outcomes = set(await asyncio.gather(*held))
    assert {answer.status_code for answer in after} == {200}
    assert victim not in {answer.json()["pid"] for answer in after}
    assert outcomes == {(200, "")}


async def test_other_requests_that_a_killed_replica_held_are_not_sent_again(
    program: Program, client: httpx.Client
) -> None:
    """They end with our 503, or unanswered where HAProxy had reused a connection; who asked may ask again."""
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{program.port}", timeout=20) as asking:
        _, held = await kill_midway(asking, "/v1/health")
        assert set(await asyncio.gather(*held)) <= {(0, ""), (503, "unavailable")}
    eventually(lambda: client.get("/v1/health").status_code == 200, "its successor answers", 30.0)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/rank").status_code == 200
    except httpx.TransportError:
        return False


def test_a_killed_haproxy_comes_back(program: Program, client: httpx.Client) -> None:
    killed = {process.pid for process in haproxies(program.run_id)}
    for process in haproxies(program.run_id):
        process.kill()
    eventually(lambda: answers(client), "it answers", 30.0)
    assert killed.isdisjoint(process.pid for process in haproxies(program.run_id))


def test_haproxy_ends_with_the_actor_that_started_it_and_both_come_back(program: Program, client: httpx.Client) -> None:
    """Left alone it would keep the port, and the next one could not start."""
    (before,) = haproxies(program.run_id)
    before.parent().kill()
    before.wait(5)
    eventually(lambda: answers(client), "it answers", 30.0)
    assert before not in haproxies(program.run_id)


def test_ctrl_c_leaves_nothing_behind(program: Program) -> None:
    assert haproxies(program.run_id)
    program.interrupt()
    program.process.wait(timeout=40)
    assert marked_processes(program.run_id) == []
    assert not run_folder(program.run_id).exists()
    assert program.process.returncode == 0, program.log()


def test_a_second_cluster_on_the_port_starts_and_after_sigkill_the_sweep_ends_it(tmp_path: Path) -> None:
    program = Program("again", free_port(), tmp_path)
    try:
        program.wait_ready()
        assert httpx.get(f"http://{LOOPBACK}:{program.port}/v1/rank").status_code == 404
        program.process.kill()
        program.process.wait()
        assert haproxies(program.run_id)
        assert "haproxy" in {one.name for one in sweep(program.run_id)}
        assert marked_processes(program.run_id) == []
    finally:
        program.close()


def test_sigterm_in_the_middle_of_the_start_leaves_nothing_behind(tmp_path: Path) -> None:
    program = Program("apps", free_port(), tmp_path)
    try:
        eventually(
            lambda: any("raylet" in process.name() for process in marked_processes(program.run_id)), "a raylet", 60.0
        )
        program.process.terminate()
        program.process.wait(timeout=60)
        assert marked_processes(program.run_id) == []
        assert not run_folder(program.run_id).exists()
    finally:
        program.close()
