"""Tries ports in every language that a cluster of ours speaks, without key, token or password.

`python -m tests.cluster.knocking HOST:PORT …` writes what each port answers as JSON: by port, by what was tried.
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import msgspec

WAIT_S = 3.0
UNREACHABLE = "unreachable"
HTTP = (
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/-/routes"),
    ("GET", "/v1/health"),
    ("POST", "/v1/rank"),
    ("POST", "/v1/events"),
    ("GET", "/v1/users/u"),
    ("DELETE", "/v1/users/u"),
    ("POST", "/v1/model/rollback"),
    ("GET", "/v1/audit"),
    ("GET", "/api/v0/actors"),
    ("POST", "/api/jobs/"),
    ("GET", "/api/serve/applications/"),
    ("GET", "/stats"),
)
GRPC = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.RayletDriver/Init",
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.serve.UserDefinedService/__call__",
)
REDIS = ("PING", "INFO", "KEYS *")


def knock(address: str) -> dict[str, str]:
    """What one port answers, by what was tried."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), WAIT_S).close()
    except OSError:
        return {"connect": UNREACHABLE}
    return {**_http(address), **_grpc(address), **_redis(host, int(port))}


def _http(address: str) -> dict[str, str]:
    got = {}
    for method, path in HTTP:
        try:
            answer = httpx.request(method, f"http://{address}{path}", timeout=WAIT_S, json={})
        except (httpx.TransportError, ValueError):  # what answers is no HTTP
            break
        got[f"{method} {path}"] = str(answer.status_code)
    return got


def _grpc(address: str) -> dict[str, str]:
    got = {}
    with grpc.insecure_channel(address) as channel:
        for name in GRPC:
            try:
                channel.unary_unary(name)(b"", timeout=WAIT_S)
                got[name] = "OK"
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    break  # what answers is no gRPC
                got[name] = error.code().name
    return got


def _redis(host: str, port: int) -> dict[str, str]:
    got = {}
    for command in REDIS:
        try:
            with socket.create_connection((host, port), WAIT_S) as connection:
                connection.settimeout(WAIT_S)
                connection.sendall(f"{command}\r\n".encode())
                reply = connection.recv(200).decode("latin-1")
        except OSError:
            break
        if reply[:1] not in ("+", "-", "$", "*"):
            break  # what answers is no Redis
        got[command] = reply.split()[0]
    return got


if __name__ == "__main__":
    with ThreadPoolExecutor(16) as pool:
        print(msgspec.json.encode(dict(zip(sys.argv[1:], pool.map(knock, sys.argv[1:]), strict=True))).decode())
