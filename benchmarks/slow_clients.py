"""Clients that are slower than anybody needs to be: each holds a connection, and sends a byte of a head now and then.

    python -m benchmarks.slow_clients PORT N SECONDS

Each has a moment of its own in the second, as those have who do not know of each other. Whoever is cut off comes again.
At the end the number of those who were is written.
"""

import contextlib
import socket
import sys
import time
from typing import Final

import msgspec

from features.priority import step_back

BEAT_S: Final = 1.0
BEGUN: Final = b"POST /v1/rank HTTP/1.1\r\nhost: headrace\r\nx-slow: "


def crawl(port: int, n_clients: int, duration_s: float) -> int:
    """Hold so many connections for so long; returns how often one was cut off."""
    began_s = time.monotonic()
    clients: list[socket.socket | None] = [None] * n_clients
    n_cut = 0
    for turn in range(round(duration_s / BEAT_S * n_clients)):
        time.sleep(max(0.0, began_s + turn * BEAT_S / n_clients - time.monotonic()))
        number = turn % n_clients
        client = clients[number]
        if client is None:
            clients[number] = _begun(port)
        elif _is_cut(client):
            client.close()
            clients[number] = None
            n_cut += 1
    for client in clients:
        if client is not None:
            client.close()
    return n_cut


def _begun(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        client = socket.create_connection(("127.0.0.1", port), timeout=1.0)
        client.sendall(BEGUN)
        client.setblocking(False)
        return client
    return None


def _is_cut(client: socket.socket) -> bool:
    """Send a byte; whether the other side has answered or gone, which it does only to end it."""
    try:
        client.send(b"x")
        client.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    step_back(0, entirely=True)
    print(msgspec.json.encode(crawl(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))).decode())
