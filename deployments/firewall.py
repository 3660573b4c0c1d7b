"""What of a node others reach: Ray's and the replicas' ports are for the nodes alone.

    HEADRACE_PEERS='192.0.2.10 192.0.2.11' headrace node ─► firewall.nft ─► nft, as root

Ray guards its ports with its token, but those of its metrics, and the replicas' ask for a key; from elsewhere none of
them can be reached at all. Ports below 1024 (ssh) are left as they are. The rules are a table of their own: nothing
else is changed, and `nft delete table inet headrace` takes them away.
"""

import ipaddress
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from deployments.environment import FRONT_PORT
from deployments.errors import ConfigError

PEERS: Final = "HEADRACE_PEERS"
DASHBOARD_PORT: Final = 8265
OPEN_PORTS: Final = (FRONT_PORT, DASHBOARD_PORT)  # guarded by keys, and by Ray's token: `headrace deploy` comes here
FILE: Final = "firewall.nft"

_RULES: Final = """\
table inet headrace
delete table inet headrace
table inet headrace {{
    set peers4 {{ type ipv4_addr; flags interval; auto-merge; {v4}}}
    set peers6 {{ type ipv6_addr; flags interval; auto-merge; {v6}}}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname lo accept
        ct state established,related accept
        ip saddr @peers4 accept
        ip6 saddr @peers6 accept
        tcp dport {{ {open_ports} }} accept
        tcp dport 1024-65535 reject with tcp reset
        udp dport 1024-65535 drop
    }}
}}
"""


def firewall_rules(peers: str) -> str:
    """The rules, for `nft -f`.

    Args:
        peers: Addresses or networks of all nodes, and of whoever collects their metrics; spaces or commas between.
    Raises:
        ConfigError: Naming what is no address.
    """
    versions: dict[int, list[str]] = {4: [], 6: []}
    for word in peers.replace(",", " ").split():
        try:
            network = ipaddress.ip_network(word)
        except ValueError as error:
            raise ConfigError(f"{PEERS}: expected addresses or networks, got {word!r}: {error}") from None
        versions[network.version].append(str(network))
    v4, v6 = (f"elements = {{ {', '.join(found)} }} " if found else "" for found in versions.values())
    return _RULES.format(v4=v4, v6=v6, open_ports=", ".join(map(str, OPEN_PORTS)))


def find_nft() -> str | None:
    """Where the program is that sets rules, if it is installed."""
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def close_to_others(folder: Path, peers: str, nft: str | None) -> None:
    """Let only these reach this machine's high ports, but for the front door and the dashboard.

    Args:
        nft: See `find_nft`.
    Raises:
        ConfigError: If the rules cannot be set, and what to do.
    """
    file = folder / FILE
    file.write_text(firewall_rules(peers))
    if nft is None:
        raise ConfigError(f"{PEERS}: install nftables; or leave it empty, if the network lets nobody else in")
    command = [nft, "-f", str(file)] if os.geteuid() == 0 else ["sudo", "-n", nft, "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{PEERS}: {' '.join(command)}: {done.stderr.strip()}")
