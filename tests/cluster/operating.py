"""What an operator does on the lab's machines: edit `cluster.yaml`, `ray up`, `headrace deploy`, `ray down`.

The hosts are as fresh as those of a newcomer, but for what would need the network: the virtual environment is this one,
and loops are compiled once, for all hosts and the next run.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import httpx

from features.embedded import server_binary
from tests.cluster.lab import OPERATOR, ROOT, STORE, Lab

DOCUMENTED: Final = {"192.0.2.10": "h1", "192.0.2.11": "h2", "192.0.2.12": "h3"}
MOUNTED: Final = ("features", "learners", "deployments", "pyproject.toml", "README.md", "cluster.yaml")
BIN: Final = Path(sys.prefix) / "bin"
PASSWORD: Final = "lab-store"


def edited(text: str, addresses: dict[str, str]) -> str:
    """`cluster.yaml` as a newcomer edits it: addresses and the user; the key is where it says."""
    for documented, host in DOCUMENTED.items():
        text = text.replace(documented, addresses[host])
    return text.replace("ssh_user: ubuntu", "ssh_user: root")


class Operator:
    """The operator of a lab that is up.

    Args:
        compiled: Where compiled loops are kept from run to run; every host must see it.
    """

    def __init__(self, lab: Lab, compiled: Path) -> None:
        self.lab = lab
        self.checkout = lab.home(OPERATOR) / "checkout"
        self.store_url = f"redis://:{PASSWORD}@{lab.addresses[STORE]}:6379/0"
        for host in lab.hosts:
            _furnish(lab.home(host), compiled)
        self.checkout.mkdir()
        for name in MOUNTED:
            _copy(ROOT / name, self.checkout / name)
        text = (ROOT / "cluster.yaml").read_text()
        (self.checkout / "cluster.yaml").write_text(edited(text, lab.addresses))

    def run(self, command: str, *, wait_s: float = 120.0, **variables: str) -> str:
        """Run a shell command in the operator's checkout; returns what it printed."""
        settings = {
            "PATH": f"{BIN}:$PATH",
            "PYTHONPATH": "$HOME/checkout",
            "RAY_AUTH_MODE": "token",
            "RAY_UP_enable_autoscaler_v2": "0",
            **variables,
        }
        exports = " ".join(f'{name}="{value}"' for name, value in settings.items())
        return self.lab.run(OPERATOR, "bash", "-c", f"export {exports}; cd ~/checkout && {command}", wait_s=wait_s)

    def start_store(self) -> None:
        """Start a store with a password, on a host of its own; it ends with the lab."""
        settings = [
            *(f"bind {self.lab.addresses[STORE]}", "port 6379", f"requirepass {PASSWORD}", "dir /root"),
            *("appendonly yes", "appendfsync no", "save ''", "maxmemory-policy noeviction"),
        ]
        (self.lab.home(STORE) / "store.conf").write_text("\n".join((*settings, "")))
        self.lab.start(STORE, str(server_binary()), "/root/store.conf", log=self.lab.folder / "store.log")

    def url(self, host: str, port: int = 8000) -> str:
        """Where a host answers."""
        return f"http://{self.lab.addresses[host]}:{port}"

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request from the operator's machine.

        Raises:
            httpx.TransportError: If nobody answers.
        """
        return self.lab.as_operator(lambda: httpx.request(method, url, timeout=10.0, **options))

    def is_closed(self, host: str, port: int = 8000) -> bool:
        """Say whether nobody listens on a port of a host."""
        try:
            self.request("GET", self.url(host, port))
        except httpx.ConnectError:
            return True
        except httpx.TransportError:
            return False
        return False


def _furnish(home: Path, compiled: Path) -> None:
    """Give a host what a newcomer's gets by `pip install`, without the network."""
    environment = home / "headrace" / ".venv"
    environment.mkdir(parents=True)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to((Path(sys.prefix) / name).resolve())
    shutil.copy(ROOT / "pyproject.toml", environment / "installed")
    # `headrace` of this environment is installed from another folder than the host's.
    (home / ".bashrc").write_text("export PYTHONPATH=$HOME/headrace\n")
    (home / "headrace" / "node").mkdir()
    (home / "headrace" / "node" / "compiled").symlink_to(compiled.resolve())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
