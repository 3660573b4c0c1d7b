"""What an operator does on the lab's machines: edit `cluster.yaml`, `ray up`, `headrace deploy`, `ray down`.

The hosts are as fresh as those of a newcomer, but for what would need the network: the virtual environment is this one,
and loops are compiled once, for all hosts and the next run.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from deployments.environment import FRONT_PORT
from features.embedded import server_binary
from tests.cluster.lab import OPERATOR, ROOT, STORE, Lab
from tests.waiting import eventually

DOCUMENTED: Final = {"192.0.2.10": "h1", "192.0.2.11": "h2", "192.0.2.12": "h3"}
MOUNTED: Final = ("features", "learners", "deployments", "pyproject.toml", "README.md", "cluster.yaml")
BIN: Final = Path(sys.prefix) / "bin"
DASHBOARD_PORT: Final = 8265


def edited(text: str, addresses: dict[str, str]) -> str:
    """`cluster.yaml` as a newcomer edits it: addresses and the user; the key is where it says."""
    for documented, host in DOCUMENTED.items():
        text = text.replace(documented, addresses[host])
    return text.replace("ssh_user: ubuntu", "ssh_user: root")


class Operator:
    """The operator of a lab that is up.

    Args:
        shared: A folder that every host sees.
        compiled: Another one, where compiled loops are kept from run to run.
    """

    def __init__(self, lab: Lab, shared: Path, compiled: Path) -> None:
        self.lab = lab
        self.shared = shared
        self.checkout = lab.home(OPERATOR) / "checkout"
        self.password = "s3cret-of-the-store"
        self.api_key = ""
        """Opens everything; there is one from `start_store` on."""
        self._http = httpx.Client(timeout=10.0)
        for host in lab.hosts:
            _furnish(lab.home(host), compiled)
        self.checkout.mkdir()
        for name in MOUNTED:
            self.refresh(name)
        text = (ROOT / "cluster.yaml").read_text()
        (self.checkout / "cluster.yaml").write_text(edited(text, lab.addresses))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def refresh(self, name: str) -> None:
        """Bring a file or folder of the checkout to what it is here."""
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.checkout / name, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, self.checkout / name)

    def settings(self, toml: str) -> None:
        """Write the settings that `deploy_command` takes."""
        (self.checkout / "my.toml").write_text(toml)

    @property
    def head_url(self) -> str:
        """Where Ray's head answers."""
        return self.url("h1", DASHBOARD_PORT)

    def status(self) -> dict[str, Any]:
        """What `headrace status` tells, well or not."""
        shown = self.run(f"headrace status --address {self.head_url} --json 2> /dev/null || true")
        told: dict[str, Any] = msgspec.json.decode(shown)
        return told

    def is_well(self) -> bool:
        """Whether `headrace status` says that all is."""
        return self.run(f"headrace status --address {self.head_url} > /dev/null 2>&1 && echo well || true") != ""

    def model(self, host: str = "h1") -> dict[str, Any]:
        """What a host tells of the model."""
        told: dict[str, Any] = self.request("GET", self.url(host) + "/v1/model").json()
        return told

    @property
    def deploy_command(self) -> str:
        """Brings the operator's checkout and settings up on the cluster."""
        return f"headrace deploy --address {self.head_url} --config my.toml"

    def run(self, command: str, *, wait_s: float = 120.0) -> str:
        """Run a shell command in the operator's checkout; returns what it printed."""
        settings = f"PATH={BIN}:$PATH PYTHONPATH=$HOME/checkout RAY_AUTH_MODE=token RAY_UP_enable_autoscaler_v2=0"
        if self.api_key:
            store = f"redis://:{self.password}@{self.lab.addresses[STORE]}:6379/0"
            settings += f" HEADRACE_REDIS_URL={store} HEADRACE_API_KEY={self.api_key}"
        return self.lab.run(OPERATOR, "bash", "-c", f"export {settings}; cd ~/checkout; {command}", wait_s=wait_s)

    def make_key(self) -> None:
        """Have a key that opens everything, and a store to deploy on."""
        store = f"redis://:{self.password}@{self.lab.addresses[STORE]}:6379/0"
        made = f"HEADRACE_REDIS_URL={store} headrace keys add lab --scope admin 2> /dev/null"
        self.api_key = eventually(lambda: self.run(f"{made} || true").strip(), "a key")

    def start_store(self, port: int = 6379) -> None:
        """Start a store with a password, on a host of its own; it ends with the lab."""
        name = f"store-{port}"
        settings = [
            *(f"bind {self.lab.addresses[STORE]}", f"port {port}", f"requirepass {self.password}", f"dir /root/{name}"),
            *("appendonly yes", "appendfsync no", "save ''", "maxmemory-policy noeviction"),
        ]
        (self.lab.home(STORE) / name).mkdir()
        (self.lab.home(STORE) / f"{name}.conf").write_text("\n".join((*settings, "")))
        self.lab.start(STORE, str(server_binary()), f"/root/{name}.conf", log=self.lab.folder / f"{name}.log")

    def edit(self, old: str, new: str) -> None:
        """Change a piece of the checkout's `cluster.yaml` that is there once."""
        file = self.checkout / "cluster.yaml"
        before, after = file.read_text().split(old)
        file.write_text(f"{before}{new}{after}")

    def url(self, host: str, port: int = 8000) -> str:
        """Where a host answers."""
        return f"http://{self.lab.addresses[host]}:{port}"

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request from the operator's machine, to a front door with the key.

        Raises:
            httpx.TransportError: If nobody answers.
        """
        if self.api_key and httpx.URL(url).port == FRONT_PORT:
            options.setdefault("headers", self.shown)
        return self.lab.as_operator(lambda: self._http.request(method, url, **options))

    @property
    def shown(self) -> dict[str, str]:
        """The header that opens front doors."""
        return {"authorization": f"Bearer {self.api_key}"}

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
