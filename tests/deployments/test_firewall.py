"""Who reaches a node's ports: the rules, and what the kernel makes of them in a network of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deployments.errors import ConfigError
from deployments.firewall import close_to_others, firewall_rules

CAN_TRY = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")


def test_addresses_and_networks_of_both_kinds_are_let_in() -> None:
    rules = firewall_rules("192.0.2.10, 198.51.100.0/24 2001:db8::/64")
    assert "elements = { 192.0.2.10/32, 198.51.100.0/24 }" in rules and "elements = { 2001:db8::/64 }" in rules
    assert "tcp dport { 8000, 8265 } accept" in rules


@pytest.mark.parametrize("peers", ["192.0.2.300", "head", "192.0.2.1/8", "192.0.2.1; drop"])
def test_what_is_no_address_is_named(peers: str) -> None:
    with pytest.raises(ConfigError, match="HEADRACE_PEERS"):
        firewall_rules(peers)


@pytest.mark.skipif(not CAN_TRY, reason="needs root, unshare and nft")
@pytest.mark.parametrize("peers", ["192.0.2.10", "2001:db8::1", "192.0.2.0/24 192.0.2.1 2001:db8::/64"])
def test_the_kernel_takes_the_rules_again_and_again(tmp_path: Path, peers: str) -> None:
    (tmp_path / "rules").write_text(firewall_rules(peers))
    script = f"nft -f {tmp_path / 'rules'} && nft -f {tmp_path / 'rules'} && nft list tables"
    shown = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout.strip()) == (0, "table inet headrace"), shown.stderr


def test_without_nft_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="install nftables"):
        close_to_others(tmp_path, "192.0.2.10", None)
