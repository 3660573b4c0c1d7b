"""What is asked of Ray's head carries the token, and what goes wrong is said. The head is a small real server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from deployments.cli_deploy import wait_for_nodes
from deployments.errors import ClusterError, ConfigError
from deployments.head import Head, read_token

TOKEN = "the-token"
WORKER = {"node_ip": "192.0.2.11", "state": "ALIVE", "resources_total": {"serving": 1000.0}}


def report(pending: list[list[str]], launches: dict[str, int]) -> dict[str, Any]:
    return {"data": {"clusterStatus": {"autoscalerReport": {"pendingNodes": pending, "pendingLaunches": launches}}}}


class Server(ThreadingHTTPServer):
    """Answers by path, one answer after the other, and the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def list(self, kind: str, *rows: dict[str, Any]) -> None:
        self.answers[f"/api/v0/{kind}"] = [(200, {"data": {"result": {"result": rows}}})]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == f"Bearer {TOKEN}"
        answers = self.server.answers[urlsplit(self.path).path] if is_known else [(401, "no token")]
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(msgspec.json.encode(body))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def head(server: Server) -> Iterator[Head]:
    with Head(f"{server.url}/", TOKEN) as head:
        yield head


def test_nodes_actors_and_applications_are_listed(server: Server, head: Head) -> None:
    server.list("nodes", WORKER)
    server.list("actors", {"name": "headrace-hub"})
    server.answers["/api/serve/applications/"] = [(200, {"applications": {}})]
    assert (head.nodes(), head.actors(), head.serving()) == ([WORKER], [{"name": "headrace-hub"}], {"applications": {}})


def test_without_the_clusters_token_nothing_is_told(server: Server) -> None:
    with Head(server.url, "another") as head, pytest.raises(ClusterError, match="token"):
        head.nodes()


def test_an_answer_other_than_success_is_told(server: Server, head: Head) -> None:
    server.answers["/api/v0/nodes"] = [(500, "GCS is away")]
    with pytest.raises(ClusterError, match=r"500.*GCS is away"):
        head.nodes()


def test_a_job_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    with Head("http://127.0.0.1:1", TOKEN) as head:
        with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1"):
            head.run("true", print, tmp_path)
        with pytest.raises(httpx.TransportError):
            head.nodes()


def test_a_deployment_waits_for_the_nodes_that_are_being_set_up(server: Server, head: Head) -> None:
    server.list("nodes", WORKER)
    server.answers["/api/cluster_status"] = [
        (200, {"data": {"clusterStatus": {}}}),
        (200, report([["192.0.2.12", "local.cluster.node", "setting-up"]], {"local.cluster.node": 1})),
        (200, report([], {})),
    ]
    said: list[str] = []
    wait_for_nodes(head, said.append)
    assert said == ["waiting for nodes: 192.0.2.12 (setting-up), 1 to be started"]
    server.list("nodes", {**WORKER, "state": "DEAD"}, {**WORKER, "resources_total": {"learning": 1.0}})
    with pytest.raises(ClusterError, match="no node serves"):
        wait_for_nodes(head, said.append)


def test_the_token_is_found_where_ray_finds_it(tmp_path: Path) -> None:
    file = tmp_path / "auth_token"
    with pytest.raises(ConfigError, match=r"auth_token.*--generate"):
        read_token({"RAY_AUTH_TOKEN_PATH": str(file)})
    file.write_text("from-file\n")
    assert read_token({"RAY_AUTH_TOKEN_PATH": str(file)}) == "from-file"
    assert read_token({"RAY_AUTH_TOKEN_PATH": str(file), "RAY_AUTH_TOKEN": "given"}) == "given"
